"""What the words in the cells of labels and splits mean."""

from mrm.data.records import UNCERTAIN

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
VALUES = {
    **dict.fromkeys(("1", "1.0", "yes", "true", "y", "positive", "present"), 1.0),
    **dict.fromkeys(("0", "0.0", "no", "false", "n", "negative", "absent"), 0.0),
    **dict.fromkeys(("-1", "-1.0", "uncertain"), UNCERTAIN),
    **dict.fromkeys(("", "nan", "na", "n/a"), float("nan")),
}
