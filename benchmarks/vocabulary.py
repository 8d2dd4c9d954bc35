"""How finely a vocabulary of English reports splits the words of other reports: of the same set, of other sets, of other languages.

    python -m benchmarks.vocabulary --data DIR --out benchmarks/results/vocabulary.json

DIR has `openi/reports.csv`, `rocov2-cxr` and `covid-cxr`, as tests use them. One vocabulary is learned from 3,000 Open-i
reports, one from all ROCOv2 captions. German, French, Spanish and Russian are a few sentences each, written for this.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mrm.data.records import Records
from mrm.data.reports import Tokenizer
from mrm.system.files import write_json
from mrm.system.tables import read_rows

LEARNED = 3000  # reports of Open-i; the others are the same set's own test
SENTENCES = {
    "German": [
        "Herz nicht vergrößert, keine pulmonalvenöse Stauung.",
        "Kein Pleuraerguss, kein Pneumothorax. Regelrechte Darstellung der knöchernen Strukturen.",
        "Flächige Verschattung im rechten Unterlappen, vereinbar mit einem pneumonischen Infiltrat.",
        "Zustand nach Anlage eines zentralvenösen Katheters, die Spitze projiziert sich auf die Vena cava superior.",
        "Beidseits basale Belüftungsstörungen, Zwerchfellhochstand rechts.",
    ],
    "French": [
        "Absence d'épanchement pleural. Silhouette cardiaque de taille normale.",
        "Opacité alvéolaire du lobe inférieur droit évoquant un foyer infectieux.",
        "Pas d'anomalie décelable du cadre osseux.",
    ],
    "Spanish": [
        "Silueta cardiaca de tamaño normal. Sin derrame pleural.",
        "Consolidación en el lóbulo inferior derecho, compatible con neumonía.",
        "Estructuras óseas sin alteraciones.",
    ],
    "Russian": ["Очаговых и инфильтративных изменений не выявлено."],
}


def main() -> None:
    """Measure, print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--tokenizer", type=Path, nargs="*", default=[], help="further vocabularies, such as the published one"
    )
    options = parser.parse_args()
    openi = _openi(options.data / "openi" / "reports.csv")
    roco, covid = (_texts(options.data / name / "training.csv") for name in ("rocov2-cxr", "covid-cxr"))
    english = {"Open-i, not learned from": openi[LEARNED:], "ROCOv2": roco, "COVID-19 Image Data Collection": covid}
    vocabularies = {"Open-i": Tokenizer.train(openi[:LEARNED]), "ROCOv2": Tokenizer.train(roco)}
    vocabularies |= {file.name: Tokenizer.load(file) for file in options.tokenizer}
    results = {}
    for name, tokenizer in vocabularies.items():
        fits = {other: tokenizer.fit(texts) for other, texts in {**english, **SENTENCES}.items()}
        results[name] = {
            "pieces of the vocabulary": tokenizer.size,
            **{other: fit._asdict() for other, fit in fits.items()},
        }
        for other, fit in fits.items():
            print(
                f"{name} ({tokenizer.size:,} pieces) on {other}: {fit.pieces:.2f} pieces a word, {fit.unknown:.1%} unknown"
            )
    write_json(options.out, results)


def _texts(table: Path) -> list[str]:
    return [record.report for record in Records.load(table) if record.report]


def _openi(table: Path) -> list[str]:
    """Findings and impression of each report."""
    header, rows = read_rows(table)
    at = [header.index(name) for name in ("findings", "impression")]
    texts = (" ".join(fields[i] for i in at).strip() for _, fields in rows)
    return [text for text in texts if text]


if __name__ == "__main__":
    main()
