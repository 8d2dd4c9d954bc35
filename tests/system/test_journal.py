"""Results saved as they arrive: they come back whole, whatever interrupted the work."""

from mrm.system.journal import Journal, file_state
from mrm.system.shares import Share


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


def test_shares_add_to_files_of_their_own_and_know_the_results_of_all(tmp_path):
    path = tmp_path / "journal.jsonl"
    for number, value in ((1, "a"), (2, "b")):
        with Journal(path, Share(number, 2)) as journal:
            journal.add(value, number)
    with Journal(path) as journal:
        journal.add("c", 3)
    (tmp_path / "journal.jsonl.2-of-2").open("a").write('["half')  # another share is just writing
    assert Journal(path, Share(2, 2)).known == Journal(path, Share(1, 3)).known == {"a": 1, "b": 2, "c": 3}
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "journal.jsonl",
        "journal.jsonl.1-of-2",
        "journal.jsonl.2-of-2",
    ]
    Journal(path, Share(1, 2)).forget()
    assert list(tmp_path.iterdir()) == []
