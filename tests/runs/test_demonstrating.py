"""The demo from end to end, small."""

import pytest

from mrm.data.records import Records
from mrm.runs import demonstrating


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstrating, "COUNTS", {"pretrain": 48, "train": 40, "val": 24, "test": 40})
        patch.setattr(demonstrating, "EPOCHS", 2)
        patch.setattr(demonstrating, "STEPS", 4)
        folder = tmp_path_factory.mktemp("demo")
        demonstrating.demo(folder)
        return folder


def test_the_page_shows_every_part(out):
    page = (out / "index.html").read_text()
    for words in ("random encoder", "pre-trained encoder", "Peak memory", "nats", "not for clinical use"):
        assert words in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_no_patient_is_in_two_sets(out):
    sets = [set(Records.load(out / "phantoms" / name / "records.csv").patients) for name in demonstrating.COUNTS]
    assert sum(map(len, sets)) == len(set.union(*sets))


def test_both_encoders_had_the_same_settings_but_for_the_layer_decay(out):
    a, b = ((out / name / "config.yaml").read_text().splitlines() for name in ("finetuned", "scratch"))
    assert {line.split(":")[0].strip() for line in set(a) ^ set(b)} == {"out", "scratch", "layer_decay"}
