"""A lowered forward with an order, a place for each number, and its parts: what step.c runs."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterpoint.models.kernels.products import KINDS
from counterpoint.models.kernels.step import ATTENTION, PRODUCTS, TOKENS, Instruction, Operand, Program
from counterpoint.models.recorded.layout import NotRecordable
from counterpoint.models.recorded.lower import Lowered

Step = tuple[Instruction, tuple[int | None, ...]]
ALIGNED = 16  # numbers
BLOCKS = KINDS["Q8_0"]  # from this kind on states are read in one form


def assembled(lowered: Lowered, given: tuple[int, int]) -> Program:
    """The program.

    Args:
        given: the storages of the ids and the positions.

    Raises:
        NotRecordable: the logits are no numbers of the wanted tokens alone.
    """
    steps = _products_together(lowered.instructions)
    products = [i for i, (one, _) in enumerate(steps) if one.name == "PRODUCT"]
    if not products or lowered.logits is None:
        raise NotRecordable("it has no products")
    head = products[-1]
    early, late = steps[:head], steps[head:]
    layout, storage = lowered.logits
    direct = len(late) == 1 and late[0][1][0] == storage and layout.at == 0
    if direct:
        ((one, storages),) = late
        late = [(dataclasses.replace(one, more=(one.more[0], 1)), storages)]
    else:
        gives = Instruction("GIVE", (), None, (Operand(layout.at, (layout.strides[-1],)),))
        late = [*late, (gives, (None, storage))]
    first, places, wide = _placed(early, {given[0]: 0, given[1]: 1}, lowered, {storages[1] for _, storages in late[:1]})
    states = late[0][1][1]
    if states is None:
        raise NotRecordable("its head reads what was not computed")
    last, _, wanted_wide = _placed(late, {}, lowered, set(), foreign={states: places[states]})
    last = [dataclasses.replace(one, more=(*one.more, 0, 0)[:2] + (int(i == 0),)) if one.name == "PRODUCT" else one
            for i, one in enumerate(last)]  # fmt: skip
    parts = [*_parts(first, 0, False, lowered), *_parts(last, len(first), True, lowered)]
    return Program(parts, [*first, *last], lowered.products, wide, ALIGNED if direct else wanted_wide, lowered.kept)


def _same_states(one: Step, other: Step) -> bool:
    return one[1][1] == other[1][1] and one[0].inputs[0] == other[0].inputs[0]


def _products_together(steps: list[Step]) -> list[Step]:
    """Each product right after the last one of the same states, where these are still the same then."""
    made: list[Step] = []
    for step in steps:
        at = len(made)
        if step[0].name == "PRODUCT":
            for i in range(len(made) - 1, -1, -1):
                if made[i][0].name == "PRODUCT" and _same_states(made[i], step):
                    at = i + 1
                    break
                if made[i][1] and made[i][1][0] == step[1][1]:
                    break  # the states are made here
            if any(step[1][0] in storages for _, storages in made[at:]):
                at = len(made)  # what it writes is used before
        made.insert(at, step)
    return made


@dataclass(slots=True)
class _Arena:
    """Places that are given out and taken back."""

    free: list[tuple[int, int]]
    end: int

    def take(self, size: int) -> tuple[int, int]:
        size = -(-max(size, 1) // ALIGNED) * ALIGNED
        for i, (at, room) in enumerate(self.free):
            if room >= size:
                self.free[i : i + 1] = [(at + size, room - size)] if room > size else []
                return at, size
        self.end += size
        return self.end - size, size

    def give_back(self, at: int, size: int) -> None:
        self.free.append((at, size))
        self.free.sort()
        joined: list[tuple[int, int]] = []
        for begin, room in self.free:
            if joined and sum(joined[-1]) == begin:
                joined[-1] = (joined[-1][0], joined[-1][1] + room)
            else:
                joined.append((begin, room))
        self.free = joined


def _placed(
    steps: list[Step],
    given: dict[int, int],
    lowered: Lowered,
    lasting: set[int | None],
    foreign: Mapping[int, int] = types.MappingProxyType({}),
) -> tuple[list[Instruction], dict[int, int], int]:
    """Operands with their places among the numbers of a token, which storages share where they don't live together; where
    each storage lies at the end, and how many numbers there are.

    Args:
        given: storages that are there from the beginning, and where. lasting: storages that live to the end.
        foreign: storages of another arena, which the first instruction reads.
    """
    group_end = [
        next((j for j in range(i + 1, len(steps)) if steps[j][0].name != "PRODUCT"), len(steps)) - 1
        if one.name == "PRODUCT"
        else i
        for i, (one, _) in enumerate(steps)
    ]
    last_use = {x: group_end[i] for i, (_, storages) in enumerate(steps) for x in storages if x is not None}
    last_use |= dict.fromkeys((x for x in [*given, *lasting] if x is not None), len(steps))
    arena = _Arena([], ALIGNED if given else 0)
    places, sizes, made = dict(given), {}, []
    for i, (one, storages) in enumerate(steps):
        for new in [x for x in storages[:1] if x is not None and x not in places]:
            places[new], sizes[new] = arena.take(lowered.places[new].block)
        moved: list[Any] = []
        for operand, x in zip((one.out, *one.inputs), storages):
            if operand is None or x is None:
                moved.append(operand)
                continue
            if x not in places and not (i == 0 and x in foreign):
                raise NotRecordable("a number is read that was not computed")
            at = places[x] if x in places else foreign[x]
            moved.append(dataclasses.replace(operand, at=operand.at + at))
        made.append(dataclasses.replace(one, out=moved[0], inputs=tuple(moved[1:])) if storages else one)
        for x in [x for x, end in last_use.items() if end == i and x in sizes]:
            arena.give_back(places[x], sizes.pop(x))
    return made, places, arena.end


def _parts(
    instructions: list[Instruction], begin: int, is_wanted: bool, lowered: Lowered
) -> list[tuple[int, int, int, bool]]:
    kinds = {"PRODUCT": PRODUCTS, "ATTEND": ATTENTION}
    parts: list[list] = []
    for i, one in enumerate(instructions):
        kind = kinds.get(one.name, TOKENS)
        if (
            parts
            and parts[-1][0] == kind
            and kind != ATTENTION
            and (kind == TOKENS or _joins(instructions[i - 1], one, lowered))
        ):
            parts[-1][2] = begin + i + 1
        else:
            parts.append([kind, begin + i, begin + i + 1, is_wanted])
    return [tuple(part) for part in parts]


def _joins(before: Instruction, one: Instruction, lowered: Lowered) -> bool:
    """Whether a product reads the states of the one before it, in the same form."""
    forms = [min(lowered.products[x.more[0]][0], BLOCKS) for x in (before, one)]
    return before.inputs[0] == one.inputs[0] and before.more[2:] == one.more[2:] and forms[0] == forms[1]
