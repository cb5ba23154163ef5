"""Makes docs/plans.md and .json: what plans and assignments do, and what they cost.

    python scripts/plans.py --corpus CORPUS [--parts brute,slots,rules,clash,tour,assign,linsat]

CORPUS is a folder with `sentiment.jsonl.xz`, records of labelled texts. Parts can be made one by one; the others are kept
as they are in the JSON file. `linsat` compares with LinSATNet where that package is installed. Needs the extras
constraints, plans and test.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TOP = Path(__file__).parent.parent
sys.path.insert(0, str(TOP / "tests"))
import ortools
from plan_problems import Problem
from plans_assign import measure_accuracy, measure_linsat
from plans_page import write_page

import counterpoint as cp
from counterpoint.bench.machine import describe_machine
from counterpoint.constraints import Plan, Regex
from counterpoint.constraints.plan_reader import PlanReader
from counterpoint.errors import ConstraintError

PARTS = ("brute", "slots", "rules", "clash", "tour", "assign", "linsat")


def measure_brute(*, seed: int) -> dict[str, Any]:
    """What is offered against brute force, at every step of ways through random plans."""
    num_steps, most = 0, 0
    for number in range(200):
        problem = Problem(seed + number, most_slots=8, most_options=8)
        most = max(most, len(problem.rows))
        for walk in range(2):
            problem.walk(random.Random(walk))  # raises where they differ
            num_steps += len(problem.slots)
        print(f"\r{number + 1} of 200", end="", file=sys.stderr)
    return {"problems": 200, "steps": num_steps, "most": most}


def knapsack(num_slots: int, num_options: int, seed: int) -> Plan:
    """No option twice, a sum, and one of two options somewhere."""
    source = random.Random(seed)
    plan = Plan(" ".join(f"{{{i}}}" for i in range(num_slots)), {str(i): range(num_options) for i in range(num_slots)})
    numbers = [source.randint(1, 20) for _ in range(num_options)]
    plan.model.add_all_different(plan.value(name) for name in plan)
    plan.model.add(sum(plan.value(name, numbers) for name in plan) <= sum(sorted(numbers)[:num_slots]) * 13 // 10)
    plan.model.add(sum(plan[name][0] + plan[name][1] for name in plan) >= 1)
    return plan


def measure_slots(*, seed: int) -> dict[str, Any]:
    """Processor time of the solver for each slot."""
    rows = []
    for num_slots, num_options in ((5, 8), (10, 10), (10, 20), (20, 20), (20, 40)):
        each, first = [], []
        for number in range(3):
            plan, source = knapsack(num_slots, num_options, seed + number), random.Random(number)
            begun = time.process_time()
            plan.settled()
            first.append(time.process_time() - begun)
            chosen: dict[str, Any] = {}
            for name in plan:
                begun = time.process_time()
                left = plan.open(chosen)[name]
                each.append(time.process_time() - begun)
                chosen[name] = source.choice(left)
        rows.append(
            {
                "slots": num_slots,
                "options": num_options,
                "first": max(first),
                "mean": statistics.mean(each),
                "most": max(each),
            }
        )
    return {"rows": rows}


def measure_rules(*, seed: int) -> dict[str, Any]:
    """How many texts keep the rules, with the plan and with its grammar alone."""
    model, problems, number = cp.load("bundled"), [], seed
    while len(problems) < 30:
        problem = Problem(number, most_slots=6, most_options=6, rules=8)
        problems += [problem] if len(problem.slots) >= 4 else []
        number += 1
    rows = []
    for space in ("log", "prob"):
        for scale in (1.0, 1.5, 3.0):
            guided = {"negative": "It rained.", "guide": cp.Guide(scale=scale, space=space)} if scale != 1 else {}
            kept = {"plan": 0, "grammar": 0}
            for at, problem in enumerate(problems):
                layout = problem.plan._layout()
                anything = Plan(problem.plan.template, problem.slots)
                grammar = PlanReader(layout, anything.settled().solver, None).form()
                assert isinstance(grammar, Regex)
                for name, form in (("plan", problem.plan), ("grammar", grammar)):
                    done = cp.generate(
                        model, "The list of the day:", constraint=form, seed=seed + at, max_tokens=120, **guided
                    )
                    assert done.complete
                    kept[name] += done.text in problem.texts()
            rows.append({"space": space, "scale": scale, **kept})
            print(rows[-1], file=sys.stderr)
    return {"plans": len(problems), "rows": rows}


def measure_clash() -> dict[str, Any]:
    """Processor time until a plan that can't be kept is refused, and what is named."""
    rows = []
    for name, make in CLASHES.items():
        plan = make()
        begun = time.process_time()
        try:
            plan.settled()
        except ConstraintError as error:
            rows.append({"name": name, "seconds": time.process_time() - begun, "message": str(error)})
    return {"rows": rows}


def _two_sums() -> Plan:
    plan = knapsack(10, 20, 0)
    plan.model.add(sum(plan.value(name) for name in plan) >= 100).with_name("at least 100")
    plan.model.add(sum(plan.value(name) for name in plan) <= 99).with_name("at most 99")
    return plan


def _too_few() -> Plan:
    plan = Plan(" ".join(f"{{{i}}}" for i in range(12)), {str(i): range(11) for i in range(12)})
    plan.model.add_all_different(plan.value(name) for name in plan).with_name("all different")
    return plan


def _chain() -> Plan:
    plan = Plan(" ".join(f"{{{i}}}" for i in range(12)), {str(i): range(10) for i in range(12)})
    for i in range(11):
        plan.model.add(plan.value(str(i)) < plan.value(str(i + 1))).with_name(f"{i} before {i + 1}")
    return plan


CLASHES = {
    "two sums, 10 x 20": _two_sums,
    "12 slots, 11 options, all different": _too_few,
    "a chain of 11 orders": _chain,
}


def measure_tour(*, seed: int) -> dict[str, Any]:
    """The tour of GR17: the bound, a text, and the time for each slot."""
    spec = importlib.util.spec_from_file_location("tour", TOP / "examples" / "plans" / "tour.py")
    assert spec is not None and spec.loader is not None
    tour = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tour)
    begun = time.process_time()
    plan = tour.tour()
    least, prove = plan.least, time.process_time() - begun
    source, each, chosen = random.Random(seed), [], {}
    for name in plan:
        begun = time.process_time()
        left = plan.open(chosen)[name]
        each.append(time.process_time() - begun)
        chosen[name] = source.choice(left)
    given = {"negative": tour.NEGATIVE, "guide": cp.Guide(scale=2.0), "constraint": plan, "max_tokens": 400}
    texts = cp.generate(cp.load("bundled"), tour.PROMPT, n=10, seed=seed, **given)
    lengths = [tour.length(list(plan.read(done.text).values())) for done in texts]
    return {
        "least": least, "prove": prove, "mean": statistics.mean(each), "most": max(each), "lengths": lengths,
        "text": texts[0].text,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--texts", type=int, default=600, help="labelled ones")
    parser.add_argument("--guides", type=int, default=4, help="how many of the guides, from the first on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, default=TOP / ".plans-scores", help="keeps scores through a kill")
    parser.add_argument("--out", type=Path, default=TOP / "docs")
    args = parser.parse_args()
    path = args.out / "plans.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    makers = {
        "brute": lambda: measure_brute(seed=args.seed),
        "slots": lambda: measure_slots(seed=args.seed),
        "rules": lambda: measure_rules(seed=args.seed),
        "clash": measure_clash,
        "tour": lambda: measure_tour(seed=args.seed),
        "assign": lambda: measure_accuracy(
            args.corpus, args.store, texts=args.texts, guides=args.guides, seed=args.seed
        ),
        "linsat": lambda: measure_linsat(seed=args.seed),
    }
    for part in filter(None, args.parts.split(",")):
        if part == "assign" and args.corpus is None:
            parser.error("--corpus is needed for the part assign")
        print(part, file=sys.stderr)
        results[part] = makers[part]()
        results["machine"] = describe_machine() | {"OR-tools": ortools.__version__}
        results["seed"] = args.seed
        kept = path.with_suffix(".part")
        kept.write_text(json.dumps(results, indent=1) + "\n")
        kept.replace(path)
    write_page(results, args.out / "plans.md")


if __name__ == "__main__":
    main()
