"""Finding files: the ready ones, files of one's own, and what is wrong in a file, with its line."""

import time

import pytest

from mrm.data import finding_rules
from mrm.data.finding_rules import path_of, read_finding_file, read_rules, ready
from mrm.inference.zero_shot import read_findings
from mrm.system.errors import ConfigError

CHEXPERT = [
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]


def written(tmp_path, text):
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["english", "german"])
def test_the_ready_files_have_the_fourteen_findings_of_chexpert_and_sentences_for_each(name):
    rules = read_rules(name)
    assert sorted(rules.classes) == sorted(CHEXPERT)
    assert all(rules.words[finding].patterns for finding in rules.file.findings)
    assert set(read_findings(name).findings) == set(CHEXPERT) - {"No Finding"}
    assert path_of(name).is_file()
    assert name in ready()


def test_patterns_are_compared_with_whole_words_without_case_and_with_any_blanks(tmp_path):
    rules = read_rules(
        written(tmp_path, "findings:\n  effusion:\n    words: ['pleural  effusions?', 'effusion, left']")
    )
    spans = rules.words["effusion"].spans
    assert spans("A Pleural effusion.") == [(2, 18)]
    assert spans("pleural effusionary") == spans("apleural effusion") == []
    assert spans("pleural effusions, effusion, left.") == [(0, 17), (19, 33)]


def test_an_umlaut_begins_and_ends_a_word(tmp_path):
    spans = read_rules(written(tmp_path, "findings:\n  f:\n    words: [ödem, ergü]")).words["f"].spans
    assert spans("Kein Ödem.") == [(5, 9)]
    assert spans("ergüsse") == spans("lungenödem") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "findings:\n  a:\n    words: [b]\n  effusion:\n    normal: [sharp]",
            r"line 4: the finding effusion has no patterns",
        ),
        (
            "findings:\n  a:\n    words:\n      - b\n      - pleural (fluid",
            r"line 5: 'pleural \(fluid' is not a regular exp",
        ),
        (
            "findings:\n  a: {words: [b]}\ndenied:\n  after:\n    - 'seen[\n      '",
            r"line 5: 'seen\[ ' is not a regular",
        ),
        ("findings:\n  a:\n    words: [b, 'c*']", r"line 3: the pattern 'c\*' matches nothing at all"),
        ("findings:\n  a:\n    words: ['']", r"line 3: the pattern '' matches nothing at all"),
        ("findings:\n  a: {words: [b]}\ndenied:\n  before: [no, without]", r"found False in it; put it in quotes"),
        ("findings:\n  a: {words: effusion}", r"expected a list, found 'effusion'"),
        ("findings:\n  a: {words: [b], word: [c]}", r"unknown setting 'word'; did you mean words\?"),
        ("findings:\n  a: {words: [b]}\nno_finding: {besides: [c]}", r"besides names c, which is no finding"),
        ("findings:\n  a: {words: [b]}\nno_finding: {name: a}", r"a is the name of a finding too"),
        ("findings: {}", r"no finding is stated"),
        ("denied: {before: [x]}", r"required field missing @ \$\.findings"),
        ("findings:\n  a: {words: [b: c]}", r"expected a list of texts, found \{'b': 'c'\}"),
        ("findings:\n  a: {words: [b]\n", r"line 3: is not YAML \(expected ',' or '}', but got"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read_rules(written(tmp_path, text))
    assert str(raised.value).startswith(str(tmp_path / "own.yaml"))


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="stands for more than 100,000 values"):
        read_rules(written(tmp_path, "\n".join([*lines, "findings: *a11"])))


def test_a_pattern_that_would_run_for_years_is_named_with_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(finding_rules, "SECONDS", 0.1)
    rules = read_rules(written(tmp_path, "findings:\n  a:\n    words:\n      - b\n      - (x|xx)+[yz]"))
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"own.yaml: line 5: the pattern '\(x\|xx\)\+\[yz\]' takes more than 0.1 s"):
        rules.words["a"].spans("x" * 60 + " x")
    assert time.monotonic() - start < 60


def test_unknown_names_and_files_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="unknown finding file 'french'; choose from english, german, or give a YAML file"
    ):
        read_finding_file("french")
    with pytest.raises(ConfigError, match="no such file"):
        read_finding_file(tmp_path / "none.yaml")
    (tmp_path / "utf16.yaml").write_bytes("findings: {}".encode("utf-16"))
    with pytest.raises(ConfigError, match="is not a text file in UTF-8"):
        read_rules(tmp_path / "utf16.yaml")
