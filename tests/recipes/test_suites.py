"""The suites as data: read and checked, the published numbers with their sources, and what docs say of them."""

import re
from pathlib import Path

import pytest

from mrm.recipes import finetune_recipes, splits, suites
from mrm.system.errors import ConfigError
from tests.support.paths import ROOT


def entries() -> dict[tuple[str, str], suites.Entry]:
    return {(name, entry.name): entry for name in suites.SUITES for entry in suites.find(name).entries}


def test_the_suites_of_the_paper_have_its_numbers():
    paper = ("nih", "chexpert", "rsna", "covid", "siim", "phantom")
    table = {e.name: e.published for name in paper for e in suites.find(name).entries if e.of}
    assert table == {
        **{"nih-1": 0.794, "nih-10": 0.840, "nih-100": 0.859, "chexpert-1": 0.885, "chexpert-10": 0.885},
        **{
            "chexpert-100": 0.887,
            "rsna-1": 0.913,
            "rsna-10": 0.927,
            "rsna-100": 0.933,
            "siim-10": 0.732,
            "siim-100": 0.914,
        },
    }


def test_the_numbers_of_the_paper_are_those_that_its_recipes_expect():
    for corpus in ("nih", "chexpert", "rsna"):
        for entry in suites.find(corpus).entries:
            assert entry.numbers == {"MRM": finetune_recipes.PUBLISHED[entry.recipe].auroc}
    (lora,) = [e for e in suites.find("mrm-peft").entries if e.numbers]
    assert lora.numbers == {"LoRA": finetune_recipes.LORA_AUROC["nih-1"]}


def test_single_numbers_of_later_work_are_as_printed():
    """From tables 1 to 3 of BenchX, and the repositories of Medical MAE and EVA-X."""
    found = entries()
    assert found["benchx", "nih-1"].numbers["MGCA-ViT"] == 78.2
    assert found["benchx", "vindr-100"].numbers["MedCLIP-ViT"] == 88.7
    assert found["benchx", "siim-10"].numbers["M-FLAG"] == 61.8
    assert found["benchx", "rsna-100"].numbers["REFERS"] == 67.2
    assert found["benchx", "covidx-cxr4-1"].numbers["MedCLIP-R50"] == 68.5
    assert found["benchx", "tbx11k-masks"].numbers == {
        **{
            "MRM": 87.85,
            "ConVIRT": 84.98,
            "GLoRIA": 83.17,
            "MedCLIP-R50": 85.52,
            "MedCLIP-ViT": 85.62,
            "MedKLIP": 87.06,
        },
        **{"M-FLAG": 79.12, "MGCA-R50": 87.05, "MGCA-ViT": 86.89, "PTUnifier": 85.78, "REFERS": 86.39},
    }
    assert [found["benchx", f"{set}-{share}"].numbers["MRM"] for set in ("nih", "rsna") for share in (1, 10, 100)] == [
        *(80.1, 83.5, 85.3),
        *(62.6, 66.6, 66.5),
    ]
    assert found["medical-mae", "nih"].published == 0.83
    assert found["eva-x", "nih"].numbers == {"EVA-X-B": 83.5, "EVA-X-S": 83.3, "EVA-X-Ti": 82.4}


def test_every_number_has_its_source_its_place_and_its_split():
    for (name, _), entry in entries().items():
        if entry.numbers:
            assert entry.where
            assert re.search(r"arXiv:\d{4}\.\d{5}|doi:", suites.find(name).source)
            assert entry.kind == "cited" or entry.split in splits.known()
            assert all(0 < number <= 100 for number in entry.numbers.values())


def test_benchx_has_its_nine_sets():
    of = {re.sub(r"-(1|10|100|masks|reports|retrieval)$", "", entry.name) for entry in suites.find("benchx").entries}
    assert of == {"nih", "vindr", "covidx-cxr4", "rsna", "siim", "object-cxr", "tbx11k", "iu-xray", "mimic-5x200"}


def test_validation_and_test_are_never_one_set():
    for entry in entries().values():
        if entry.kind == "finetune":
            assert len({entry.train, entry.val, entry.test}) == 3


# Bad tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("recipe: nih-1,", "recipe: nih-2,"), "nih-1: unknown recipe 'nih-2'"),
        (("split: nih-mrm", "split: nih"), "nih-1: unknown split 'nih'"),
        (("of: MRM, numbers: {MRM: 79.4}", "of: MRM, numbers: {MAE: 79.4}"), "nih-1: MRM has no number"),
        (("where: main results", "where: ''"), "needs its split, its place in the source, and a source"),
        (("metric", "metrics"), "unknown setting 'metrics'"),
        (("val: val", "val: val, reason: why"), "a cited entry needs a reason, and another one has none"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_entry(tmp_path, monkeypatch, change, problem):
    text = (splits.TABLES / "nih.yaml").read_text().replace("findings: 14", "findings: 14, metric: auroc", 1)
    assert change[0] in text
    (tmp_path / "nih.yaml").write_text(text.replace(*change, 1))
    monkeypatch.setattr(splits, "TABLES", tmp_path)
    with pytest.raises(ConfigError, match=f"nih.yaml: .*{re.escape(problem)}"):
        suites.find.__wrapped__("nih")


def test_an_unknown_suite_is_answered_with_those_that_there_are():
    with pytest.raises(ConfigError, match="unknown suite 'benchy'; choose from nih, chexpert"):
        suites.find("benchy")


# The manual -------------------------------------------------------------------------------------------


def rows_of_manual(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading of docs/comparable.md, without its head."""
    text = (Path(ROOT) / "docs" / "comparable.md").read_text().partition(f"## {heading}\n")[2]
    lines = text[text.index("|") :].split("\n\n")[0].splitlines()
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_manual_has_every_split_with_its_count_and_the_entries_on_it():
    expected = []
    for name, split in splits.known().items():
        on = {}
        for (suite, entry), one in entries().items():
            if one.split == name:
                on.setdefault(suite, []).append(entry)
        told = {True: "its names", False: "count and form"}[bool(split.digest)]
        if split.unsettled or split.images is None:
            told = "nothing: never comparable"
        shown = "; ".join(f"{suite}: {', '.join(names)}" for suite, names in on.items())
        expected.append(
            [name, split.corpus, f"{split.images:,}" if split.images else "not stated here", split.about, told, shown]
        )
    assert rows_of_manual("Splits, and the entries on them") == expected


def test_the_manual_says_of_each_pair_of_entries_with_numbers_on_one_split_that_they_are_comparable():
    groups = {}
    for (suite, name), entry in entries().items():
        if entry.of and not splits.known().get(entry.split, splits.Split("", "", unsettled="cited")).unsettled:
            groups.setdefault((entry.split, entry.metric), []).append(f"{suite}/{name}")
    shared = [
        [split, metric, ", ".join(names)]
        for (split, metric), names in groups.items()
        if len({n.split("/")[0] for n in names}) > 1
    ]
    assert rows_of_manual("Numbers of different papers on one split") == shared


def test_the_manual_says_why_an_entry_is_not_run():
    cited = [[f"{suite}/{name}", entry.reason] for (suite, name), entry in entries().items() if entry.kind == "cited"]
    assert rows_of_manual("Published, but not run here") == cited
