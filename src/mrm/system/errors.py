"""The errors that users read: what is wrong, where, and what to do. The command line prints each as one line."""

UNREAD = 3  # exit status: some images could not be read; what could be done is done, or kept for the same command


def printable(text: str) -> str:
    """The text with `\\xe4` in place of each byte of a file name that is not UTF-8, which could not be printed or saved."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:  # half of a pair, as no file system gives
            return text.encode("utf-8", "backslashreplace").decode()
    return text


class MRMError(ValueError):
    """The base of all expected errors. Its message can be printed, whatever file names are in it."""

    status = 2  # exit status of the command

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class OutputError(MRMError):
    """An output file or folder that cannot be written, or that holds something else."""


class StoreError(MRMError):
    """A file in an object store, or the cache of such files, that cannot be used."""


class ArchiveError(MRMError):
    """An archive (DICOMweb) that cannot be searched, read or written to as it was asked."""


class LostArchiveError(ArchiveError):
    """An archive that does not answer: what is done is kept, and the same command resumes."""

    status = UNREAD


class DownloadError(MRMError):
    """A file that cannot be downloaded, or is another one than expected."""


class LostSourceError(DownloadError):
    """A server that does not answer, or not to the end: what has arrived is kept, and the same command resumes."""

    status = UNREAD


class RecordError(MRMError):
    """A table or a file of records that cannot be used as it is."""


class ImageError(MRMError):
    """An image that cannot be used."""


class UnexpectedError(MRMError):
    """A fault in reading that nothing foresaw. It ends the command."""


STOPS = (KeyboardInterrupt, SystemExit, GeneratorExit)  # exceptions by which a program is asked to end; no faults


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which in libraries can fill pages; the name of its class if it has none."""
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__


def unexpected(where: str, error: BaseException) -> UnexpectedError:
    """The error to raise for an exception that nothing foresaw, which may be no Exception: Rust's panics are none."""
    return UnexpectedError(
        f"{where}: reading failed in a way that was not foreseen ({type(error).__name__}: {first_line(error)}); "
        "leave this record out to continue, and please report the fault"
    )


class UnreachableError(ImageError):
    """An image that is absent, or on a share that does not answer: unlike a damaged one, it may be there later."""

    status = UNREAD


class MaskError(ImageError):
    """A mask, or a folder of masks, that cannot be used."""


class ShardError(ImageError):
    """A folder of shards that cannot be used."""


class LostShardError(ShardError, UnreachableError):
    """A file of a shard folder that is absent, or on a share that does not answer."""


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
