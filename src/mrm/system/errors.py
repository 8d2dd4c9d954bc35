"""The errors that users read: what is wrong, where, and what to do. The command line prints each as one line."""


class MRMError(ValueError):
    """The base of all expected errors."""


class OutputError(MRMError):
    """An output file or folder that cannot be written, or that holds something else."""


class StoreError(MRMError):
    """A file in an object store, or the cache of such files, that cannot be used."""


class RecordError(MRMError):
    """A table or a file of records that cannot be used as it is."""


class ImageError(MRMError):
    """An image that cannot be used."""


class MaskError(ImageError):
    """A mask, or a folder of masks, that cannot be used."""


class ShardError(ImageError):
    """A folder of shards that cannot be used."""


class PackError(MRMError):
    """A packing that cannot start or continue."""


class AugmentError(MRMError):
    """An augmentation setting outside its range."""


class ReportError(MRMError):
    """A report or a tokenizer that cannot be used."""


class CheckpointError(MRMError):
    """A model that cannot be loaded or written."""


class SegmenterError(MRMError):
    """A segmenter whose architecture cannot be built."""


class ConfigError(MRMError):
    """A configuration or an option that cannot be used; the message names the setting."""


class TrainingError(MRMError):
    """A training run that cannot start or continue."""


class PredictError(MRMError):
    """A prediction that cannot be made."""


class ExplainError(MRMError):
    """A heat map that cannot be computed."""


class OutlierError(MRMError):
    """Features from which no outlier reference can be computed, or which do not match the reference."""


class ProbeError(MRMError):
    """Features or labels from which a probe cannot learn."""


class RunError(MRMError):
    """A run or a test that cannot start."""
