"""A week's menu that the model writes: no dish twice, two with fish, at most 72 in all.

    python examples/plans/menu.py [MODEL]

Needs the extras constraints and plans.
"""

from __future__ import annotations

import sys

import counterpoint as cp

DISHES = {  # and what each costs
    "baked trout": 14, "fish pie": 10, "grilled salmon": 16, "roast beef": 15, "lamb stew": 13, "chicken soup": 9,
    "bean stew": 6, "mushroom pie": 8, "potato salad": 5, "tomato soup": 6,
}  # fmt: skip
FISH = ("baked trout", "fish pie", "grilled salmon")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MOST = 72
PROMPT = "The cook of the fine inn by the sea wrote the best menu of the year on a board:\n"
NEGATIVE = "The cook of the poor prison wrote the worst menu of the year on a board:\n"


def menu() -> cp.constraints.Plan:
    """The plan and its rules."""
    plan = cp.constraints.Plan("\n".join(f"{day}: {{{day}}}" for day in DAYS), dict.fromkeys(DAYS, DISHES))
    for dish in DISHES:
        plan.model.add_at_most_one(plan[day][dish] for day in DAYS).with_name(f"{dish} once")
    plan.model.add(sum(plan[day][dish] for day in DAYS for dish in FISH) == 2).with_name("two with fish")
    plan.model.add(sum(plan.value(day, DISHES) for day in DAYS) <= MOST).with_name(f"at most {MOST} in all")
    return plan


def main(name: str = "bundled") -> None:
    model, plan = cp.load(name), menu()
    for scale in (1.0, 3.0):
        guided = {"negative": NEGATIVE, "guide": cp.Guide(scale=scale)} if scale != 1 else {}
        done = cp.generate(model, PROMPT, constraint=plan, seed=0, max_tokens=160, **guided)
        chosen = plan.read(done.text)
        print(f"Scale {scale:g}, {sum(DISHES[dish] for dish in chosen.values())} in all:\n{done.text}\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
