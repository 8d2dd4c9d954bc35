"""Tables for the terminal."""

from mrm.system.text_table import WIDTH, estimate_cells, text_table


def test_names_stand_left_and_numbers_right():
    table = text_table(("finding", "AUROC", "n"), [["effusion", "0.812", "1,204"], ["mass", "0.7", "9"]])
    assert table.splitlines() == ["finding   AUROC      n", "effusion  0.812  1,204", "mass        0.7      9"]


def test_a_wide_table_cuts_its_names_and_never_its_numbers():
    rows = [["a class with a long name" * 5, "a measure with a name", "0.123", "0.100 to 0.200"]]
    lines = text_table(("class", "measure", "value", "95 % interval"), rows, text_columns=2).splitlines()
    assert [len(line) for line in lines] == [WIDTH, WIDTH]
    assert lines[1].endswith("a measure with a name  0.123  0.100 to 0.200")
    assert lines[1].split("  ")[0].endswith("...")


def test_numbers_that_are_too_wide_stay_whole():
    rows = [["name", *["0.123 to 0.456"] * 8]]
    lines = text_table(("x", *"abcdefgh"), rows).splitlines()
    assert lines[1].count("0.123 to 0.456") == 8


def test_what_is_undefined_says_why():
    estimate = {"value": 0.8123, "low": 0.75, "high": None, "n": 1204, "positives": 94, "note": ""}
    assert estimate_cells({**estimate, "high": 0.86}) == ["0.812", "0.750 to 0.860", "1,204", "94"]
    assert estimate_cells({**estimate, "low": None}) == ["0.812", "no interval", "1,204", "94"]
    undefined = {**estimate, "value": None, "low": None, "positives": None, "note": "only negatives"}
    assert estimate_cells(undefined) == ["undefined", "only negatives", "1,204", ""]
