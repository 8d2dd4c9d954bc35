"""Options that several commands have, each defined once: its type, the group it is shown in, and its text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from mrm.cli.options import Shared

Images = Annotated[
    Path | None,
    Shared("Data", "the folder that relative image paths start from; by default the folder of the records"),
]
ImageSize = Annotated[
    int | None,
    Shared("Data", "side of the images in pixels, such as 384: positions are resampled; by default that of the model"),
]
Budget = Annotated[
    str | None,
    Shared(
        "What is trained", "time of each fine-tuning, such as 5m; there are folds x repeats of them, all by one plan"
    ),
]
Uncertain = Annotated[Literal["ones", "zeros", "ignore"], Shared("Data", "what labels of -1 become")]
Batch = Annotated[int, Shared("Machine", "images computed at once")]
Workers = Annotated[
    int | None,
    Shared(
        "Machine",
        "how many images are read at the same time as earlier ones are computed; by default chosen for this machine",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16", "int8"],
    Shared(
        "Machine",
        "bf16 is faster where the hardware supports it, fp16 on older GPUs (V100, T4), int8 on processors (not for segmenters "
        "and reports); all are less exact",
    ),
]
Device = Annotated[str, Shared("Machine", "auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is one")]
CropBorders = Annotated[
    bool,
    Shared("Data", "remove burned-in black and white borders before anything else"),
]
SharedWork = Annotated[
    str | None,
    Shared(
        "Machine",
        "do one of several shares of the work, such as 2/8, or array in a SLURM job array; the last to end puts them together",
    ),
]
Draws = Annotated[int, Shared("Statistics", "bootstrap resamples, by patient where patients are known")]
ByStudy = Annotated[
    Literal["mean", "max"] | None,
    Shared(
        "Data", "one answer for the images of a study (study_id): mean or max of their logits; by default each image"
    ),
]
Views = Annotated[
    Literal["all", "frontal"],
    Shared("Data", "frontal leaves lateral images out, as far as the table or the DICOM header states the view"),
]
ViewClassifier = Annotated[
    Path | None,
    Shared(
        "Data", "a file of `mrm views`: where no view is stated, it guesses which images are lateral (--views frontal)"
    ),
]
Flip = Annotated[
    bool,
    Shared("Data", "average each image with its mirror image; off, because side matters"),
]
