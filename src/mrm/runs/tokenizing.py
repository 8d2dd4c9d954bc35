"""Learning a WordPiece vocabulary from the reports of records."""

from __future__ import annotations

from pathlib import Path

from mrm.data.records import Records
from mrm.data.reports import Tokenizer
from mrm.data.sections import select_sections
from mrm.runs.output_lock import alone_on
from mrm.system.errors import RunError
from mrm.system.files import write_whole


@alone_on("out")
def train_tokenizer(records: Path, out: Path, size: int = 30_000, sections: tuple[str, ...] = ()) -> Tokenizer:
    """Learn at most `size` word pieces from the reports of `records` and write them to `out`. Returns the tokenizer.

    Only the named `sections` of each report are used, if there are some. Raises RunError if no record has a report.
    """
    loaded = Records.load(records)
    texts = [select_sections(r.report, sections) for r in loaded if r.report]
    if not texts:
        raise RunError(
            f"{records}: none of the {len(loaded)} records has a report, so there are no words to learn from"
        )
    tokenizer = Tokenizer.train(texts, size)
    write_whole(out, tokenizer.to_json().encode())
    return tokenizer
