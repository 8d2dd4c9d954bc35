"""Output folders: made, resumed with the same settings, refused otherwise."""

from pathlib import Path

import pytest

from mrm.system import output_folder
from mrm.system.errors import ConfigError, OutputError
from mrm.system.output_folder import Settings, json_settings, make_folder, open_folder, writing


def probe(**settings) -> Settings:
    return json_settings("probe", "probing.json", settings, may_change=("workers",))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("place", ["", "new/out"])
def test_a_new_or_empty_folder_is_opened_and_records_the_settings(tmp_path, place):
    assert not open_folder(tmp_path / place, probe(seed=1, init=Path("a/b"), share=float("nan")))
    text = (tmp_path / place / "probing.json").read_text()
    assert text == '{\n  "seed": 1,\n  "init": "a/b",\n  "share": null\n}\n'


def test_the_same_settings_resume_and_some_may_change(tmp_path):
    open_folder(tmp_path, probe(seed=1, classes=("a", "b"), workers=2))
    (tmp_path / "results.csv").write_text("a")
    assert open_folder(tmp_path, probe(seed=1, classes=["a", "b"], workers=8))
    assert '"workers": 2' in (tmp_path / "probing.json").read_text()  # the record of the first command stays


def test_a_record_can_follow_the_latest_command(tmp_path):
    for seeds in ([1], [1, 2]):
        open_folder(
            tmp_path, json_settings("suite", "suite.json", {"seeds": seeds}, may_change=("seeds",), update=True)
        )
    assert "2" in (tmp_path / "suite.json").read_text()


def test_other_settings_are_refused_and_named(tmp_path):
    open_folder(tmp_path, probe(seed=1, sets={"train": "x"}, gone=True))
    before = (tmp_path / "probing.json").read_bytes()
    message = (
        "holds another probe (seed: 1, now 2; different sets; gone: True, now None; new: None, now 3); choose another"
    )
    with pytest.raises(OutputError) as error:
        open_folder(tmp_path, probe(seed=2, sets={"train": "y"}, new=3))
    assert message in str(error.value)
    assert (tmp_path / "probing.json").read_bytes() == before


def test_a_folder_with_anything_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        OutputError, match=r"is not empty and holds no probe \(no probing\.json\); choose another --out"
    ):
        open_folder(tmp_path, probe(seed=1))
    with pytest.raises(OutputError, match=r"notes\.txt: is a file, but a folder is needed"):
        open_folder(tmp_path / "notes.txt", probe(seed=1))
    with pytest.raises(OutputError, match=r"notes\.txt/out: cannot be written \(Not a directory\)"):
        make_folder(tmp_path / "notes.txt" / "out")
    assert names(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("content", ["{", "[1, 2]", '"text"'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "probing.json").write_text(content)
    with pytest.raises(OutputError, match=r"probing\.json: damaged .*; choose another --out, or remove the folder"):
        open_folder(tmp_path, probe(seed=1))


def test_what_is_wrong_with_a_configuration_is_said_in_its_own_words(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: x")

    def changes(earlier):
        raise ConfigError("config.yaml: seed must be a number")

    with pytest.raises(ConfigError, match="seed must be a number"):
        open_folder(tmp_path, Settings("run", "config.yaml", "seed: 1", changes))


def test_an_error_of_writing_says_where_and_what_to_do(tmp_path):
    message = r"out: cannot be written \(No space left on device\).* choose another --out"
    with pytest.raises(OutputError, match=message), writing(tmp_path / "out"):
        raise OSError(28, "No space left on device")


def test_a_long_setting_is_not_shown(tmp_path):
    open_folder(tmp_path, probe(text="a" * 100))
    with pytest.raises(OutputError, match=r"\(different text\)"):
        open_folder(tmp_path, probe(text="b" * 100))
    assert output_folder.LONGEST < 100


def test_a_message_names_the_first_of_many_differences(tmp_path):
    open_folder(tmp_path, probe(**{f"s{i}": 1 for i in range(20)}))
    with pytest.raises(OutputError, match=r"\(s0: 1, now 2; .*; s11: 1, now 2; and 8 more\)"):
        open_folder(tmp_path, probe(**{f"s{i}": 2 for i in range(20)}))
