"""Lengths of time as people write them, 15m, and as a log shows them, 0:15:00."""

from __future__ import annotations

import re

from mrm.system.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600}  # seconds
LONGEST = 365 * 24 * 3600  # seconds


def seconds_of(text: str, name: str) -> float:
    """The seconds of a length of time such as 90s, 15m, 1.5h or 1h30m; `name` is the option, for messages.

    Raises ConfigError for anything else, for a length of 0 and for one of more than a year.
    """
    parts = re.findall(r"(\d{1,9}(?:\.\d{1,3})?)([hms])", text)
    units = [unit for _, unit in parts]
    if "".join(map("".join, parts)) != text or units != sorted(set(units), key="hms".index) or not parts:
        raise ConfigError(f"{name} {text}: expected a length of time with its unit, such as 90s, 15m, 2h or 1h30m")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not 0 < seconds <= LONGEST:
        raise ConfigError(f"{name} {text}: must be more than 0 and at most a year")
    return seconds


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
