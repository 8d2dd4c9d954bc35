"""The YAML at the top of a hub folder's README.md, by which the hub finds, groups and compares models."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from mrm.interop.publication import Publication
from mrm.models.card import Card, PastTest
from mrm.system.errors import ConfigError

TASKS = {"mrm": "image-feature-extraction", "classifier": "image-classification", "segmenter": "image-segmentation"}
TAGS = ("radiology", "chest-x-ray", "medical", "mrm", "timm", "transformers")
METRICS = {"auroc": "roc_auc"}  # the hub's names of measures; the others keep ours


def front_matter(card: Card, name: str, publication: Publication) -> str:
    """The YAML with its fences. What nobody has said, such as the licence, is left out."""
    from huggingface_hub import ModelCardData

    results = [result for test in card.tested for result in _results(card.kind, test)]
    data = ModelCardData(
        license=publication.license,
        library_name="timm",
        pipeline_tag=TASKS[card.kind],
        tags=list(TAGS),
        datasets=list(publication.datasets) or None,
        base_model=publication.base_model,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def stated(readme: str) -> tuple[str, Publication] | None:
    """The name and the publisher's words in a README.md with such YAML; None where it has none."""
    try:
        facts = yaml.safe_load(readme.split("---\n")[1])
        words = facts.get("license"), tuple(facts.get("datasets") or ()), facts.get("base_model")
        return facts["model_name"], Publication(*words)
    except (AttributeError, ConfigError, LookupError, TypeError, yaml.YAMLError):
        return None


def _results(kind: str, test: PastTest) -> Iterator:
    """The measures of a test that have a value, each with its interval and the number of records."""
    from huggingface_hub import EvalResult

    for of, measures in test.classes.items():
        for measure, estimate in measures.items():
            if estimate.get("value") is None:
                continue
            facts = ("low", "high", "n", "positives")
            yield EvalResult(
                task_type=TASKS[kind],
                dataset_type=_slug(test.records),
                dataset_name=test.records,
                metric_type=METRICS.get(measure, measure),
                metric_value=estimate["value"],
                metric_name=f"{measure.replace('_', ' ')}, {of}",
                metric_args={fact: estimate[fact] for fact in facts if estimate.get(fact) is not None},
            )


def _slug(records: str) -> str:
    """A name of records as the hub writes identifiers of data sets."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in records).strip("-.") or "records"
