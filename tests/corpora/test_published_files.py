"""Files as they were published, through the descriptions of their corpora; what comes out is counted another way."""

import csv
import gzip
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from mrm.corpora import described, description, prepare
from mrm.corpora.contract import Options
from tests.support.corpora.official import published_rows, read_with_images
from tests.support.run_files import table


@pytest.mark.slow
def test_the_readers_of_the_vinbigdata_table_are_counted_as_three_votes_an_image(shared_data, tmp_path):
    file = shared_data / "official/vinbigdata-train.csv.gz"
    (tmp_path / "train.csv.gz").write_bytes(file.read_bytes())
    rows = published_rows(file)
    votes, boxes = defaultdict(set), 0
    for row in rows:
        boxes += row["class_name"] != "No finding"
        votes[row["image_id"], row["class_name"]].add(row["rad_id"])
    images = sorted({row["image_id"] for row in rows})
    release = read_with_images("vinbigdata", tmp_path, [f"train/{name}.dicom" for name in images])
    expected = Counter(name for (_, name), readers in votes.items() if len(readers) >= 2 and name != "No finding")
    found = dict(zip(release.records.classes, release.records.labels_NC.sum(axis=0).astype(int).tolist(), strict=True))
    assert found == {c: expected[c] for c in release.records.classes}
    assert len(release.records) == release.expected["images"] == 15_000
    assert release.counts["rows"] == release.expected["rows"] == len(rows) == 67_914
    assert sum(map(len, release.boxes.values())) == release.expected["boxes"] == boxes == 36_096
    assert {b.reader for own in release.boxes.values() for b in own} <= {f"R{n}" for n in range(1, 18)}


@pytest.mark.slow
def test_the_published_boxes_of_nih_lie_on_their_images_under_the_names_of_the_labels(shared_data, tmp_path):
    for name in ("Data_Entry_2017_v2020.csv.gz", "BBox_List_2017.csv.gz"):
        (tmp_path / name).write_bytes((shared_data / "official" / name).read_bytes())
    with gzip.open(shared_data / "official/BBox_List_2017.csv.gz", "rt") as lines:
        rows = [line.split(",") for line in lines.read().splitlines()[1:]]
    labelled = [
        row
        for row in published_rows(tmp_path / "Data_Entry_2017_v2020.csv.gz")
        if row["Image Index"] in {r[0] for r in rows}
    ]
    (tmp_path / "Data_Entry_2017_v2020.csv.gz").unlink()
    with (tmp_path / "Data_Entry_2017_v2020.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, labelled[0])
        writer.writeheader()
        writer.writerows(labelled)
    release = read_with_images("nih", tmp_path, [row["Image Index"] for row in labelled])
    boxes = [box for own in release.boxes.values() for box in own]
    assert len(rows) == len(boxes) == 984
    assert len(release.boxes) == 880
    assert Counter(b.name for b in boxes) == Counter(r[1].replace("Infiltrate", "Infiltration") for r in rows)
    first = release.boxes["00013118_008.png"][0]
    assert [round(side, 3) for side in (first.x, first.y, first.width, first.height)] == [
        225.085,
        547.019,
        86.780,
        79.186,
    ]
    assert all(b.x >= 0 and b.x + b.width <= 1025 and b.y >= 0 and b.y + b.height <= 1025 for b in boxes)


def test_three_images_of_tbx11k_with_their_annotations(shared_data, tmp_path):
    corpus = prepare(
        "tbx11k", shared_data / "tbx11k", tmp_path / "out", Options(val=0, test=0, fractions=(), workers=1)
    )
    labels = {Path(r.name).name: r.labels for r in corpus.records}
    assert labels == {"tb0005.png": (1, 0, 1, 0, 0), "tb0007.png": (1, 0, 0, 1, 0), "h0001.png": (0, 0, 0, 0, 0)}
    lines = (tmp_path / "out/boxes.csv").read_text().splitlines()
    assert [line.rpartition("/")[2] for line in lines[1:]] == [
        "tb0005.png,ActiveTuberculosis,381.83,126.87,40.24,44.57,,",
        "tb0007.png,ObsoletePulmonaryTuberculosis,307.31,62.05,135.5,146.61,,",
        "tb0007.png,ObsoletePulmonaryTuberculosis,144.12,52.93,126.18,116.23,,",
    ]


def test_the_shenzhen_images_have_the_labels_and_masks_that_others_read_from_them(shared_data, tmp_path):
    """Names and masks are the publisher's; sex, age and labels of `records.csv` were read by another program."""
    (tmp_path / "CXR_png").symlink_to(shared_data / "tuberculosis/images")
    (tmp_path / "masks").symlink_to(shared_data / "tuberculosis/masks")
    release = described.read(description.load("shenzhen"), tmp_path, Options())
    rows = {Path(row["image_path"]).name: row for row in table(shared_data / "tuberculosis/records.csv")}
    assert {Path(r.name).name: r.labels[0] for r in release.records} == {
        n: float(row["tuberculosis"]) for n, row in rows.items()
    }
    masks = {Path(r.name).stem for r in release.records if r.extra.get("mask_path")}
    assert masks == {Path(row["mask_path"]).stem for row in rows.values() if row["mask_path"]}
    assert (len(release.records), release.records.labels_NC.sum(), len(masks)) == (662, 336, 566)


@pytest.mark.parametrize(("language", "noted"), [("en", False), ("es", True)])
def test_real_captions_by_a_description_of_ones_own(shared_data, tmp_path, language, noted):
    (tmp_path / "captions.yaml").write_text(
        "corpus: Captions\nversion: '1'\npurpose: reports\nexpected: {images: 3516}\n"
        f"language: {language}\ntables: [{{file: training.csv, columns: {{image_path: image_path, report_content: report_content}}}}]\n"
    )
    release = described.read(description.load(str(tmp_path / "captions.yaml")), shared_data / "rocov2-cxr", Options())
    assert len(release.records) == 3_516
    assert (
        release.records[0].report
        == "Chest radiograph showing reticular opacities prominent in bilateral mid and lower zones."
    )
    assert release.excluded == []
    foreign = [note for note in release.notes if "in English" in note]
    assert bool(foreign) == noted
