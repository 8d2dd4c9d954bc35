"""Sphinx configuration: Markdown through MyST, the Furo theme; two pages are written from what `mrm` prints."""

import contextlib
import io
import os
import re

project = "mrm"
author = "The mrm authors"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3

TRAINING = {"pretrain": "mimic", "finetune": "nih-1", "segment": "siim-100"}  # their options depend on the recipe


def printed(*words):
    """What `mrm` prints for these words."""
    from mrm.cli import main

    os.environ["COLUMNS"] = "100"
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(words)
    return out.getvalue().rstrip()


def section(title, *words):
    """A heading, and below it what `mrm` prints for these words."""
    return f"\n## {title}\n\n```text\n{printed(*words)}\n```\n"


def add_what_mrm_prints(app, docname, source):
    """Append the help of every command, or every recipe, to the page of that name."""
    if docname == "commands":
        for name in re.findall(r"^ +mrm ([a-z-]+(?: [a-z-]+)?) ", printed("--help"), re.MULTILINE):
            recipe = TRAINING.get(name)
            source[0] += section(f"mrm {name}", *name.split(), *([recipe] if recipe else []), "--help")
    elif docname == "recipes":
        source[0] += section("All recipes", "recipes") + section(
            "The published pre-training in full", "recipes", "mimic"
        )


def setup(app):
    """Register the hook."""
    app.connect("source-read", add_what_mrm_prints)
