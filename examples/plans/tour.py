"""A journey through 17 towns that the model tells, at most 5 % longer than the shortest.

    python examples/plans/tour.py [MODEL]

The distances are GR17 of TSPLIB (Reinelt 1991), whose shortest tour is 2085; the solver proves it. The towns' names are
made up. Needs the extras constraints and plans.
"""

from __future__ import annotations

import sys

import counterpoint as cp

TOWNS = (
    "Arden", "Birk", "Colne", "Dunmore", "Elm Hill", "Fairwater", "Grange", "Holt", "Inver", "Jarrow", "Kingsford", "Lorne",
    "Marsh End", "Norwick", "Oldbridge", "Penrose", "Quarry",
)  # fmt: skip
#: each town's distances to those before it
GR17 = (
    (), (633,), (257, 390), (91, 661, 228), (412, 227, 169, 383), (150, 488, 112, 120, 267), (80, 572, 196, 77, 351, 63),
    (134, 530, 154, 105, 309, 34, 29), (259, 555, 372, 175, 338, 264, 232, 249),
    (505, 289, 262, 476, 196, 360, 444, 402, 495), (353, 282, 110, 324, 61, 208, 292, 250, 352, 154),
    (324, 638, 437, 240, 421, 329, 297, 314, 95, 578, 435), (70, 567, 191, 27, 346, 83, 47, 68, 189, 439, 287, 254),
    (211, 466, 74, 182, 243, 105, 150, 108, 326, 336, 184, 391, 145),
    (268, 420, 53, 239, 199, 123, 207, 165, 383, 240, 140, 448, 202, 57),
    (246, 745, 472, 237, 528, 364, 332, 349, 202, 685, 542, 157, 289, 426, 483),
    (121, 518, 142, 84, 297, 35, 29, 36, 236, 390, 238, 301, 55, 96, 153, 336),
)  # fmt: skip
SHORTEST = 2085
PROMPT = "A happy journey through warm and lovely towns. "
NEGATIVE = "A sad journey through cold and ugly towns. "


def distance(one: int, other: int) -> int:
    """Between two towns, by number."""
    return 0 if one == other else GR17[max(one, other)][min(one, other)]


def length(towns: list[str]) -> int:
    """Of the round trip through these towns."""
    numbers = [TOWNS.index(town) for town in towns]
    return sum(distance(one, other) for one, other in zip(numbers, [*numbers[1:], numbers[0]]))


def tour(within: float = 1.05) -> cp.constraints.Plan:
    """The plan of a journey that begins in the first town."""
    stops = [f"stop {i}" for i in range(len(TOWNS))]
    words = ["We set out from ", *(" and went on to ",) * (len(TOWNS) - 1)]
    template = "".join(f"{word}{{{stop}}}" for word, stop in zip(words, stops)) + ", and home again."
    plan = cp.constraints.Plan(template, {stop: TOWNS[:1] if stop == stops[0] else TOWNS for stop in stops}, seconds=60)
    model = plan.model
    road = {(a, b): model.new_bool_var(f"{a} to {b}") for a in TOWNS for b in TOWNS if a != b}
    numbers = {town: number for number, town in enumerate(TOWNS)}
    model.add_circuit((numbers[a], numbers[b], taken) for (a, b), taken in road.items()).with_name("one round trip")
    for town in TOWNS:
        model.add_exactly_one(plan[stop][town] for stop in stops if town in plan[stop]).with_name(f"{town} once")
    for here, there in zip(stops, [*stops[1:], stops[0]]):
        for (a, b), taken in road.items():
            if a in plan[here] and b in plan[there]:
                model.add_bool_or(~plan[here][a], ~plan[there][b], taken)
    plan.minimise(sum(distance(numbers[a], numbers[b]) * taken for (a, b), taken in road.items()), within=within)
    return plan


def main(name: str = "bundled") -> None:
    model, plan = cp.load(name), tour()
    print(f"The shortest tour is {plan.least}.")
    done = cp.generate(
        model, PROMPT, negative=NEGATIVE, guide=cp.Guide(scale=2.0), constraint=plan, seed=0, max_tokens=400
    )
    print(f"{done.text}\n{length(list(plan.read(done.text).values()))} in all.")


if __name__ == "__main__":
    main(*sys.argv[1:2])
