"""Public corpora: one short file each, from the official release to `Records`."""
