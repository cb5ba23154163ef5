"""Which routes an airline opens, and why: OR-tools decides what can carry all passengers, the model chooses and explains.

    python examples/plans/airline.py [MODEL]

Passengers go from every town to every other, over routes that are open. A route costs a fixed sum to open, and each
passenger its length. The model may write any network whose cost is at most 5 % above the least, with a reason for each
route that fits it. Towns and numbers are made up. Needs the extras constraints and plans.
"""

from __future__ import annotations

import itertools
import math
import sys

import counterpoint as cp

TOWNS = {"Arden": (0, 0), "Birk": (6, 1), "Colne": (3, 4), "Dunmore": (9, 5), "Elm Hill": (5, 8)}  # where they lie
PEOPLE = {"Arden": 5, "Birk": 3, "Colne": 8, "Dunmore": 2, "Elm Hill": 4}
OPENING = 60  # to open a route, for each unit of its length
OPEN, CLOSED = "is opened", "stays closed"
REASONS = {
    OPEN: ["since many people want to go there", "since it joins the towns", "because the sea between them is rough"],
    CLOSED: ["since few would fly", "as there is a way through another town", "because it would cost too much"],
}
PROMPT = "The head of the airline, who was warm and kind, told the towns what would come:\n"
NEGATIVE = "The head of the airline, who was cold and rude, told the towns what would come:\n"
ROUTES = [f"{a} to {b}" for a, b in itertools.combinations(TOWNS, 2)]


def span(route: str) -> int:
    """The length of a route."""
    a, b = route.split(" to ")
    return round(math.dist(TOWNS[a], TOWNS[b]))


def network(within: float = 1.05) -> cp.constraints.Plan:
    """The plan: for each route whether it is opened, and a reason."""
    template = "".join(f"{route} {{{route}}} {{why {route}}}.\n" for route in ROUTES)
    reasons = [reason for listed in REASONS.values() for reason in listed]
    slots = {route: [OPEN, CLOSED] for route in ROUTES} | {f"why {route}": reasons for route in ROUTES}
    plan = cp.constraints.Plan(template, slots, seconds=60)
    model = plan.model
    for route in ROUTES:
        for way, listed in REASONS.items():
            model.add(sum(plan[f"why {route}"][reason] for reason in listed) == plan[route][way])
    everybody = sum(PEOPLE.values()) ** 2
    flown = []
    for origin in TOWNS:  # the passengers of one town go together
        flow = {}
        for route in ROUTES:
            a, b = route.split(" to ")
            for one, other in ((a, b), (b, a)):
                flow[one, other] = model.new_int_var(0, everybody, f"from {origin}: {one} to {other}")
                model.add(flow[one, other] <= everybody * plan[route][OPEN])
                flown.append(span(route) * flow[one, other])
        for town in TOWNS:
            come = sum(count for (_, to), count in flow.items() if to == town)
            go = sum(count for (by, _), count in flow.items() if by == town)
            if town != origin:
                model.add(come - go == PEOPLE[origin] * PEOPLE[town]).with_name(f"all from {origin} to {town}")
    plan.minimise(sum(OPENING * span(route) * plan[route][OPEN] for route in ROUTES) + sum(flown), within=within)
    return plan


def joined(chosen: dict[str, str]) -> bool:
    """Whether everybody can get everywhere."""
    reached, todo = set(), [next(iter(TOWNS))]
    while todo:
        town = todo.pop()
        reached.add(town)
        for route in ROUTES:
            ends = route.split(" to ")
            if chosen[route] == OPEN and town in ends:
                todo += [other for other in ends if other not in reached]
    return reached == set(TOWNS)


def main(name: str = "bundled") -> None:
    model, plan = cp.load(name), network()
    print(f"The least cost is {plan.least}.")
    done = cp.generate(
        model, PROMPT, negative=NEGATIVE, guide=cp.Guide(scale=2.0), constraint=plan, seed=0, max_tokens=400
    )
    print(done.text)


if __name__ == "__main__":
    main(*sys.argv[1:2])
