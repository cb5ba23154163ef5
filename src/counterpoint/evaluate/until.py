"""A task under a grid of guides, answered until one guide is the best with a given probability."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.tasks import get_task_dict

from counterpoint.errors import UsageError
from counterpoint.evaluate.grid import OpenGrid, open_grid, rows_of
from counterpoint.evaluate.logistic import logistic
from counterpoint.evaluate.metrics import columns_of, statistic_of
from counterpoint.evaluate.posterior import Posterior, bootstrap
from counterpoint.evaluate.race import Race, race
from counterpoint.guide import Guide


def run_until(
    tasks: Sequence[str | dict[str, Any]],
    guides: Sequence[Guide],
    *,
    until: float,
    metric: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    resamples: int = 1000,
    **options: Any,
) -> dict[str, Any]:
    """One task, document by document in random order, under the guides that may still be the best; see `race`.

    Args:
        tasks: one task, as in `run_grid`.
        guides: two or more.
        until: the probability to reach, above 0.5 and below 1.
        metric: what "best" means; None is the task's first metric.
        limit: documents of the task from the start; None for all.
        options: as in `run_grid`.

    Returns:
        A record as that of `run_grid`, where each row is over the documents that its guide has answered, with `race`:
        `best`, `prob_best`, `answers`, `grid` (answers of the full grid), `left` (guides in question after each round),
        and `posterior` of all guides on the metric: by the Bayesian bootstrap where all have answered the same
        documents; where not, by the logistic model if documents are right or wrong and numpyro is installed.

    Raises:
        UsageError: as in `run_grid`; or there is not exactly one task, or fewer than two guides, or the metric is unknown
            or no mean over documents.
    """
    opened = open_grid(tasks, guides, seed=seed, **options)
    if len(opened.guides) < 2:
        raise UsageError("there is one guide, which is the best; give two or more")
    asked = _Asked(opened, metric)
    num_documents = asked.num_documents if limit is None else min(limit, asked.num_documents)
    went = race(
        num_documents, len(opened.guides), asked.ask, until=until, seed=seed, higher_is_better=asked.higher_is_better,
        of_mean=asked.of_mean,
    )  # fmt: skip
    believed = _posterior(asked, went, seed)
    record = {
        "rows": [dataclasses.asdict(row) for row in _rows(asked, went, believed, seed, resamples)],
        "limit": limit,
        "race": {
            "task": asked.task,
            "metric": asked.metric,
            "best": str(opened.guides[went.best]),
            "prob_best": went.prob_best,
            "until": until,
            "answers": went.num_answers,
            "grid": went.num_grid,
            "left": list(went.left),
            "posterior": None if believed is None else dataclasses.asdict(believed),
        },
        **opened.told(),
    }
    opened.lm.store.close()
    return record


class _Asked:
    """What was answered: the harness' records by guide and document."""

    def __init__(self, opened: OpenGrid, metric: str | None) -> None:
        found = _tasks_of(get_task_dict(list(opened.tasks), opened.manager))
        if len(found) != 1:
            raise UsageError(f"there are {len(found)} tasks, and a best guide is looked for on one; give one")
        ((self.task, task),) = found.items()
        known = list(task.aggregation())
        self.metric = known[0] if metric is None else metric
        if self.metric not in known:
            raise UsageError(f"the task {self.task} has no metric {self.metric!r}; it has {', '.join(known)}")
        self.num_documents = len(task.eval_docs)
        self.opened = opened
        self.records: list[dict[int, dict]] = [{} for _ in opened.guides]
        self.higher_is_better = task.higher_is_better().get(self.metric) is not False
        self.statistic: Any = statistic_of(self.metric)

    @property
    def of_mean(self) -> Any:
        return None if self.statistic is None else self.statistic.function

    def ask(self, documents: list[int], guides: list[int]) -> np.ndarray:
        """The metric's values, (documents, guides)."""
        chosen = [self.opened.guides[i] for i in guides]
        samples, _ = self.opened.evaluate(chosen, documents={self.task: documents})
        arms = samples[self.task]
        for number, docs in zip(guides, arms):
            first = docs[0]["filter"]
            self.records[number] |= {doc["doc_id"]: doc for doc in docs if doc["filter"] == first}
        values = [[self.records[i][doc][self.metric] for doc in documents] for i in guides]
        table = columns_of(self.statistic, values)
        if table is None:
            raise UsageError(
                f"the metric {self.metric!r} is no mean over documents, so nothing can be told early; name another"
            )
        return table


def _posterior(asked: _Asked, went: Race, seed: int) -> Posterior | None:
    names = [str(guide) for guide in asked.opened.guides]
    columns: list[list[Any]] = []
    for answered, records in zip(went.answered.T, asked.records):
        columns.append([records[doc][asked.metric] if there else np.nan for doc, there in enumerate(answered)])
    if (went.answered.all(1) == went.answered.any(1)).all():
        kept = [[value for value, there in zip(column, went.answered.all(1)) if there] for column in columns]
        table = columns_of(asked.statistic, kept)
        return bootstrap(table, names, seed=seed, higher_is_better=asked.higher_is_better, of_mean=asked.of_mean)
    if asked.statistic is not None or importlib.util.find_spec("numpyro") is None:
        return None
    table = np.asarray(columns, dtype=float).T
    if not set(np.unique(table[~np.isnan(table)])) <= {0.0, 1.0}:
        return None
    return logistic(table, names, seed=seed)


def _rows(asked: _Asked, went: Race, believed: Posterior | None, seed: int, resamples: int) -> list[Any]:
    """A row for each guide and metric over the documents that it has answered; gains are over those that the first guide
    has answered too."""
    guides, rows = asked.opened.guides, []
    for number, guide in enumerate(guides):
        mine = set(np.flatnonzero(went.answered[:, number]).tolist())
        both = sorted(mine & set(np.flatnonzero(went.answered[:, 0]).tolist()))
        arms = [[asked.records[i][doc] for doc in both] for i in (0, number)]
        gains = rows_of(asked.task, arms, (guides[0], guide), {}, seed=seed, resamples=resamples)
        own = [[asked.records[number][doc] for doc in sorted(mine)]]
        for row in rows_of(asked.task, own, (guide,), {}, seed=seed, resamples=resamples):
            (gain,) = [each.gain for each in gains if each.metric == row.metric and each.gain is not None]
            is_asked = believed is not None and row.metric == asked.metric
            standing = dataclasses.asdict(believed.standings[number]) if is_asked else None
            rows.append(dataclasses.replace(row, gain=gain if number else None, standing=standing))
    return sorted(rows, key=lambda row: row.metric != asked.metric)


def _tasks_of(found: dict[Any, Any]) -> dict[str, Any]:
    """The tasks of a dictionary of tasks and groups."""
    tasks: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, dict):
            tasks |= _tasks_of(value)
        else:
            tasks[str(name)] = value
    return tasks
