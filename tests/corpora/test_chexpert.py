"""CheXpert: both layouts end to end, four kinds of cells, the real table and the published lists."""

import math

import pytest

from mrm.corpora import prepare, splits
from mrm.corpora.class_names import CHEXPERT as COMPETITION
from mrm.corpora.contract import Options, Release
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.corpora.chexpert import OBSERVATIONS, write_tree
from tests.support.corpora.official import read_as_if_complete
from tests.support.image_files import contents


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "CheXpert-v1.0-small", "CheXpert-v1.0-small")


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0", "CheXpert-v1.0-small"])
@pytest.mark.parametrize("above", [False, True])
def test_both_layouts_become_records_sets_and_lists(prefix, above, tmp_path):
    root = write_tree(tmp_path / "download" / prefix, prefix)
    before = contents(root)
    source = root.parent if above else root
    corpus = prepare("chexpert", source, tmp_path / "out", Options(fractions=(20,)))
    assert contents(root) == before
    assert {k: len(v) for k, v in corpus.splits.items()} == {
        "train": 54,
        "val": 6,
        "test": 4,
        "train_20": 10,
    }
    assert len(corpus.records.classes) == 14
    assert corpus.splits["train"].classes == COMPETITION
    assert Records.load(tmp_path / "out/train.csv", None).classes == COMPETITION  # as fine-tuning does
    assert corpus.splits["test"][0].patient == "patient64541"
    assert {r.view for r in corpus.records} == {"AP", "Lateral"}
    listed = Records.load(tmp_path / "out/train_20.txt", COMPETITION, images=source)
    assert all(r.image.is_file() for r in listed)


def test_tables_keep_the_four_kinds_of_cells_and_lists_follow_the_published_policy(source, tmp_path):
    prepare("chexpert", source, tmp_path / "out")
    kept = Records.load(tmp_path / "out/train.csv", COMPETITION)[0].labels
    assert kept[:4] == (-1, 1, -1, 0)
    assert math.isnan(kept[4])
    listed = (tmp_path / "out/train_list.txt").read_text().splitlines()[0].split()[1:]
    assert listed == ["1", "1", "0", "0", "0"]


def test_another_policy_and_other_classes_can_be_asked_for(source, tmp_path):
    options = Options(uncertain="zeros", classes=("Fracture", "Atelectasis"))
    corpus = prepare("chexpert", source, tmp_path / "out", options)
    assert corpus.splits["val"].classes == ("Fracture", "Atelectasis")
    assert (tmp_path / "out/val_list.txt").read_text().splitlines()[0].endswith(" 0 0")


def test_only_frontal_views_when_asked(source, tmp_path):
    corpus = prepare("chexpert", source, tmp_path / "out", Options(views=("AP", "PA")))
    assert len(corpus.records) == 34
    assert corpus.facts["excluded"] == {"another view": 30}


@pytest.mark.parametrize("path", ["../elsewhere/p/s/v.jpg", "train/../../p/s/v.jpg", "/etc/p/s/v.jpg"])
def test_a_path_that_leads_out_of_the_source_is_refused_with_its_line(source, tmp_path, path):
    table = source / "train.csv"
    lines = table.read_text().splitlines()
    lines[3] = path + lines[3][lines[3].index(",") :]
    table.write_text("\n".join(lines))
    with pytest.raises(RecordError, match=r"train.csv, line 4: the path .* leads out of the source folder"):
        prepare("chexpert", source, tmp_path / "out")


def test_a_strange_cell_is_refused_with_its_line(source, tmp_path):
    table = source / "train.csv"
    table.write_text(table.read_text().replace("-1.0", "0.5", 1))
    with pytest.raises(RecordError, match=r"train.csv, line 2: label '0.5'"):
        prepare("chexpert", source, tmp_path / "out")


# ---- the real table and lists ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory) -> Release:
    """The real training table, as if every image were there."""
    folder, published = tmp_path_factory.mktemp("chexpert"), shared_data / "official" / "chexpert_train.csv.gz"
    return read_as_if_complete(
        "chexpert", folder, "train.csv.gz", published, lambda row: row["Path"].removeprefix("CheXpert-v1.0-small/")
    )


@pytest.mark.slow
def test_the_real_table_has_the_publishers_counts_and_its_kinds_of_cells(real):
    assert len(real.records) == 223_414
    assert len(set(real.records.patients)) == 64_540
    labels = real.records.labels_NC
    assert (labels == -1).sum() == 139_958
    edema = labels[:, OBSERVATIONS.index("Edema")]
    counts = [int((edema == v).sum()) for v in (1, 0, -1)]
    assert [*counts, sum(map(math.isnan, edema))] == [52_246, 20_726, 12_984, 137_458]
    assert sum(map(math.isnan, labels.ravel())) == 2_277_974


@pytest.mark.slow
def test_the_published_lists_are_the_table_under_our_policy_without_exception(real, shared_data):
    found = splits.published(real, shared_data / "reference-splits/CheXpert")
    sizes = {k: len(v) for k, v in found.splits.items()}
    assert sizes == {"train": 218_414, "val": 5_000, "test": 0, "train_1": 2_184, "train_10": 21_841}
    assert len(found.excluded) == 234  # the test list names images of valid/, of which there is no table here
    assert not [note for note in found.notes if "differ" in note]
    assert {r.name for r in found.splits["train_10"]} <= {r.name for r in found.splits["train"]}
    held = set(found.splits["val"].patients) & set(found.splits["train_10"].patients)
    assert len(held) == 1_837  # the known leak of the published lists


def test_images_converted_to_png_are_those_of_the_table_and_of_published_lists(tmp_path):
    from tests.support.image_files import write_image

    source = write_tree(tmp_path / "CheXpert-v1.0")
    for number, file in enumerate(sorted(source.rglob("*.jpg"))):
        file.unlink()
        write_image(file.with_suffix(".png"), number)
    corpus = prepare("chexpert", source, tmp_path / "out")
    assert len(corpus.records) == 64
    assert corpus.facts["excluded"] == {}
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "val_list.txt").write_text("train/patient00001/study1/view1_frontal.jpg 0 1 0 0 0\n")
    published = prepare("chexpert", source, tmp_path / "published", Options(splits=lists))
    assert [r.name for r in published.splits["val"]] == ["train/patient00001/study1/view1_frontal.png"]
