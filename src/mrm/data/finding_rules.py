"""Finding files: in YAML, the findings that reports speak of, and the words that name, deny and doubt them.

`mrm label` reads labels from reports by them, and `mrm zero-shot` takes its sentences from them. Ready ones for English and
German name the findings of CheXpert (Irvin et al. 2019, arXiv:1901.07031) and lie in `mrm/data/findings/`. A pattern is a
regular expression, compared with whole words and without case; blanks stand for any blanks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import regex
import yaml

from mrm.system import yaml_files
from mrm.system.errors import ConfigError

FOLDER = Path(__file__).parent / "findings"
MOST_FINDINGS = 200
SECONDS = 1.0  # that a pattern may take for one sentence; an ordinary one takes microseconds


@dataclass(frozen=True)
class Finding:
    """What names a finding in a report, what denies it without a negation, and sentences for `mrm zero-shot`."""

    words: tuple[str, ...] = ()  # patterns that name it: `pleural effusions?`
    normal: tuple[str, ...] = ()  # patterns that deny it by themselves: `costophrenic angles are sharp`
    present: tuple[str, ...] = ()  # sentences that state it
    absent: tuple[str, ...] = ()  # sentences that deny it


@dataclass(frozen=True)
class Cues:
    """Patterns that say something of the findings that follow them, or that they follow."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoFinding:
    """The class of reports without a finding: its name, and findings that do not count, such as devices."""

    name: str = "No Finding"
    besides: tuple[str, ...] = ()


@dataclass(frozen=True)
class FindingFile:
    """A finding file. A cue reaches to the end of its sentence, to `;`, or to a pattern of `ends`."""

    findings: Mapping[str, Finding]
    denied: Cues = Cues()
    doubtful: Cues = Cues()
    other: Cues = Cues()  # the finding is of an earlier time, a question, or advice: it says nothing of this image
    neutral: tuple[str, ...] = ()  # phrases that hold the words of a cue and are none: `no change`
    ends: tuple[str, ...] = ()
    abbreviations: tuple[str, ...] = ()  # without the full stop
    common_words: tuple[str, ...] = ()  # by which reports in this language are known
    no_finding: NoFinding | None = None

    def __post_init__(self) -> None:
        if not self.findings:
            raise ConfigError("no finding is stated; write at least one name below findings")
        if len(self.findings) > MOST_FINDINGS:
            raise ConfigError(f"{len(self.findings):,} findings, but at most {MOST_FINDINGS} are read")
        if self.no_finding and (unknown := set(self.no_finding.besides) - set(self.findings)):
            raise ConfigError(
                f"no_finding: besides names {', '.join(sorted(unknown))}, which is no finding of this file"
            )
        if self.no_finding and self.no_finding.name in self.findings:
            raise ConfigError(f"no_finding: {self.no_finding.name} is the name of a finding too; rename one of them")


def ready() -> list[str]:
    """The names of the ready finding files."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def path_of(name: Path | str) -> Path:
    """The file that a name of a ready finding file stands for, else the path as it is."""
    return FOLDER / f"{name}.yaml" if str(name) in ready() else Path(name)


def read_finding_file(name: Path | str) -> FindingFile:
    """The finding file of a path, or a ready one by its name. Raises ConfigError that says what is wrong, and where."""
    path = path_of(name)
    if not path.exists() and not path.suffix:
        raise ConfigError(f"unknown finding file '{name}'; choose from {', '.join(ready())}, or give a YAML file")
    return yaml_files.read_yaml(FindingFile, path)


# Patterns ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patterns:
    """Patterns of one list of a finding file, searched together; `lines` are the lines that they stand on."""

    source: str
    patterns: tuple[str, ...]
    lines: tuple[int, ...]

    @cached_property
    def _any(self) -> regex.Pattern:
        return _compiled("|".join(f"(?:{_blanks(pattern)})" for pattern in self.patterns))

    def spans(self, sentence: str) -> list[tuple[int, int]]:
        """Where the patterns are in a sentence, the longest at each place. Raises ConfigError for one that takes too long."""
        if not self.patterns:
            return []
        try:
            return [match.span() for match in self._any.finditer(sentence, timeout=SECONDS)]
        except TimeoutError:
            raise ConfigError(self._too_slow(sentence)) from None

    def _too_slow(self, sentence: str) -> str:
        for pattern, line in zip(self.patterns, self.lines, strict=True):
            try:
                any(_compiled(_blanks(pattern)).finditer(sentence, timeout=SECONDS))
            except TimeoutError:
                return (
                    f"{self.source}: line {line}: the pattern {pattern!r} takes more than {SECONDS:g} s for one sentence; "
                    "avoid a repetition inside a repetition, such as (a+)+"
                )
        return f"{self.source}: lines {self.lines[0]} to {self.lines[-1]}: these patterns take more than {SECONDS:g} s together"


def _blanks(pattern: str) -> str:
    return " ".join(pattern.split())


def _compiled(pattern: str) -> regex.Pattern:
    """A pattern between whole words; a sign such as a comma may stand directly at a word."""
    begin, end = r"(?:(?<!\w)|(?!\w))", r"(?:(?!\w)|(?<!\w))"
    return regex.compile(rf"{begin}(?:{pattern}){end}", regex.IGNORECASE | regex.POSIX | regex.VERSION0)


@dataclass(frozen=True)
class Rules:
    """A finding file whose patterns can be searched; see `read_rules`."""

    file: FindingFile
    source: str
    words: Mapping[str, Patterns]
    normal: Mapping[str, Patterns]
    cues: Mapping[tuple[str, str], Patterns]  # by kind (denied, doubtful, other) and side (before, after)
    neutral: Patterns
    ends: Patterns
    common: frozenset[str] = field(default=frozenset())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels: of the findings, and of the absence of all, which comes last."""
        return (*self.file.findings, *([self.file.no_finding.name] if self.file.no_finding else []))

    def known_share(self, report: str) -> tuple[float, int]:
        """The share of a report's words that are common words of the language, and the number of words."""
        words = re.findall(r"[^\W\d_]{2,}", report.lower())
        words = [word for word in words if set(word) != {"x"}]  # what de-identification leaves
        return sum(word in self.common for word in words) / max(1, len(words)), len(words)


def read_rules(name: Path | str) -> Rules:
    """The rules of a finding file. Raises ConfigError for a finding without patterns and a wrong one, with its line."""
    file, path = read_finding_file(name), path_of(name)
    root = yaml_files.composed(path.read_text(encoding="utf-8"))

    def patterns(*place: str) -> Patterns:
        part: object = file
        for step in place:
            part = part[step] if isinstance(part, Mapping) else getattr(part, step)
        return _checked(part, root, str(path), place)  # type: ignore[arg-type]

    for finding, rules in file.findings.items():
        if not rules.words:
            line = yaml_files.line_of(root, ("findings", finding))
            raise ConfigError(f"{path}: line {line}: the finding {finding} has no patterns; list them under words")
    return Rules(
        file=file,
        source=str(path),
        words={f: patterns("findings", f, "words") for f in file.findings},
        normal={f: patterns("findings", f, "normal") for f in file.findings},
        cues={
            (kind, side): patterns(kind, side)
            for kind in ("denied", "doubtful", "other")
            for side in ("before", "after")
        },
        neutral=patterns("neutral"),
        ends=patterns("ends"),
        common=frozenset(word.lower() for word in file.common_words),
    )


def _checked(patterns: Sequence[str], root: yaml.Node, source: str, place: Sequence[str]) -> Patterns:
    lines = [yaml_files.line_of(root, (*place, i)) for i in range(len(patterns))]
    for pattern, line in zip(patterns, lines, strict=True):
        try:
            empty = _compiled(_blanks(pattern)).search("", timeout=SECONDS)
        except (regex.error, OverflowError, RecursionError, TimeoutError) as error:
            raise ConfigError(
                f"{source}: line {line}: {pattern!r} is not a regular expression ({error}); correct it"
            ) from None
        if empty or not pattern.strip():
            raise ConfigError(
                f"{source}: line {line}: the pattern {pattern!r} matches nothing at all, so any text; correct it"
            )
    return Patterns(source, tuple(patterns), tuple(lines))
