"""The harness' metrics as functions of a mean over documents, where they are that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.registry import get_metric_aggregation

from counterpoint.evaluate.intervals import OfMean

#: the harness' aggregations by name; a document's value is a number, or (log-likelihood, length)
OF_MEAN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "perplexity": lambda mean: np.exp(-mean),
    "weighted_perplexity": lambda mean: np.exp(-mean),
    "bits_per_byte": lambda mean: -mean / np.log(2),
}


def statistic_of(metric: str) -> Any:
    """What makes one number of a metric's values, one a document: None is their mean, an `OfMean` where the metric is a
    function of a mean, else the harness' own aggregation."""
    aggregate = get_metric_aggregation(metric)
    if aggregate is None or aggregate.__name__ == "mean":
        return None
    found = OF_MEAN.get(aggregate.__name__)
    return aggregate if found is None else OfMean(found)


def columns_of(statistic: Any, arms: Sequence[Sequence[Any]]) -> np.ndarray | None:
    """The values as (D, G) or (D, G, 2) for `counterpoint.evaluate.posterior`; None where the metric is no mean.

    Args:
        arms: for each guide a value a document.
    """
    if statistic is not None and not isinstance(statistic, OfMean):
        return None
    try:
        table = np.asarray(arms, dtype=float)
    except (TypeError, ValueError):
        return None
    return np.moveaxis(table, 0, 1) if table.ndim in (2, 3) else None
