"""The exact best assignment under linear rules. Plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.errors import Failure, UsageError

MOST_PAIRS = 2_000_000  # prompts times options
Capacity = int | tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Assignment:
    """An option for each prompt.

    Args:
        chosen: the number of each prompt's option.
        total: what it is worth, the sum of the scores.
        loss: how much more it would be worth without capacities and rules.
        runner_up_loss: how much less the next best assignment is worth; None where there is no other.
        prices: for each option, what one more place would be worth, from the duals of the relaxation; 0 where places are
            left.
        floor_prices: likewise what it would be worth if one fewer had to get the option.
    """

    chosen: tuple[int, ...]
    total: float
    loss: float
    runner_up_loss: float | None
    prices: tuple[float, ...]
    floor_prices: tuple[float, ...]


class Bounds:
    """Capacities and rules over N prompts and M options; variable `i * M + j` says that prompt i gets option j.

    Args:
        options: their names.
        capacity: by option the most prompts that get it, or (least, most), None for no bound.
        rules: `scipy.optimize.LinearConstraint`s over the N * M variables.

    Raises:
        UsageError: a capacity or rule has no meaning, or no assignment keeps them.
    """

    def __init__(
        self, num_prompts: int, options: Sequence[str], capacity: Mapping[str, Capacity] | None, rules: Any
    ) -> None:
        self.shape = (num_prompts, len(options))
        if num_prompts * len(options) > MOST_PAIRS:
            raise UsageError(
                f"{num_prompts} prompts with {len(options)} options are too many; use {MOST_PAIRS} pairs at most"
            )
        self.low, self.high = np.zeros(len(options)), np.full(len(options), float(num_prompts))
        for name, bounds in (capacity or {}).items():
            if name not in options:
                raise UsageError(
                    f"capacity has {name!r}, which is no option; they are {', '.join(options)}", param="capacity"
                )
            least, most = bounds if isinstance(bounds, (tuple, list)) and len(bounds) == 2 else (None, bounds)
            for bound in (least, most):
                if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 0):
                    raise UsageError(
                        f"the capacity of {name!r} is {bounds!r}; use a count, or (least, most)", param="capacity"
                    )
            at = list(options).index(name)
            self.low[at] = least or 0
            self.high[at] = num_prompts if most is None else min(most, num_prompts)
            if self.low[at] > self.high[at]:
                raise UsageError(
                    f"{name!r} is to get {least} prompts at least and {int(self.high[at])} at most; mend its capacity",
                    param="capacity",
                )
        if self.high.sum() < num_prompts:
            raise UsageError(
                f"there are {num_prompts} prompts and room for {int(self.high.sum())}; raise the capacities",
                param="capacity",
            )
        if self.low.sum() > num_prompts:
            raise UsageError(
                f"there are {num_prompts} prompts and the options are to get {int(self.low.sum())} at least; lower that",
                param="capacity",
            )
        self.rules = _read_rules(rules, num_prompts * len(options))
        if self.rules and self.solve(np.zeros(self.shape)) is None:
            raise UsageError("no assignment keeps the capacities and rules together; loosen one of them", param="rules")

    def solve(self, scores: np.ndarray, *, without: Sequence[int] | np.ndarray | None = None) -> np.ndarray | None:
        """The option of each prompt with the largest sum of scores (N, M); None where nothing keeps the bounds.

        Args:
            without: an assignment that is not to be found again.
        """
        from scipy.optimize import Bounds as Box
        from scipy.optimize import LinearConstraint, milp

        num, width = self.shape
        constraints = [LinearConstraint(self._rows(), 1, 1), LinearConstraint(self._columns(), self.low, self.high)]
        constraints += self.rules
        if without is not None:
            again = np.zeros(num * width)
            again[np.arange(num) * width + np.asarray(without)] = 1
            constraints.append(LinearConstraint(again, -np.inf, num - 1))
        found = milp(
            -np.where(np.isfinite(scores), scores, 0).ravel(),
            integrality=np.ones(num * width),
            bounds=Box(0, np.isfinite(scores).ravel().astype(float)),
            constraints=constraints,
            options={"mip_rel_gap": 0},
        )
        if found.status == 2:
            return None
        if found.status != 0:
            raise Failure(
                f"HiGHS found no best assignment: {' '.join(str(found.message).split())[:120]}; use fewer prompts"
            )
        return found.x.reshape(num, width).argmax(1)

    def prices(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The duals of the relaxation: of the most and of the least of each option, 0 or more."""
        import scipy.sparse as sparse
        from scipy.optimize import linprog

        num, width = self.shape
        upper = [self._columns(), -self._columns()]
        limits = [self.high, -self.low]
        for rule in self.rules:
            rows = sparse.csr_array(np.atleast_2d(rule.A) if not sparse.issparse(rule.A) else rule.A)
            high, low = (np.broadcast_to(bound, rows.shape[0]) for bound in (rule.ub, rule.lb))
            for sign, bound in ((1, high), (-1, -low)):
                keep = np.isfinite(bound)
                if keep.any():
                    upper.append(sign * rows[keep])
                    limits.append(bound[keep])
        found = linprog(
            -np.where(np.isfinite(scores), scores, 0).ravel(),
            A_ub=sparse.vstack(upper),
            b_ub=np.concatenate(limits),
            A_eq=self._rows(),
            b_eq=np.ones(num),
            bounds=np.stack([np.zeros(num * width), np.isfinite(scores).ravel().astype(float)], 1),
            method="highs",
        )
        if found.status != 0:
            raise Failure(f"HiGHS could not price the capacities: {' '.join(str(found.message).split())[:120]}")
        duals = -found.ineqlin.marginals
        return duals[:width].clip(min=0), duals[width : 2 * width].clip(min=0)

    def _rows(self) -> Any:
        import scipy.sparse as sparse

        num, width = self.shape
        return sparse.kron(sparse.eye_array(num), np.ones((1, width)), format="csr")

    def _columns(self) -> Any:
        import scipy.sparse as sparse

        num, width = self.shape
        return sparse.kron(np.ones((1, num)), sparse.eye_array(width), format="csr")


def best_assignment(scores: Any, bounds: Bounds) -> Assignment:
    """The assignment with the largest sum of scores.

    Args:
        scores: (N, M); -inf where an option can't be given.

    Raises:
        UsageError: what can't be given leaves no assignment.
    """
    scores = np.asarray(scores, dtype=float)
    chosen = bounds.solve(scores)
    if chosen is None:
        raise UsageError(
            f"guidance rules out {int((~np.isfinite(scores)).sum())} pairs of a prompt and an option, and no assignment is left "
            "without them; lower the scale, or use log space without plausibility"
        )
    rows = np.arange(len(scores))
    total = math.fsum(scores[rows, chosen])
    other = bounds.solve(scores, without=chosen)
    prices, floors = bounds.prices(scores)
    return Assignment(
        tuple(chosen.tolist()),
        total,
        math.fsum(scores.max(1)) - total,
        None if other is None else max(0.0, total - math.fsum(scores[rows, other])),
        tuple(prices.tolist()),
        tuple(floors.tolist()),
    )


def _read_rules(rules: Any, num_variables: int) -> list[Any]:
    from scipy.optimize import LinearConstraint

    listed = [] if rules is None else [rules] if isinstance(rules, LinearConstraint) else list(rules)
    for rule in listed:
        if not isinstance(rule, LinearConstraint):
            raise UsageError(f"rules has {rule!r:.60}; use scipy.optimize.LinearConstraint", param="rules")
        width = rule.A.shape[-1] if hasattr(rule.A, "shape") else len(rule.A)
        if width != num_variables:
            raise UsageError(
                f"a rule has {width} columns and there are {num_variables}, one for each prompt and option in turn; "
                "write it over all of them",
                param="rules",
            )
    return listed
