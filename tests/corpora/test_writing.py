"""The tables of a prepared corpus: sets are parts of the same records."""

from mrm.corpora.writing import write_tables
from mrm.data.records import Record, Records


def test_tables_that_share_records_are_those_written_one_by_one(tmp_path):
    every = Records(
        [
            Record(tmp_path / "1.png", "=1+1\r", "p1", labels=(1.0, float("nan")), extra={"sex": "F"}),
            Record(tmp_path / "2.png", "clear", "p2", labels=(0.0, -1.0), extra={"sex": "M", "age": "7"}),
            Record(tmp_path / "3.png", "clear", "p3", labels=(0.25, 1.0)),
        ],
        ("edema", "mass"),
        kind="numbers",
    )
    sets = {
        "records": every,
        "train": every.select([1, 0]),
        "val": every.select([2]),  # its records have no column for sex and age
        "one": every.with_labels(every.labels_NC[:, 1:], ("mass",)),
        "below/train": every.select([1, 0]),  # images are named from another folder
    }
    (tmp_path / "alone" / "below").mkdir(parents=True)
    write_tables({tmp_path / "together" / name: records for name, records in sets.items()})
    for name, records in sets.items():
        alone, together = tmp_path / "alone" / name, tmp_path / "together" / name
        for written in (records.to_csv(f"{alone}.csv"), records.to_parquet(f"{alone}.parquet")):
            assert written.read_bytes() == together.with_name(written.name).read_bytes(), written
    assert (tmp_path / "together" / "val.csv").read_text() == (
        f"image_path,report_content,patient_id,study_id,view,edema,mass\n{tmp_path}/3.png,clear,p3,,,0.25,1\n"
    )
