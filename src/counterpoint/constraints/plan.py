"""A text with slots, and rules over what is chosen for them."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from counterpoint.constraints.kinds import Constraint, check_after, check_text
from counterpoint.constraints.rules import Choice, Rules
from counterpoint.errors import ConstraintError

if TYPE_CHECKING:
    from counterpoint.constraints.compiled import Compiled
    from counterpoint.constraints.plan_reader import Layout, PlanReader
    from counterpoint.constraints.solving import Solver
    from counterpoint.constraints.vocabulary import Vocabulary

MOST_SLOTS = 256
SECONDS = 10.0


class Plan(Rules, Constraint):
    """A text with slots whose options keep rules together. The model chooses; what can't be completed is not offered.

    At the beginning of a slot only those options are left that some choice for all later slots goes with, found by
    solving; so the text never comes to a dead end, and every complete one keeps all rules. Rules are OR-tools' own:
    `plan.model` is a `CpModel`, `plan[slot][option]` a literal of it, `plan.value(slot, numbers)` a linear expression.

        plan = Plan("Monday: {mon}. Tuesday: {tue}.", slots={"mon": DISHES, "tue": DISHES})
        for dish in DISHES:
            plan.model.add_at_most_one(plan[day][dish] for day in plan).with_name(f"{dish} once")
        plan.model.add(sum(plan.value(day, PRICES) for day in plan) <= 40).with_name("at most 40 in all")
        plan.minimise(cost, within=1.05)
        cp.generate(model, PROMPT, negative=NEGATIVE, constraint=plan)

    Args:
        template: the text, with `{name}` for each slot and `{{` for a brace. A slot may stand at several places: they say
            the same. Slots are chosen in the order of their first places.
        slots: the options of each slot by its name: different texts, none of them empty, or whole numbers.
        after: as in `Json`.
        seconds: most time for one question to the solver. Where it does not do, the request is refused.

    Raises:
        ConstraintError: the template and the slots do not go together, or an option can't be used.
        UnsupportedError: OR-tools is not installed.
    """

    # Two plans are the same where they are one object: rules are added to it.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(
        self,
        template: str,
        slots: Mapping[str, Iterable[str | int]],
        *,
        after: str | None = None,
        seconds: float = SECONDS,
    ) -> None:
        check_after(after)
        check_text("template", template)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
            raise ConstraintError(f"seconds is {seconds!r}; use a number above 0")
        if after is not None and template[:1].isspace():
            raise ConstraintError(
                "the template begins with white space, which may come after `after` anyway; begin it later"
            )
        if not isinstance(slots, Mapping) or not slots:
            raise ConstraintError(f"slots is {slots!r:.60}; give the options of each slot by its name")
        self.template, self.after, self.seconds = template, after, float(seconds)
        self._parts, names = _parts(template)
        given = set(names)
        for name in slots:
            if name not in given:
                raise ConstraintError(f"slots has {name!r:.60} and the template has no {{{name}}}; write it there")
        missing = [name for name in names if name not in slots]
        if missing:
            raise ConstraintError(
                f"the template has {{{missing[0]}}} and slots has no {missing[0]!r}; give its options"
            )
        if len(names) > MOST_SLOTS:
            raise ConstraintError(f"the template has {len(names)} slots; use {MOST_SLOTS} at most")
        choices = [_choice(name, slots[name]) for name in names]
        Rules.__init__(self, choices, kind="slot", key_of=_text_of)
        self._settled: _Settled | None = None

    def open(self, chosen: Mapping[str, str | int] | None = None) -> dict[str, tuple[str | int, ...]]:
        """What may be chosen for the next slot after some choices; empty where all are made.

        Args:
            chosen: an option of each slot that comes before the next, by name.

        Returns:
            The next slot's name, and the options of it that can be completed, in order.

        Raises:
            ConstraintError: the rules can't be kept, a slot before the others is missing, or these choices break a rule.
        """
        chosen = chosen or {}
        made: list[int] = []
        for choice in self._choices[: len(chosen)]:
            if choice.name not in chosen:
                raise ConstraintError(f"{choice.name!r} comes before {next(iter(chosen))!r}; choose slots in order")
            option = chosen[choice.name]
            if option not in self[choice.name]:
                self[choice.name][option]  # raises, with the options
            made.append(choice.keys.index(_text_of(option)))
        extra = [name for name in chosen if name not in self]
        if extra:
            raise ConstraintError(self._unknown(extra[0]))
        solver = self.settled().solver
        if not solver.keeps(tuple(made)):
            raise ConstraintError(f"no plan that keeps the rules begins with {dict(chosen)!r:.200}")
        if len(made) == len(self._choices):
            return {}
        choice = self._choices[len(made)]
        return {choice.name: tuple(choice.options[i] for i in solver.possible(tuple(made)))}

    def read(self, text: str) -> dict[str, str | int] | None:
        """The choices that a whole text makes, by slot; None where it is none of the plan's texts."""
        reader = self.settled().reader.after(text.encode())
        chosen = None if reader is None else reader.chosen
        if chosen is None:
            return None
        return {choice.name: choice.options[option] for choice, option in zip(self._choices, chosen)}

    @property
    def least(self) -> int | None:
        """The least cost of all plans that keep the rules; None where nothing is minimised."""
        return self.settled().solver.least

    def settled(self) -> _Settled:
        """The plan with the rules that it has now. What is compiled does not see rules that come later."""
        now = (str(self.model.proto), str(self._goal))
        if self._settled is None or self._settled.made_of != now:
            self._settled = _Settled(self.solver(seconds=self.seconds), self._layout(), self.after, now)
        return self._settled

    def _layout(self) -> Layout:
        from counterpoint.constraints.plan_reader import Layout

        options = tuple(tuple(key.encode() for key in choice.keys) for choice in self._choices)
        return Layout(self._parts, options)


class _Settled(Constraint):
    """A plan whose rules are fixed."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, solver: Solver, layout: Layout, after: str | None, made_of: tuple[str, str]) -> None:
        from counterpoint.constraints.plan_reader import PlanReader

        self.solver, self.made_of, self.after = solver, made_of, after
        self.reader = PlanReader(layout, solver, None)
        self._begin: PlanReader = PlanReader(layout, solver, after)

    def made_for(self, vocabulary: Vocabulary) -> Compiled:
        from counterpoint.constraints.ruled import CompiledRules

        return CompiledRules(self, vocabulary, self._begin, self.after)


def _parts(template: str) -> tuple[tuple[bytes | int, ...], list[str]]:
    """The template cut into texts and numbers of slots, and the names of these."""
    names: dict[str, int] = {}
    parts: list[bytes | int] = []
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConstraintError(
            f"the template can't be read: {error}; write {{name}} for a slot, {{{{ for a brace"
        ) from None
    for text, name, spec, conversion in pieces:
        if text:
            if parts and isinstance(parts[-1], bytes):
                parts[-1] += text.encode()
            else:
                parts.append(text.encode())
        if name is None:
            continue
        if not name or spec or conversion:
            raise ConstraintError(
                f"the template has the slot {{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}; "
                "write {name} alone"
            )
        parts.append(names.setdefault(name, len(names)))
    if not names:
        raise ConstraintError("the template has no slot; write {name} where an option goes")
    return tuple(parts), list(names)


def _choice(name: str, options: Any) -> Choice:
    if isinstance(options, (str, bytes, set, frozenset)) or not isinstance(options, Iterable):
        raise ConstraintError(f"the options of {name!r} are {options!r:.60}; use a list of texts or whole numbers")
    listed = tuple(options)
    if not listed:
        raise ConstraintError(f"{name!r} has no option; give at least one")
    for option in listed:
        if isinstance(option, bool) or not isinstance(option, (str, int)):
            raise ConstraintError(f"{name!r} has the option {option!r:.60}; use a text or a whole number")
        check_text(f"option of {name!r}", str(option))
    keys = tuple(map(_text_of, listed))
    if len(set(keys)) < len(keys):
        raise ConstraintError(
            f"{name!r} has the option {Counter(keys).most_common(1)[0][0]!r:.60} twice; give each once"
        )
    return Choice(name, listed, keys)


def _text_of(option: Any) -> str:
    if isinstance(option, bool) or not isinstance(option, (str, int)):
        raise TypeError(option)
    return str(option)
