"""Results saved as they arrive: they come back whole, whatever interrupted the work."""

from mrm.system.journal import Journal, file_state


def test_results_come_back_as_they_were(tmp_path):
    with Journal(tmp_path / "new" / "kept.jsonl") as journal:
        journal.add("a", {"x": [1, 2.5, None]})
        journal.add("b", "ä\n")
        journal.add("a", 2)  # the last word counts
    assert Journal(tmp_path / "new" / "kept.jsonl").known == {"a": 2, "b": "ä\n"}


def test_a_result_is_on_disk_as_soon_as_it_is_there(tmp_path):
    """A process that is killed closes no file."""
    with Journal(tmp_path / "kept.jsonl") as journal:
        journal.add("a", 1)
        assert Journal(tmp_path / "kept.jsonl").known == {"a": 1}


def test_a_line_that_was_cut_is_done_again_and_spoils_no_other(tmp_path):
    file = tmp_path / "kept.jsonl"
    with Journal(file) as journal:
        journal.add("a", 1)
        journal.add("b", "long")
    file.write_bytes(file.read_bytes()[:-4])
    with Journal(file) as journal:
        assert journal.known == {"a": 1}
        journal.add("b", 2)
    assert Journal(file).known == {"a": 1, "b": 2}


def test_what_is_complete_is_forgotten(tmp_path):
    with Journal(tmp_path / "kept.jsonl") as journal:
        journal.add("a", 1)
    journal.forget()
    journal.forget()
    assert list(tmp_path.iterdir()) == []
    assert Journal(tmp_path / "kept.jsonl").known == {}


def test_a_file_that_has_changed_is_another(tmp_path):
    file = tmp_path / "a.png"
    gone = file_state(file)
    file.write_bytes(b"1")
    first = file_state(file)
    file.write_bytes(b"22")
    assert len({gone, first, file_state(file)}) == 3
