"""Addresses of archives: what they name, and what is refused in words that repeat no password."""

from pathlib import Path

import pytest

from mrm.data.archive_address import is_archive, parse
from mrm.system.errors import ArchiveError


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("dicomweb://pacs.example/dicom-web", "https://pacs.example/dicom-web"),
        ("dicomweb://pacs.example:8443/a/b/rs/", "https://pacs.example:8443/a/b/rs"),
        ("dicomweb://127.0.0.1:8042/dicom-web", "http://127.0.0.1:8042/dicom-web"),
        ("dicomweb://localhost/x", "http://localhost/x"),
        ("dicomweb+https://localhost/x", "https://localhost/x"),
        ("dicomweb+http://pacs.example/x", "http://pacs.example/x"),
        ("dicomweb://[::1]:8042/x", "http://[::1]:8042/x"),
    ],
)
def test_https_is_the_default_and_http_for_this_machine_or_where_it_is_asked_for(given, url):
    assert parse(given).url == url
    assert parse(Path(given)).url == url, "a Path turns two slashes into one"
    assert is_archive(given)


def test_a_study_a_series_and_an_instance_are_below_the_service():
    place = parse("dicomweb://h/rs/studies/1.2/series/3.4/instances/5.6")
    assert (place.url, place.study, place.series, place.instance) == ("https://h/rs", "1.2", "3.4", "5.6")
    assert str(place) == "dicomweb://h/rs/studies/1.2/series/3.4/instances/5.6"
    assert parse("dicomweb://h/rs/studies/1.2/").study == "1.2"
    assert parse("dicomweb://h/studies-of-2020/rs").url == "https://h/studies-of-2020/rs"


def test_filters_are_read_and_not_shown():
    place = parse("dicomweb://h/rs?StudyDate=20240101-20240131&Modality=CR,DX&PatientName=Secret%5EName")
    assert place.filters_of(["StudyDate", "Modality"]) == {"StudyDate": "20240101-20240131", "Modality": "CR,DX"}
    assert "Secret" not in str(place)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("dicomweb://user:secret@h/rs", "must not contain a password"),
        ("dicomweb://h/rs?Colour=red", "unknown filter 'Colour' of an archive; choose from StudyDate, "),
        ("dicomweb://h/rs?Modality=", "the filter Modality of an archive has no value"),
        ("dicomweb://h/rs?Modality=CR&Modality=DX", "named twice; separate several values by commas"),
        ("dicomweb://h:port/rs", "is no address"),
        ("dicomweb://h/rs#x", "is no address"),
        ("dicomweb://h/rs/studies/..%2F", "is no DICOM identifier"),
        ("dicomweb", "expected an address such as"),
    ],
)
def test_what_is_no_address_is_refused_with_what_to_do(given, said):
    with pytest.raises(ArchiveError, match=said) as error:
        parse(given)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("path", ["images/a.dcm", "s3://bucket/a", "dicomweb/a.dcm", "http://h/x", "dicomweb:"])
def test_paths_are_no_addresses(path):
    assert not is_archive(path)
