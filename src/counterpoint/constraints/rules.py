"""Several choices and the rules over them, in the language of OR-tools' `CpModel`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterpoint.constraints.solving import MOST_LITERALS, Solver
from counterpoint.errors import ConstraintError, UnsupportedError

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

MOST_OPTIONS = 512  # of one choice


class _Absent:
    """See `ABSENT`."""

    def __repr__(self) -> str:
        return "ABSENT"


#: The option of a JSON field that need not be there: that it is left out.
ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several options.

    Args:
        name: what rules call it.
        options: in the order of the choice's literals.
        keys: what each option is found by, all different.
    """

    name: str
    options: tuple[Any, ...]
    keys: tuple[str, ...]


class Literals(Mapping[Any, Any]):
    """The literals of one choice, by its options: each is true where that option is chosen."""

    def __init__(self, choice: Choice, literals: Sequence[Any], key_of: Callable[[Any], str]) -> None:
        self._choice, self._key_of = choice, key_of
        self._found = dict(zip(choice.keys, literals))

    def __getitem__(self, option: Any) -> Any:
        try:
            return self._found[self._key_of(option)]
        except (KeyError, TypeError, ValueError):
            known = ", ".join(map(repr, self._choice.options[:20]))
            raise ConstraintError(
                f"{self._choice.name!r} has no option {option!r:.60}; its options are {known}"
            ) from None

    def __contains__(self, option: Any) -> bool:
        try:
            return self._key_of(option) in self._found
        except (TypeError, ValueError):
            return False

    def __iter__(self) -> Iterator[Any]:
        return iter(self._choice.options)

    def __len__(self) -> int:
        return len(self._choice.options)


class Rules(Mapping[str, Literals]):
    """The choices of an output by name, and a model of OR-tools over them. Exactly one option of each is chosen.

    Args:
        choices: in the order in which the output makes them.
        kind: what messages call a choice.
        key_of: what an option is found by.

    Raises:
        ConstraintError: there are more options than can be solved for.
        UnsupportedError: OR-tools is not installed.
    """

    def __init__(self, choices: Sequence[Choice], *, kind: str, key_of: Callable[[Any], str]) -> None:
        try:
            from ortools.sat.python import cp_model
        except ImportError:
            raise UnsupportedError(
                "rules over several choices need the package ortools: pip install '.[plans]'"
            ) from None
        self._choices, self._kind = tuple(choices), kind
        num_literals = 0
        for choice in choices:
            num_literals += len(choice.options)
            if len(choice.options) > MOST_OPTIONS:
                raise ConstraintError(
                    f"{choice.name!r} has {len(choice.options)} options; use {MOST_OPTIONS} at most for one {kind}"
                )
        if num_literals > MOST_LITERALS:
            raise ConstraintError(
                f"the {kind}s have {num_literals} options together; use {MOST_LITERALS} at most, fewer {kind}s or options"
            )
        self._model: CpModel = cp_model.CpModel()
        self._literals: dict[str, Literals] = {}
        self._indices: list[tuple[int, ...]] = []
        for choice in choices:
            literals = [self._model.new_bool_var(f"{choice.name}={option}") for option in choice.options]
            self._model.add_exactly_one(literals)
            self._literals[choice.name] = Literals(choice, literals, key_of)
            self._indices.append(tuple(literal.index for literal in literals))
        self._num_own = len(choices)  # constraints of the model that are no rules
        self._goal: tuple[Any, float] | None = None

    @property
    def model(self) -> CpModel:
        """OR-tools' model, to add rules to. `with_name` on a rule gives it the name that messages use."""
        return self._model

    def __getitem__(self, name: str) -> Literals:
        try:
            return self._literals[name]
        except (KeyError, TypeError):
            raise ConstraintError(self._unknown(name)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._literals)

    def __len__(self) -> int:
        return len(self._literals)

    def value(self, name: str, numbers: Mapping[Any, int] | Sequence[int] | None = None) -> Any:
        """A number that depends on one choice, as a linear expression of OR-tools.

        Args:
            name: of the choice.
            numbers: a whole number for each option, by option or in their order; None is the options themselves, where
                they are whole numbers. An option that is `ABSENT` counts nothing.

        Raises:
            ConstraintError: an option has no whole number.
        """
        literals = self[name]
        options = list(literals)
        given: list[Any]
        if numbers is None:
            given = options
        elif isinstance(numbers, Mapping):
            given = [numbers.get(option, None if option is not ABSENT else 0) for option in options]
            unknown = [option for option in numbers if option not in literals]
            if unknown:
                raise ConstraintError(f"numbers of {name!r} has {unknown[0]!r:.60}, which is none of its options")
        else:
            given = list(numbers)
            if len(given) != len([option for option in options if option is not ABSENT]):
                raise ConstraintError(f"numbers of {name!r} has {len(given)} entries for {len(options)} options")
        terms = []
        for option, number in zip(options, given):
            if option is not ABSENT:
                terms.append(_whole(number, option, name) * literals[option])
        return sum(terms)

    def minimise(self, cost: Any, *, within: float = 1.0) -> None:
        """Allow only choices whose total cost is near the least one.

        Args:
            cost: a linear expression.
            within: 1 or more; 1.05 allows 5 % above the least cost.

        Raises:
            ConstraintError: `within` is out of its range, or there is a cost already.
        """
        if isinstance(within, bool) or not isinstance(within, (int, float)) or not 1 <= within < math.inf:
            raise ConstraintError(f"within is {within!r}; use 1 or more, as 1.05 for 5 % above the least cost")
        if self._goal is not None:
            raise ConstraintError("a cost is given already; minimise the sum of both")
        self._goal = (cost, float(within))

    def solver(self, *, seconds: float) -> Solver:
        """What answers questions about the rules as they are now.

        Args:
            seconds: most time for one question.

        Raises:
            ConstraintError: the rules can't be kept together, are no model, or are too hard.
        """
        if self._model.has_objective():
            raise ConstraintError(
                "the model has an objective; give the cost to minimise(cost, within=...) in its place"
            )
        if len(self._model.proto.assumptions):
            raise ConstraintError("the model has assumptions; add them as rules: model.add(literal == 1)")
        return Solver(
            self._model.clone(),
            literals=self._indices,
            num_own=self._num_own,
            goal=self._goal,
            seconds=seconds,
        )

    def _unknown(self, name: Any) -> str:
        known = ", ".join(list(self._literals)[:20]) or "none"
        return f"there is no {self._kind} {name!r:.60}; they are {known}"


def _whole(number: Any, option: Any, name: str) -> int:
    is_whole = isinstance(number, (int, float)) and not isinstance(number, bool) and number == math.floor(number)
    if not is_whole and not (hasattr(number, "__index__") and not isinstance(number, bool)):
        raise ConstraintError(
            f"the number of {option!r} in {name!r} is {number!r}; use whole numbers, in a smaller unit where need be"
        )
    return int(number)
