"""Learning a WordPiece vocabulary from the reports of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mrm.data.records import Records
from mrm.data.reports import Tokenizer
from mrm.data.sections import select_sections
from mrm.runs.output_lock import alone_on
from mrm.system.errors import RunError
from mrm.system.files import write_whole

# Vocabularies that were learned from English reports split the words of other English reports into 1.0 to 1.5 pieces, and
# those of German, French and Spanish ones into 1.7 to 3.0 (benchmarks/vocabulary.py)
MOST_PIECES = 1.6
MOST_UNKNOWN = 0.05
SAMPLE = 2000  # reports that are looked at


def advice(tokenizer: Tokenizer, records: Records, name: str, sections: tuple[str, ...] = ()) -> str:
    """What to do about a vocabulary that splits the words of the reports into many pieces, or does not know them.

    `name` says whose vocabulary it is. Empty if it fits, or if there is no report.
    """
    sample = records[:: max(1, records.with_report // SAMPLE)]
    fit = tokenizer.fit(select_sections(r.report, sections) for r in sample if r.report)
    if fit.pieces <= MOST_PIECES and fit.unknown <= MOST_UNKNOWN:
        return ""
    found = f"splits a word of these reports into {fit.pieces:.1f} pieces on average"
    if fit.unknown > MOST_UNKNOWN:
        found += f" and does not know {fit.unknown:.0%} of the words"
    return (
        f"the tokenizer of {name} {found}, as it was learned from another kind of text or language; `mrm tokenizer RECORDS "
        "--out FILE` learns one from these reports, to be given with --tokenizer FILE"
    )


class ReportTexts(Iterable[str]):
    """The chosen sections of those records that have a report, made anew each time they are asked for."""

    def __init__(self, records: Records, sections: tuple[str, ...]) -> None:
        self.records, self.sections = records, sections

    def __iter__(self) -> Iterator[str]:
        return (select_sections(report, self.sections) for report in self.records.values("report") if report)


@alone_on("out")
def train_tokenizer(records: Path, out: Path, size: int = 30_000, sections: tuple[str, ...] = ()) -> Tokenizer:
    """Learn at most `size` word pieces from the reports of `records` and write them to `out`. Returns the tokenizer.

    Only the named `sections` of each report are used, if there are some. Raises RunError if no record has a report.
    """
    loaded = Records.load(records)
    texts = ReportTexts(loaded, sections)
    if not loaded.with_report:
        raise RunError(
            f"{records}: none of the {len(loaded)} records has a report, so there are no words to learn from"
        )
    tokenizer = Tokenizer.train(texts, size)
    write_whole(out, tokenizer.to_json().encode())
    return tokenizer
