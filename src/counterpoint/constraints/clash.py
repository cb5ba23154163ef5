"""The smallest set of rules that can't be kept together, to be named in a message."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

SECONDS = 1.0  # for the search; what is found by then is named
LARGEST = 2**62  # bounds beyond it are none
KINDS = (
    "linear", "all_diff", "bool_or", "bool_and", "at_most_one", "exactly_one", "bool_xor", "circuit", "routes", "element",
    "table", "automaton", "inverse", "int_prod", "int_div", "int_mod", "lin_max", "no_overlap", "no_overlap_2d",
    "cumulative", "reservoir",
)  # fmt: skip


def smallest_clash(model: CpModel, num_own: int) -> list[str]:
    """The names of the fewest rules of an infeasible model that clash.

    By implicit hitting sets: the smallest set that takes one rule of every set which, left out, makes the others
    keepable (Ignatiev, Previti, Liffiton, Marques-Silva 2015, "Smallest MUS extraction with minimal hitting set
    dualization"). Where time runs out it is a set from which no rule can be left out, or not all were tried.

    Args:
        num_own: constraints of the model, from the first on, that are no rules and always hold.
    """
    search = _Search(model, num_own)
    return search.names(search.smallest())


class _Search:
    def __init__(self, model: CpModel, num_own: int) -> None:
        self._model, self._scratch = model, model.clone()
        constraints = model.proto.constraints
        # An interval is what other rules speak of, not a rule.
        self._rules = [i for i in range(num_own, len(constraints)) if not constraints[i].has_interval()]
        self._until = time.monotonic() + SECONDS

    def smallest(self) -> list[int]:
        if self._is_clash([]):
            return []
        small = self._without_idle(self._rules)
        corrections: list[set[int]] = []
        while time.monotonic() < self._until:
            tried = self._hitting(corrections)
            if tried is None or len(tried) >= len(small):
                return small
            if self._is_clash(tried):
                return tried
            corrections.append(set(self._rules) - set(self._grown(tried)))
        return small

    def _without_idle(self, rules: Sequence[int]) -> list[int]:
        """A set from which no rule can be left out: halves first, then one by one."""
        kept, size = list(rules), max(1, len(rules) // 2)
        while time.monotonic() < self._until:
            at = 0
            while at < len(kept) and time.monotonic() < self._until:
                fewer = kept[:at] + kept[at + size :]
                if self._is_clash(fewer):
                    kept = fewer
                else:
                    at += size
            if size == 1:
                break
            size = max(1, size // 2)
        return kept

    def _grown(self, rules: Sequence[int]) -> list[int]:
        """As many rules as can be kept along with these."""
        kept, rest = list(rules), [i for i in self._rules if i not in set(rules)]
        size = max(1, len(rest) // 2)
        while rest:
            left = []
            for at in range(0, len(rest), size):
                part = rest[at : at + size]
                if self._is_clash(kept + part):
                    left += part
                else:
                    kept += part
            if size == 1 or time.monotonic() > self._until:
                break
            rest, size = left, max(1, size // 2)
        return kept

    def _hitting(self, sets: Sequence[set[int]]) -> list[int] | None:
        """The smallest set with a rule of each of these."""
        from ortools.sat.python import cp_model

        model = cp_model.CpModel()
        takes = {i: model.new_bool_var("") for i in self._rules}
        for one in sets:
            model.add_bool_or([takes[i] for i in one])
        model.minimize(sum(takes.values()))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.max_time_in_seconds = max(0.01, self._until - time.monotonic())
        if solver.solve(model) != cp_model.OPTIMAL:
            return None
        return [i for i in self._rules if solver.boolean_value(takes[i])]

    def _is_clash(self, rules: Iterable[int]) -> bool:
        """Whether these can't be kept together; False where that takes too long to tell."""
        from ortools.sat.python import cp_model

        model = self._scratch
        model.proto.copy_from(self._model.proto)
        nothing = type(model.proto.constraints[0])()
        for i in set(self._rules) - set(rules):
            model.proto.constraints[i].copy_from(nothing)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.max_time_in_seconds = max(0.01, self._until - time.monotonic())
        return solver.solve(model) == cp_model.INFEASIBLE

    def names(self, rules: Sequence[int]) -> list[str]:
        return list(dict.fromkeys(self._name(i) for i in rules))

    def _name(self, i: int) -> str:
        constraint = self._model.proto.constraints[i]
        if constraint.name:
            return constraint.name
        number = self._rules.index(i) + 1
        if constraint.has_linear() and not len(constraint.enforcement_literal):
            text = self._linear(constraint.linear)
            if len(text) <= 160:
                return text
        kind = next((kind for kind in KINDS if getattr(constraint, f"has_{kind}")()), "constraint")
        return f"rule {number} ({kind})"

    def _linear(self, linear: Any) -> str:
        parts: list[str] = []
        for index, by in zip(linear.vars, linear.coeffs):
            name = self._model.proto.variables[index].name or f"variable {index}"
            sign = "-" if by < 0 else "+" if parts else ""
            parts.append(f"{sign}{' ' if parts else ''}{'' if abs(by) == 1 else f'{abs(by)} '}{name}")
        left, bounds = " ".join(parts) or "0", list(linear.domain)
        if len(bounds) == 2:
            low, high = bounds
            if low == high:
                return f"{left} == {low}"
            if low < -LARGEST:
                return f"{left} <= {high}"
            if high > LARGEST:
                return f"{left} >= {low}"
        return f"{left} in {bounds}"
