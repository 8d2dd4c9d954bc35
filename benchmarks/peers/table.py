"""What was measured as the table of `docs/peers.md`."""

from __future__ import annotations

from typing import Any

WORK = {
    "pretraining": "a step of MAE, ViT-B",
    "mrm-step": "a step of MRM, ViT-B",
    "fine-tuning": "a step of fine-tuning ViT-B",
    "fine-tuning-tiny": "the same, ViT-Ti",
    "loading-originals": "training images from JPEG of 2544 x 3056",
    "loading-prepared": "the same from images of 512 pixels",
    "loading-decoded": "the same, decoded before",
    "predict": "findings of JPEG of 2544 x 3056",
    "network": "the network of these alone",
    "network-int8": "the same in 8 bits",
    "bootstrap": "AUROC with a bootstrap interval",
    "delong": "AUROC with DeLong's interval",
}


def rows(measured: dict[str, Any]) -> str:
    """A row for each other library: how many times as long as `mrm` it takes, and whether `mrm` is ahead."""
    lines = [
        "| work | seconds of `mrm` | beside it | time of that over ours, least and most of the turns | `mrm` is |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, work in WORK.items():
        line = measured.get(name)
        if line is None:
            continue
        seconds = f"{line['seconds']['mrm']['median']:.3g}"
        for way, ratio in line["ratios"].items():
            spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
            place = "" if way.startswith("mrm") else standing(ratio)  # another way of ours
            lines.append(f"| {work} | {seconds} | {way} | {spread} | {place} |")
            work = seconds = ""
        for way, share in line["shares"].items():
            lines.append(f"| | | {way} | {share['median']:.2f} ({share['min']:.2f} to {share['max']:.2f}) | |")
    return "\n".join(lines) + "\n"


def standing(ratio: dict[str, float]) -> str:
    """Ahead or behind where all turns but single ones agree: where the middle half of them is on one side of 1."""
    each = sorted(ratio["each"])  # type: ignore[call-overload]
    quarter = len(each) // 4
    low, high = each[quarter], each[-1 - quarter]
    return "ahead" if low > 1 else "behind" if high < 1 else "level"
