"""Commands that get data ready: prepare, merge, phantoms, audit, views, tokenizer, pack."""

from __future__ import annotations

import sys
from pathlib import Path

from mrm.cli.command import commands
from mrm.cli.shared_options import Images, SharedWork, Workers
from mrm.corpora.catalogue import require_corpus
from mrm.corpora.options import Options
from mrm.data.config import Layout, OnError, PackConfig
from mrm.system.errors import ConfigError, PackError, RecordError
from mrm.system.shares import share_of


def prepare(
    corpus: str,
    /,
    source: Path,
    options: Options,
    out: Path | None = None,
    preview: bool = False,
    write_description: Path | None = None,
    download: bool = False,
    yes: bool = False,
    share: SharedWork = None,
) -> None:
    """Make audited records of a public corpus, from the folder it was downloaded to.

    CORPUS is nih, chexpert, rsna, siim, mimic, openi, covid, chexpert-test, chexpert-plus, padchest, rexgradient,
    brax, rocov2, vindr, vinbigdata, chestx-det, object-cxr, ranzcr, candid-ptx, ms-cxr, covidx-cxr4, covidx-cxr3,
    tbx11k, shenzhen, montgomery or jsrt; custom for your own images and reports; or a YAML file that describes a
    corpus or an export. The download is only read. The same command resumes after an interruption. --download fetches
    nih, openi, covid, rocov2, chestx-det, shenzhen or montgomery; others need a registration.

    Example:
        mrm prepare nih --source downloads/ChestX-ray14 --out data/nih
        mrm prepare openi --download --source downloads/openi --out data/openi

    Data:
        corpus: the name of a corpus, custom, or a YAML file.
        source: the folder of the download.
        out: the folder to write: records, label lists, corpus.json and audit.json.

    Preview:
        preview: show how tables and images are understood and which sets would come, and write nothing.
        write_description: with --preview, the YAML file to write, which --config takes.

    Download:
        download: first download the corpus into --source, after a question that names licence, size and free disk. What
            is there is not downloaded again. Without --out and --preview nothing else is done.
        yes: agree to the licence and the download beforehand, for scripts.
    """
    require_corpus(corpus)
    from mrm import runs

    if share and (preview or download):
        raise ConfigError("--share divides the preparation itself; leave it out with --preview and --download")
    if download:
        runs.download(corpus, source, yes)
        if out is None and not preview:
            print(f"next: mrm prepare {corpus} --source {source} --out DIR")
            return
    elif yes:
        raise ConfigError("--yes agrees to a download, so it needs --download")
    if preview:
        print(runs.preview_preparation(corpus, source, options, out, write_description))
    elif write_description:
        raise RecordError(
            "--write-description needs --preview; a preparation writes description.yaml into --out itself"
        )
    elif out is None:
        raise RecordError("missing: --out; give the folder to write, or --preview to write nothing")
    else:
        runs.prepare(corpus, source, out, options, share_of(share))


def merge(folders: tuple[Path, ...], /, out: Path, harmonize: bool = False, vocabulary: Path | None = None) -> None:
    """Join the sets of several prepared corpora, to train on all of them at once.

    Sets of the same name are joined: what one corpus holds out for the test stays held out. A class that a corpus does not
    state is not stated for its records, which then do not train it. The column site says where a record is from.
    The joined sets are audited against each other.

    Example:
        mrm merge prepared/nih prepared/vindr --out prepared/both --harmonize

    Data:
        folders: folders that mrm prepare has written, two or more.
        out: the folder to write: train.csv, val.csv, test.csv, merged.json and audit.json.

    Classes:
        harmonize: give classes that mean the same finding one name, such as Effusion and Pleural Effusion.
        vocabulary: a table of findings in place of the package's own: a column finding, and names in any others.
    """
    from mrm import runs

    runs.merge(folders, out, harmonize, vocabulary)


def phantoms(
    out: Path,
    count: int = 1000,
    size: int = 512,
    seed: int = 0,
    findings: tuple[str, ...] = (),
    least_severity: float = 0.0,
    masks: tuple[str, ...] = (),
    export: bool = False,
) -> None:
    """Draw phantom radiographs with reports, labels, boxes and masks.

    Example:
        mrm phantoms --out phantoms --count 200 --size 256 --masks lungs
        mrm phantoms --out phantoms --size 128 --findings effusion cardiomegaly --least-severity 0.5

    Phantoms:
        out: the folder to write: records.csv, boxes.csv, images/ and a folder for each kind of mask.
        count: studies; a patient has one to three of them.
        size: side of an image in pixels.
        seed: a different seed draws different patients.
        findings: the findings that occur; by default atelectasis, cardiomegaly, consolidation, devices, effusion, nodule,
            oedema and pneumothorax.
        least_severity: of every finding, from 0 to 1; in small images the slight ones cannot be seen.
        masks: kinds of masks to write: lungs, pneumothorax.
        export: write them as a hospital exports them: DICOM files without suffix, and ris.csv of a radiology system.
    """
    if export and (masks or findings or least_severity):
        raise ConfigError(
            "--export writes no masks, and all findings; leave out --masks, --findings and --least-severity"
        )
    from mrm.corpora.phantoms import hospital_export, phantom_files
    from mrm.corpora.phantoms.phantom import FINDINGS, Kinds
    from mrm.runs.output_lock import held_folder

    kinds = Kinds(findings or FINDINGS, least_severity)
    with held_folder(out):
        if export:
            print(f"{hospital_export.write(out, count, seed, size)}: a table of {count} phantoms")
            print(f"next: mrm prepare custom --source {out} --classes {hospital_export.FINDING} --preview")
            return
        print(f"{out / 'records.csv'}: {len(phantom_files.write(out, count, seed, size, masks, kinds=kinds))} phantoms")
    print(f"next: mrm pretrain tiny --records {out / 'records.csv'} --out runs/tiny")


def audit(
    sets: tuple[Path, ...], /, json: Path | None = None, images: bool = True, within: bool = False, examples: int = 5
) -> None:
    """Look for patients, studies, files and images that sets of records share.

    The exit status is 1 if any are shared, 0 if the sets are clean. The hashes of the images are kept beside each file, in
    .image-hashes, so that neither another audit nor a training reads these images for theirs.

    Example:
        mrm audit train.csv val.csv test.csv --json audit.json

    Data:
        sets: CSV files, Parquet files or label lists, two or more.

    Comparison:
        images: also compare what the images show, not only names and numbers.
        within: also look for repeats within each set.
        examples: pairs named for each overlap.
        json: also write the audit to this file.
    """
    from mrm import runs

    if not runs.audit(sets, json, images, within, examples).clean:
        sys.exit(1)


def views(records: Path, /, out: Path, images: Images = None, workers: Workers = None, seed: int = 0) -> None:
    """Learn to tell lateral from frontal images, for images that state no view.

    Each image is judged by a classifier that has not seen its patient, which shows how often it is right. The file is for
    `--view-classifier` of predict, evaluate and calibrate. It is a logistic regression on HOG: seconds, without a network.

    Example:
        mrm views prepared/records.csv --out views.json

    Data:
        records: a table of records with a column view (PA, AP, lateral); those that state none are left out.
        out: the file to write, .json.

    Statistics:
        seed: of the folds.
    """
    from mrm import runs

    runs.learn_views(records, out, images, workers, seed)
    print(f"next: mrm predict MODEL PATHS --views frontal --view-classifier {out} --out FILE")


def tokenizer(records: Path, /, out: Path, size: int = 30_000, sections: tuple[str, ...] = ()) -> None:
    """Learn a WordPiece vocabulary from the reports of a set of records.

    `mrm pretrain` does this by itself; this command is for a vocabulary that several runs share.

    Example:
        mrm tokenizer training.csv --out tokenizer.json

    Data:
        records: a CSV with the columns image_path and report_content.
        out: the tokenizer file to write.

    Vocabulary:
        size: the largest number of pieces.
        sections: use only these sections of each report, such as findings impression.
    """
    from mrm import runs

    print(f"{out}: {runs.train_tokenizer(records, out, size, sections).size:,} pieces")
    print(f"next: mrm pretrain RECIPE --records {records} --tokenizer {out} --out RUN")


def pack(
    records: Path | None = None,
    /,
    out: Path | None = None,
    images: Images = None,
    classes: tuple[str, ...] = (),
    on_error: OnError = "stop",
    from_: Layout = "records",
    hashes: bool = True,
    check: Path | None = None,
    workers: Workers = None,
    share: SharedWork = None,
    *,
    config: PackConfig,
) -> None:
    """Pack records into a few large files that train faster.

    Each image is decoded, shrunk, made grey and encoded once. Every command takes the packed folder in place of the
    records. Run the same command again to resume it after an interruption. Damaged images are left out and listed in
    OUT/failures.csv. If images cannot be reached, because a share is gone or they do not exist, the exit status is 3 and
    the same command tries them again. With --deidentified, images that may name a person are left out and listed too.

    Example:
        mrm pack training.csv --out shards --size 512
        mrm pack "downloads/train-{000..011}.tar" --from webdataset --out shards

    Data:
        records: a CSV file, Parquet file or label list, or a segmentation folder with images/ and annotations/.
        out: the folder to write.
        classes: names of the labels of a label list, or of the classes that the numbers in a WebDataset's .cls mean.
        from_: webdataset where RECORDS is a tar file of samples (KEY.jpg, KEY.txt, KEY.json, KEY.cls), a folder of them, or a
            quoted pattern with * or {000..011}; it may be an address of an object store.
        hashes: hash the packed images in passing, so that neither an audit nor a training reads them for that.
        on_error: skip leaves out bad lines of the records and images that do not exist; stop ends the command at the first
            bad line, and does not finish the folder without all images.

    Verification:
        check: verify every checksum of this packed folder instead of packing; exit status 2 if one differs.
    """
    from mrm.runs import packing

    if check and not (records or out):
        packing.check_shards(check)
    elif records and out and not check:
        packing.pack(records, out, config, images, classes, workers, on_error, share_of(share), from_, hashes)
    else:
        raise PackError("give RECORDS and --out DIR to pack, or --check DIR alone")


COMMANDS = commands(prepare, merge, phantoms, audit, views, tokenizer, pack)
