"""The table of downloads: every corpus is in it, and its page in the manual says where it is got."""

import re
from pathlib import Path

import pytest

from mrm.corpora.catalogue import CORPORA
from mrm.corpora.downloads import Download, Source, open_download, table
from mrm.system.archive_files import is_archive
from mrm.system.errors import ConfigError, DownloadError, RecordError
from tests.support.commands import run_cli

MANUAL = Path(__file__).parents[2] / "docs" / "corpora"
OPEN = {name for name, known in table().items() if known.files}


def pages_about(name: str) -> str:
    """The pages of the manual that prepare a corpus."""
    texts = [page.read_text() for page in sorted(MANUAL.glob("*.md")) if page.name != "downloads.md"]
    return "\n".join(text for text in texts if re.search(rf"mrm prepare {name} ", text))


def test_every_corpus_is_in_the_table():
    assert set(table()) == set(CORPORA) - {"custom"}
    assert {"nih", "openi", "covid", "rocov2", "montgomery", "shenzhen", "chestx-det"} == OPEN


@pytest.mark.parametrize("name", sorted(set(CORPORA) - {"custom"}))
def test_the_page_of_a_corpus_says_where_to_get_it(name):
    known, text = table()[name], pages_about(name)
    assert known.page in text, name
    assert (f"mrm prepare {name} --download" in text) == bool(known.files), name
    row = f"| `{name}` | <{known.page}> | {known.licence} | {known.by_hand or '`--download`'} |"
    assert row in (MANUAL / "downloads.md").read_text().splitlines()


@pytest.mark.parametrize("name", sorted(set(CORPORA) - OPEN - {"custom"}))
def test_what_a_person_must_do_first_is_said_and_nothing_is_fetched(name, tmp_path, capsys):
    code, _, error = run_cli(capsys, "prepare", name, "--download", "--yes", "--source", str(tmp_path / "new"))
    assert (code, error.count("\n")) == (2, 1)
    assert (
        f"{name}: no script may download {CORPORA[name]}. {table()[name].by_hand}; download it at {table()[name].page}"
        in error
    )
    assert not (tmp_path / "new").exists()


def test_ones_own_description_has_no_download():
    for name in ("custom", "mine.yaml"):
        with pytest.raises(DownloadError, match="no download is known of it"):
            open_download(name)
    with pytest.raises(RecordError, match="unknown corpus 'nihh'"):
        open_download("nihh")


def test_every_file_has_an_address_and_what_is_known_of_it_is_well_formed():
    for name in OPEN:
        known = table()[name]
        assert known.licence, name
        for file in known.files:
            assert file.urls or known.record, file.name
            assert all(url.startswith("https://") or file.sha256 for url in file.urls), (
                file.name
            )  # or it could be changed on the way
            assert not file.unpack or is_archive(file.name), file.name
            assert re.fullmatch(r"([0-9a-f]{32})?", file.md5), file.name
            assert re.fullmatch(r"([0-9a-f]{64})?", file.sha256), file.name
    archives = [file for file in table()["nih"].files if file.unpack]
    assert len(archives) == 12
    assert (
        sum(file.bytes for file in archives) == 45_079_862_784
    )  # added up by hand; the publisher says 42 GB, of 2**30 bytes
    assert all(file.md5 for file in archives)


def test_a_table_that_says_both_or_neither_is_refused():
    for entry in ({}, {"files": (Source("a"),), "by_hand": "Sign"}):
        with pytest.raises(ConfigError, match="give either files or by_hand"):
            Download("https://a.org", "free", **entry)
    with pytest.raises(ConfigError, match=r"a\.csv: is no archive"):
        Source("a.csv", unpack=".")
