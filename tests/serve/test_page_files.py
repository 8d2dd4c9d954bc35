"""The files of the page: all are served, under paths that need no token, and nothing else is loaded."""

import re

from mrm.serve import page_files
from mrm.serve.middleware import PUBLIC_PATHS


def test_every_file_of_the_folder_is_served_without_a_token():
    assert {path.name for path in page_files.FOLDER.iterdir()} == set(page_files.NAMES.values())
    assert set(page_files.page_files()) == set(page_files.PATHS) <= PUBLIC_PATHS


def test_modules_import_modules_of_the_page_alone():
    for path, (text, _) in page_files.page_files().items():
        if path.endswith(".js"):
            names = re.findall(r'(?:from|import) "([^"]+)"', text)
            assert {f"/{name.removeprefix('./')}" for name in names} <= set(page_files.PATHS), path


def test_the_policy_of_the_page_leaves_no_style_or_script_in_its_html():
    html = page_files.page_files()["/"][0]
    assert re.findall(r"<[^>]+\s(?:style|on\w+)=|<style|<script(?![^>]*src=)", html) == []
    assert set(re.findall(r'(?:src|href)="([^"]+)"', html)) <= {*page_files.PATHS, "data:,"}
