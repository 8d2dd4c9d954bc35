"""The commands as functions. Each command is one file: its whole story comes first, its parts below.

A run is a folder: `config.yaml` (all settings), `log.csv`, `validation.csv`, `checkpoints/`, and the links
`last` and `best` to two of those, each a whole model folder. The same call resumes a run that was stopped.
"""

from typing import TYPE_CHECKING

from mrm.system import lazy

if TYPE_CHECKING:
    from mrm.runs.auditing import audit
    from mrm.runs.benchmarking import BenchmarkConfig, benchmark
    from mrm.runs.calibrating import Goal, calibrate
    from mrm.runs.comparing import compare
    from mrm.runs.crossval_plan import CrossvalConfig
    from mrm.runs.crossvalidating import crossval
    from mrm.runs.demonstrating import demo
    from mrm.runs.doctor import examine
    from mrm.runs.downloading import download
    from mrm.runs.embedding import embed
    from mrm.runs.ensembling import ensemble
    from mrm.runs.evaluating import evaluate
    from mrm.runs.explaining import explain
    from mrm.runs.fetching_weights import fetch_weights
    from mrm.runs.filling_in import fill_in, surprise
    from mrm.runs.finetuning import finetune
    from mrm.runs.label_checks import check_labels
    from mrm.runs.label_samples import sample_labels
    from mrm.runs.labelling import label
    from mrm.runs.learning_views import learn_views
    from mrm.runs.localising import Boxes
    from mrm.runs.merging import merge
    from mrm.runs.outlining import outline
    from mrm.runs.packing import pack
    from mrm.runs.predicting import predict
    from mrm.runs.preparing import prepare, preview_preparation
    from mrm.runs.pretraining import pretrain
    from mrm.runs.probe_plan import ProbeConfig
    from mrm.runs.probing import probe
    from mrm.runs.reading_options import Reading
    from mrm.runs.reconstructing import reconstruct
    from mrm.runs.scoring_findings import zero_shot
    from mrm.runs.searching import similar
    from mrm.runs.segmenting import segment
    from mrm.runs.selecting import select
    from mrm.runs.tokenizing import train_tokenizer

__all__ = [
    "BenchmarkConfig",
    "Boxes",
    "CrossvalConfig",
    "Goal",
    "ProbeConfig",
    "Reading",
    "audit",
    "benchmark",
    "calibrate",
    "check_labels",
    "compare",
    "crossval",
    "demo",
    "download",
    "embed",
    "ensemble",
    "evaluate",
    "examine",
    "explain",
    "fetch_weights",
    "fill_in",
    "finetune",
    "label",
    "learn_views",
    "merge",
    "outline",
    "pack",
    "predict",
    "prepare",
    "pretrain",
    "preview_preparation",
    "probe",
    "reconstruct",
    "sample_labels",
    "segment",
    "select",
    "similar",
    "surprise",
    "train_tokenizer",
    "zero_shot",
]
__getattr__, __dir__ = lazy.exports(
    "mrm.runs",
    {
        "BenchmarkConfig": "mrm.runs.benchmarking",
        "Boxes": "mrm.runs.localising",
        "CrossvalConfig": "mrm.runs.crossval_plan",
        "Goal": "mrm.runs.calibrating",
        "ProbeConfig": "mrm.runs.probe_plan",
        "Reading": "mrm.runs.reading_options",
        "audit": "mrm.runs.auditing",
        "benchmark": "mrm.runs.benchmarking",
        "calibrate": "mrm.runs.calibrating",
        "check_labels": "mrm.runs.label_checks",
        "compare": "mrm.runs.comparing",
        "crossval": "mrm.runs.crossvalidating",
        "demo": "mrm.runs.demonstrating",
        "download": "mrm.runs.downloading",
        "embed": "mrm.runs.embedding",
        "ensemble": "mrm.runs.ensembling",
        "evaluate": "mrm.runs.evaluating",
        "examine": "mrm.runs.doctor",
        "explain": "mrm.runs.explaining",
        "fetch_weights": "mrm.runs.fetching_weights",
        "fill_in": "mrm.runs.filling_in",
        "finetune": "mrm.runs.finetuning",
        "label": "mrm.runs.labelling",
        "learn_views": "mrm.runs.learning_views",
        "merge": "mrm.runs.merging",
        "outline": "mrm.runs.outlining",
        "pack": "mrm.runs.packing",
        "predict": "mrm.runs.predicting",
        "prepare": "mrm.runs.preparing",
        "preview_preparation": "mrm.runs.preparing",
        "pretrain": "mrm.runs.pretraining",
        "probe": "mrm.runs.probing",
        "reconstruct": "mrm.runs.reconstructing",
        "sample_labels": "mrm.runs.label_samples",
        "segment": "mrm.runs.segmenting",
        "select": "mrm.runs.selecting",
        "similar": "mrm.runs.searching",
        "surprise": "mrm.runs.filling_in",
        "train_tokenizer": "mrm.runs.tokenizing",
        "zero_shot": "mrm.runs.scoring_findings",
    },
)
