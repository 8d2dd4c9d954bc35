"""The benchmark of a hospital's table and archive, in small: real headers, all rows but the damaged ones, no second reading."""

from benchmarks import hospital_join
from mrm.data.header_index import read_header


def test_a_second_start_reads_nothing_and_finds_the_same(tmp_path):
    hospital_join.write_archive(tmp_path / "archive", 210)
    hospital_join.write_table(tmp_path / "ris.csv", 210)
    first, second = (hospital_join.join(tmp_path, 1) for _ in range(2))
    assert (first["headers read"], second["headers read"]) == (420, 0)
    damaged = {n for n in range(210) if n % 100 == 0 or n % 200 == 1}
    assert first["records"] == second["records"] == 2 * (210 - len(damaged))
    assert first["rows and images left out"] == second["rows and images left out"] == 3 * len(damaged)


def test_every_file_has_its_own_header(tmp_path):
    hospital_join.write_archive(tmp_path, 4)
    headers = [read_header(file) for file in sorted(tmp_path.rglob("IM*"))]
    for name in ("image_uid", "series_uid"):
        assert len({header[name] for header in headers}) == 8
    assert len({(header["study_uid"], header["accession"]) for header in headers}) == 4
    assert sorted(header["view"] for header in headers) == ["LL"] * 4 + ["PA"] * 4
    assert {header["patient_id"] for header in headers} == {"Q000000000", "Q000000001"}
