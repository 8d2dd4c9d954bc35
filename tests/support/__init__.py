"""What several test files need: configurations, files, models, and ways to start and read a run."""
