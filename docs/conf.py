"""Sphinx configuration: Markdown through MyST, the Furo theme."""

project = "mrm"
author = "The mrm authors"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
