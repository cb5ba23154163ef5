"""Tasks of the harness under a grid of guides: branches read once for all guides, every answer kept, resumable."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from counterpoint.errors import GuideError, UsageError
from counterpoint.evaluate.harness import GuidedLM
from counterpoint.evaluate.intervals import difference, interval
from counterpoint.evaluate.loglikelihood import Item, Score, score
from counterpoint.evaluate.metrics import columns_of, statistic_of
from counterpoint.evaluate.posterior import Standing, bootstrap
from counterpoint.evaluate.tasks import located
from counterpoint.evaluate.writing import Passage, write
from counterpoint.guide import Guide
from counterpoint.sampling import SEED_VERSION
from counterpoint.store import Store, key_of

PACKAGES = ("counterpoint", "lm_eval", "torch", "transformers", "scipy")


class GridLM(GuidedLM):
    """A guided model whose guide changes from run to run, and that never computes an answer twice.

    Args:
        guides: all guides of the grid; scores are computed for all of them together.
        store: where answers are kept.
        options: the other arguments of `GuidedLM`.
    """

    def __init__(self, guides: Sequence[Guide], store: Store, **options: Any) -> None:
        super().__init__(scale=1.0, **options)
        self.guides, self.store = tuple(guides), store
        self._known: dict[str, Any] = {}
        self.weights = self.guided_model.fingerprint

    @property
    def is_unguided(self) -> bool:
        """Never: scale 1 is one guide of the grid, and is scored with the others."""
        return False

    def loglikelihood(self, requests, disable_tqdm: bool = True):
        return super().loglikelihood(requests, disable_tqdm)

    def generate_until(self, requests, disable_tqdm: bool | None = None) -> list[str]:
        return super().generate_until(requests, not sys.stderr.isatty() if disable_tqdm is None else disable_tqdm)

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = True) -> list[float]:
        if self.negative_ids is None and all(guide.scale == 1 for guide in self.guides):
            self.negative_ids = (self.prefix_token_id,)  # read by no guide
            try:
                return super().loglikelihood_rolling(requests, disable_tqdm)
            finally:
                self.negative_ids = None
        return super().loglikelihood_rolling(requests, disable_tqdm)

    def scores(self, items: Sequence[Item], cache_keys=(), *, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        at = self.guides.index(self.guide)
        return [each[at] for each in self.scores_of_all(items)]

    def scores_of_all(self, items: Sequence[Item]) -> list[list[tuple[float, bool]]]:
        """(log-likelihood, is greedy) of each item under each guide. What is known already is not looked up again."""
        own = [self._key("score", item) for item in items]
        keys = [[key_of(key, str(guide)) for guide in self.guides] for key in own]
        found = self._known
        found |= self.store.get([key for each in keys for key in each if key not in found])
        todo = list({own[i]: i for i, each in enumerate(keys) if not found.keys() >= set(each)}.values())

        bar = tqdm(total=len(todo), desc="scoring", leave=False, disable=not (todo and sys.stderr.isatty()))

        def keep(numbers: list[int], batch: list[list[Score]]) -> None:
            answers = {
                key: [one.logprob, one.is_greedy]
                for number, results in zip(numbers, batch)
                for key, one in zip(keys[todo[number]], results)
            }
            found.update(answers)
            self.store.put(answers)
            bar.update(len(numbers))

        with bar:
            score(
                self.guided_model, [items[i] for i in todo], self.guides, batch_size=self._num_together(), on_batch=keep
            )
        return [[(found[key][0], found[key][1]) for key in each] for each in keys]

    def write(self, passages: Sequence[Passage]) -> list[str]:
        keys = [key_of(self._key("text", passage), SEED_VERSION, str(self.guide)) for passage in passages]
        found = self.store.get(keys)
        todo = [i for i, key in enumerate(keys) if key not in found]
        for i, done in zip(todo, write(self.guided_model, [passages[i] for i in todo], self.guide)):
            found[keys[i]] = self._answer(done)
            self.store.put({keys[i]: found[keys[i]]})
        return [found[key] for key in keys]

    def _key(self, kind: str, asked: Item | Passage) -> str:
        return key_of(kind, self.weights, dataclasses.asdict(asked))


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One metric of one task under one guide.

    Args:
        value, low, high: the metric and its 95 percent interval over documents.
        gain: `counterpoint.evaluate.intervals.Difference` from the first guide of the grid, as a dict; None for itself.
        num_ruled_out: documents of which at least one candidate has probability 0 under the guide.
        standing: `counterpoint.evaluate.posterior.Standing` as a dict; None where the metric is no mean over documents.
    """

    task: str
    metric: str
    guide: str
    value: float
    low: float
    high: float
    num_docs: int
    num_ruled_out: int = 0
    gain: dict[str, Any] | None = None
    standing: dict[str, Any] | None = None


def run_grid(
    tasks: Sequence[str | dict[str, Any]],
    guides: Sequence[Guide],
    *,
    folder: str | Path | None = None,
    include: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    resamples: int = 1000,
    **options: Any,
) -> dict[str, Any]:
    """Every task under every guide, with intervals, and each guide compared with the first.

    Args:
        tasks: names known to the harness, paths of task files, or task configurations.
        guides: each with a scale; the first is what the others are compared with.
        folder: where answers are kept, so that the same call continues a run that was killed. None keeps none.
        include: a folder of further tasks of the harness.
        limit: documents of each task from the start; None for all.
        seed: of bootstrap and sampling.
        resamples: of the bootstrap.
        options: arguments of `GuidedLM` other than the guide.

    Returns:
        A record ready for JSON: `rows` (of `Row`), `versions`, `seed`, `computed` and `reused` answers.

    Raises:
        UsageError: an unknown task, a guide twice, or a branch that does not fit a task.
    """
    opened = open_grid(tasks, guides, folder=folder, include=include, seed=seed, **options)
    samples, higher = opened.evaluate(opened.guides, limit=limit)
    rows = [
        row
        for task, arms in samples.items()
        for row in rows_of(task, arms, opened.guides, higher.get(task) or {}, seed=seed, resamples=resamples)
    ]
    record = {"rows": [dataclasses.asdict(row) for row in rows], "limit": limit, **opened.told()}
    opened.lm.store.close()
    return record


@dataclasses.dataclass(frozen=True, slots=True)
class OpenGrid:
    """Tasks and guides, ready to be answered."""

    lm: GridLM
    tasks: tuple[Any, ...]
    guides: tuple[Guide, ...]
    manager: TaskManager
    seed: int

    def evaluate(
        self, guides: Sequence[Guide], *, limit: int | None = None, documents: dict[str, list[int]] | None = None
    ) -> tuple[dict[str, list[list[dict]]], dict[str, dict[str, bool]]]:
        """The harness' records of every task, for each guide in order, and whether high is good of each metric.

        Args:
            guides: some of the grid's.
            documents: for each task the numbers of those to answer; None for all up to `limit`.
        """
        samples: dict[str, list[list[dict]]] = {}
        self.lm.guides = tuple(guides)
        for guide in guides:
            self.lm.guide = guide
            results = simple_evaluate(
                self.lm, tasks=list(self.tasks), task_manager=self.manager, limit=limit, samples=documents,
                log_samples=True, bootstrap_iters=0, random_seed=self.seed, numpy_random_seed=self.seed,
                torch_random_seed=self.seed, fewshot_random_seed=self.seed,
            )  # fmt: skip
            for task, docs in results["samples"].items():
                samples.setdefault(task, []).append(sorted(docs, key=lambda doc: (doc["filter"], doc["doc_id"])))
        return samples, results.get("higher_is_better", {})

    def told(self) -> dict[str, Any]:
        """What the answers were made with, ready for JSON."""
        lm = self.lm
        return {
            "model": lm.guided_model.name,
            "parameters": sum(p.numel() for p in lm.model.parameters()),
            "weights": lm.weights,
            "dtype": str(lm.guided_model.dtype).removeprefix("torch."),
            "branch": lm.get_model_info()["branch"],
            "guides": [guide.to_dict() for guide in self.guides],
            "seed": self.seed,
            "computed": lm.store.num_computed,
            "reused": lm.store.num_reused,
            "versions": versions(),
        }


def open_grid(
    tasks: Sequence[str | dict[str, Any]],
    guides: Sequence[Guide],
    *,
    folder: str | Path | None = None,
    include: str | None = None,
    seed: int = 0,
    **options: Any,
) -> OpenGrid:
    """The grid of `run_grid`, with nothing answered yet. Arguments and errors are the same."""
    guides = _checked(guides)
    tasks = [located(task) for task in tasks]
    manager = _manager(tasks, include)
    store = Store(None if folder is None else Path(folder) / "answers.sqlite")
    return OpenGrid(GridLM(guides, store, seed=seed, **options), tuple(tasks), guides, manager, seed)


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def rows_of(
    task: str,
    arms: Sequence[list[dict]],
    guides: Sequence[Guide],
    higher_is_better: dict[str, bool],
    *,
    seed: int,
    resamples: int,
) -> list[Row]:
    """The metrics of one task under all guides, which have answered the same documents."""
    rows = []
    for metric in arms[0][0]["metrics"]:
        columns = [[doc[metric] for doc in docs] for docs in arms]
        statistic = statistic_of(metric)
        believed = _standings(columns, statistic, guides, higher_is_better.get(metric) is not False, seed)
        for at, (guide, docs) in enumerate(zip(guides, arms)):
            found = interval(columns[at], seed=seed, statistic=statistic, resamples=resamples)
            gain = None
            if at:
                gain = dataclasses.asdict(
                    difference(columns[at], columns[0], seed=seed, statistic=statistic, resamples=resamples)
                )
            ruled_out = sum(_is_ruled_out(doc) for doc in docs)
            standing = None if believed is None else dataclasses.asdict(believed[at])
            rows.append(
                Row(task, metric, str(guide), found.value, found.low, found.high, len(docs), ruled_out, gain, standing)
            )
    return rows


def _standings(
    columns: Sequence[list], statistic: Any, guides: Sequence[Guide], higher_is_better: bool, seed: int
) -> tuple[Standing, ...] | None:
    """By the Bayesian bootstrap; None where the metric is no mean over documents."""
    table = columns_of(statistic, columns)
    if table is None:
        return None
    of_mean = None if statistic is None else statistic.function
    names = [str(guide) for guide in guides]
    return bootstrap(table, names, seed=seed, higher_is_better=higher_is_better, of_mean=of_mean).standings


def _is_ruled_out(doc: dict) -> bool:
    flat = [value for each in doc["filtered_resps"] for value in (each if isinstance(each, (list, tuple)) else [each])]
    return any(isinstance(value, float) and math.isinf(value) for value in flat)


def _checked(guides: Sequence[Guide]) -> tuple[Guide, ...]:
    if not guides:
        raise GuideError("there is no guide; give at least one, such as scale=1.5")
    for guide in guides:
        if guide.scale is None:
            raise GuideError(f"the guide {str(guide) or '(empty)'!r} has no scale; write scale=1.5")
        if list(guides).count(guide) > 1:
            raise GuideError(f"the guide {str(guide)!r} is given twice; keep one")
    return tuple(guides)


def _manager(tasks: Sequence[str | dict[str, Any]], include: str | None) -> TaskManager:
    """The tasks that can be named. The harness' own thousands are read only where one is not found without them."""
    if not tasks:
        raise UsageError("there is no task; name one of the harness, or give the path of a task file")
    names = [task for task in tasks if isinstance(task, str) and not Path(task).is_file()]
    if include is not None and not Path(include).is_dir():
        raise UsageError(f"there is no folder {include!r} of task files; give one")
    manager = TaskManager(include_path=include, include_defaults=False)
    if all(manager.match_tasks([name]) for name in names):
        return manager
    manager = TaskManager(include_path=include)
    for name in names:
        if not manager.match_tasks([name]):
            raise UsageError(f"unknown task {name!r}; `lm_eval ls tasks` lists the harness' own, or give a task file")
    return manager
