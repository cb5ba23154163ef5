"""Which options some way of choosing all others still allows: found by solving, and kept. Knows nothing of texts."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from counterpoint.constraints.clash import smallest_clash
from counterpoint.errors import ConstraintError

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

MOST_LITERALS = 4096  # options of all choices together
MOST_CONSTRAINTS = 200_000
MOST_KEPT, MOST_SOLUTIONS = 10_000, 2_000

# One thread: the machine's others serve the model. Most questions are easy, and presolving them takes longer than answering;
# the relaxation tells at once that eleven things do not go in ten places. After some misses a way is not tried any more.
_ONE = {"num_workers": 1, "random_seed": 0}
_BARE = {"symmetry_level": 0, "cp_model_probing_level": 0}
WAYS: tuple[dict[str, Any], ...] = (
    _ONE | _BARE | {"cp_model_presolve": False, "linearization_level": 0, "max_deterministic_time": 0.03},
    _ONE | _BARE | {"max_presolve_iterations": 1, "linearization_level": 2, "max_deterministic_time": 1.0},
    _ONE | {"linearization_level": 2},
)
MOST_MISSES = 3

Chosen = tuple[int, ...]  # for each choice that was made, in order, the number of its option


class Solver:
    """Questions about one model; safe for several threads.

    Args:
        model: OR-tools', this solver's alone.
        literals: of each choice, the variables of its options.
        num_own: how many constraints of the model, from the first on, say that one option is chosen.
        goal: (cost, within): no choice may lead to more than `within` times the least cost.
        seconds: most time for one question.

    Raises:
        ConstraintError: nothing keeps all rules, the model can't be read, or a question takes too long.
    """

    def __init__(
        self,
        model: CpModel,
        *,
        literals: Sequence[tuple[int, ...]],
        num_own: int,
        goal: tuple[Any, float] | None,
        seconds: float,
    ) -> None:
        self._model, self._literals, self._seconds = model, tuple(literals), seconds
        self._scratch = model.clone()  # made once: making a `CpModel` takes longer than most questions
        self._lock = threading.RLock()
        self._possible: OrderedDict[Chosen, tuple[int, ...]] = OrderedDict()
        self._kept: OrderedDict[Chosen, bool] = OrderedDict()
        self._solutions: list[Chosen] = []
        self._known: set[Chosen] = set()
        self._misses = [0] * len(WAYS)
        self.num_solved = 0
        #: the least cost; None where none is minimised
        self.least: int | None = None
        wrong = model.validate()
        if wrong:
            raise ConstraintError(f"the rules are no model that OR-tools takes: {' '.join(wrong.split())[:200]}")
        if len(model.proto.constraints) > MOST_CONSTRAINTS:
            raise ConstraintError(
                f"the rules are {len(model.proto.constraints)} constraints; use {MOST_CONSTRAINTS} at most"
            )
        if self._solve(model) is None:
            self._refuse(num_own)
        if goal is not None:
            self._bound(*goal)

    def possible(self, chosen: Chosen) -> tuple[int, ...]:
        """The options of the next choice that some way of making all that follow goes with, in order.

        Args:
            chosen: the options of the choices before it; there has to be a next one.

        Raises:
            ConstraintError: OR-tools can't tell in time.
        """
        with self._lock:
            if chosen not in self._possible:
                self._possible[chosen] = self._find(chosen)
                while len(self._possible) > MOST_KEPT:
                    self._possible.popitem(last=False)
            return self._possible[chosen]

    def keeps(self, chosen: Chosen) -> bool:
        """Whether some way of making the choices that follow these keeps the rules."""
        with self._lock:
            if not chosen:
                return True
            known = self._possible.get(chosen[:-1])
            if known is not None:
                return chosen[-1] in known
            if chosen not in self._kept:
                is_known = any(solution[: len(chosen)] == chosen for solution in self._solutions)
                self._kept[chosen] = is_known or self._solve(self._after(chosen)) is not None
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
            return self._kept[chosen]

    def _find(self, chosen: Chosen) -> tuple[int, ...]:
        """Mark the options of solutions, forbid these, solve again, until there is no other."""
        at = len(chosen)
        marked = {solution[at] for solution in self._solutions if solution[:at] == chosen}
        literals = self._literals[at]
        model = self._after(chosen)
        while rest := [index for option, index in enumerate(literals) if option not in marked]:
            model.add_bool_or(self._variables(model, rest))
            solution = self._solve(model)
            if solution is None:
                break
            marked.add(solution[at])
        return tuple(sorted(marked))

    def _after(self, chosen: Chosen) -> CpModel:
        model = self._scratch
        model.proto.copy_from(self._model.proto)
        made = [literals[option] for literals, option in zip(self._literals, chosen)]
        if made:
            model.add_bool_and(self._variables(model, made))
        return model

    def _solve(self, model: CpModel) -> Chosen | None:
        """The options of one solution; None where there is none."""
        from ortools.sat.python import cp_model

        self.num_solved += 1
        until = time.monotonic() + self._seconds
        for number, way in enumerate(WAYS):
            if self._misses[number] < MOST_MISSES or way is WAYS[-1]:
                solver = _solver(way, max(0.01, until - time.monotonic()))
                status = solver.solve(model)
                if status != cp_model.UNKNOWN:
                    break
                self._misses[number] += 1
        if status == cp_model.INFEASIBLE:
            return None
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            raise ConstraintError(
                f"OR-tools could not tell within {self._seconds:g} s whether the rules can be kept; make them simpler, or "
                "raise seconds"
            )
        values = solver.response_proto.solution
        solution = tuple(
            next(option for option, index in enumerate(literals) if values[index]) for literals in self._literals
        )
        if solution not in self._known and len(self._known) < MOST_SOLUTIONS:
            self._known.add(solution)
            self._solutions.append(solution)
        return solution

    def _bound(self, cost: Any, within: float) -> None:
        from ortools.sat.python import cp_model

        model = self._after(())
        model.minimize(cost)
        solver = _solver(WAYS[-1], self._seconds)
        if solver.solve(model) != cp_model.OPTIMAL:
            raise ConstraintError(
                f"OR-tools could not prove the least cost within {self._seconds:g} s; make the rules simpler, or raise seconds"
            )
        least = round(solver.objective_value)
        self.least = least
        # Rounded in whole numbers: 1.05 times 100 is to be 105 and not 104.999...
        self._model.add(cost <= least + math.floor(abs(least) * (within - 1) + 1e-9))
        self._solutions, self._known = [], set()
        self._solve(self._model)

    def _refuse(self, num_own: int) -> None:
        clash = smallest_clash(self._model, num_own)
        if not clash:
            raise ConstraintError("no way of choosing is left, whatever the rules; look at the variables' own bounds")
        named = "; ".join(clash[:8]) + (f"; and {len(clash) - 8} more" if len(clash) > 8 else "")
        what = "this rule can't be kept" if len(clash) == 1 else f"these {len(clash)} rules can't be kept together"
        raise ConstraintError(f"{what}: {named}; loosen {'it' if len(clash) == 1 else 'one of them'}")

    def _variables(self, model: CpModel, indices: Iterable[int]) -> list[Any]:
        return [model.get_bool_var_from_proto_index(index) for index in indices]


def _solver(way: dict[str, Any], seconds: float) -> Any:
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    for name, value in (way | {"max_time_in_seconds": seconds}).items():
        setattr(solver.parameters, name, value)
    return solver
