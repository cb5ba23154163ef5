"""The examples of plans run on the bundled model, and what they write keeps their rules."""

import importlib.util
from pathlib import Path

import pytest

import counterpoint as cp

pytest.importorskip("ortools")
FOLDER = Path(__file__).parents[2] / "examples" / "plans"


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_menu(capsys):
    menu = example("menu")
    menu.main()
    assert capsys.readouterr().out.count("Monday: ") == 2
    plan = menu.menu()
    chosen = plan.read(cp.generate(cp.load("bundled"), menu.PROMPT, constraint=plan, seed=3, max_tokens=160).text)
    assert len(set(chosen.values())) == 7 and sum(menu.DISHES[dish] for dish in chosen.values()) <= menu.MOST
    assert sum(dish in menu.FISH for dish in chosen.values()) == 2


def test_the_tour_is_near_the_shortest_and_the_shortest_is_proved():
    tour = example("tour")
    assert all(len(row) == number for number, row in enumerate(tour.GR17))
    plan = tour.tour()
    assert plan.least == tour.SHORTEST == 2085
    given = {"negative": tour.NEGATIVE, "guide": cp.Guide(scale=2.0), "constraint": plan, "seed": 1, "max_tokens": 400}
    done = cp.generate(cp.load("bundled"), tour.PROMPT, **given)
    towns = list(plan.read(done.text).values())
    assert done.complete and sorted(towns) == sorted(tour.TOWNS)
    assert tour.SHORTEST <= tour.length(towns) <= 1.05 * tour.SHORTEST


def test_the_network_carries_everybody():
    airline = example("airline")
    plan = airline.network()
    given = {"negative": airline.NEGATIVE, "guide": cp.Guide(scale=2.0), "constraint": plan, "max_tokens": 500}
    done = cp.generate(cp.load("bundled"), airline.PROMPT, seed=0, **given)
    chosen = plan.read(done.text)
    assert done.complete and airline.joined(chosen)
    for route in airline.ROUTES:
        assert chosen[f"why {route}"] in airline.REASONS[chosen[route]]
