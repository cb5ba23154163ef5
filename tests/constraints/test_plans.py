"""Plans: what is offered, what is refused, and that texts keep the rules."""

import random

import numpy as np
import pytest
from constrained_models import VOCAB, tiny
from plan_problems import Problem

import counterpoint as cp
from counterpoint.constraints import Plan, clash
from counterpoint.constraints.vocabulary import vocabulary_of
from counterpoint.errors import ConstraintError

pytest.importorskip("ortools")

DISHES = ["fish", "fish pie", "roast beef", "bean stew", "salad"]
DAYS = ["mon", "tue", "wed"]
PRICES = {"fish": 12, "fish pie": 10, "roast beef": 15, "bean stew": 5, "salad": 6}


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


def menu(**options):
    plan = Plan("Monday: {mon}, Tuesday: {tue}, Wednesday: {wed}.", dict.fromkeys(DAYS, DISHES), **options)
    for dish in DISHES:
        plan.model.add_at_most_one(plan[day][dish] for day in DAYS).with_name(f"{dish} once")
    plan.model.add(sum(plan[day]["fish"] + plan[day]["fish pie"] for day in DAYS) == 2).with_name("two with fish")
    return plan


def allowed(state):
    return np.unpackbits(state.allowed(), bitorder="little")[:VOCAB].nonzero()[0].tolist()


@pytest.mark.parametrize("seed", range(25))
def test_what_is_offered_is_what_brute_force_leaves(seed):
    problem = Problem(seed)
    for walk in range(3):
        problem.walk(random.Random(walk))


def test_a_second_solver_agrees():
    """NuCS, where it is installed: the tour through five cities in which each is visited once."""
    pytest.importorskip("nucs")
    from nucs.problems.circuit_problem import CircuitProblem
    from nucs.solvers.backtrack_solver import BacktrackSolver

    tours = {tuple(int(v) for v in found[:5]) for found in BacktrackSolver(CircuitProblem(5)).find_all()}
    plan = Plan(" ".join(f"{{{i}}}" for i in range(5)), {str(i): range(5) for i in range(5)})
    plan.model.add_circuit((i, j, plan[str(i)][j]) for i in range(5) for j in range(5) if i != j)
    for i in range(5):
        plan.model.add(plan[str(i)][i] == 0)
    ways = [{}]
    for i in range(5):
        ways = [way | {str(i): j} for way in ways for j in plan.open(way)[str(i)]]
    assert {tuple(way.values()) for way in ways} == tours


@pytest.mark.parametrize("gap", [", ", "", "x"])
@pytest.mark.parametrize("seed", range(4))
def test_tokens_are_those_that_begin_a_text_of_the_plan(model, seed, gap):
    """Ambiguous options and gaps too: at each step of random walks, against all texts by brute force."""
    problem = Problem(seed, most_slots=4, most_options=4, gap=gap)
    texts = [text.encode() for text in problem.texts()]
    spelled = vocabulary_of(model).texts
    for walk in range(4):
        source, state, out = random.Random(walk), problem.plan.compile(model).start(), b""
        while not state.is_over:
            left = allowed(state)
            going = [text for text in texts if text.startswith(out)]
            right = {i for i, token in enumerate(spelled) if token and any(t.startswith(out + token) for t in going)}
            right |= {1} if out in going else set()
            right = {i for i in right if i == 1 or i > 3}  # special tokens have a spelling that no text has
            forced = state.forced()
            assert set(left) <= right and left
            assert left == forced or set(left) == right
            assert state.complete == (out in texts)
            token_id = source.choice(left)
            state = state.fork() if source.random() < 0.3 else state
            state.accept(token_id)
            out += b"" if token_id == 1 else spelled[token_id]
        assert out.decode() in problem.texts() and problem.plan.read(out.decode()) is not None


@pytest.mark.parametrize("space", ["log", "prob"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_texts_keep_the_rules_under_guidance(space, scale):
    model, plan = cp.load("bundled"), menu()
    plan.model.add(sum(plan.value(day, PRICES) for day in DAYS) <= 28).with_name("at most 28")
    guide = cp.Guide(scale=scale, space=space)
    branches = {"negative": "It rained.", "guide": guide} if scale != 1 else {}
    for done in cp.generate(model, "The menu:", constraint=plan, n=4, seed=1, max_tokens=80, **branches):
        chosen = plan.read(done.text)
        assert done.complete and done.finish_reason == "stop"
        assert len(set(chosen.values())) == 3 and sum(PRICES[dish] for dish in chosen.values()) <= 28
        assert sum("fish" in dish for dish in chosen.values()) == 2


def test_cost_stays_near_the_least():
    plan = menu()
    cost = sum(plan.value(day, PRICES) for day in DAYS)
    plan.minimise(cost, within=1.05)
    assert plan.least == 27
    assert plan.open() == {"mon": ("fish", "fish pie", "bean stew", "salad")}  # 27 with bean stew, 28 with salad
    negative = Plan("{a}", {"a": [-100, -96, -95, -94]})
    negative.minimise(negative.value("a"), within=1.05)
    assert negative.least == -100 and negative.open() == {"a": (-100, -96, -95)}
    with pytest.raises(ConstraintError, match="a cost is given already"):
        negative.minimise(negative.value("a"))


def test_a_slot_at_two_places_says_the_same():
    plan = Plan("{a} and {b}, so {a}{{{b}}}", {"a": ["x", "xy"], "b": ["y", "z"]})
    plan.model.add_implication(plan["a"]["x"], plan["b"]["z"])
    assert plan.read("x and z, so x{z}") == {"a": "x", "b": "z"}
    assert plan.read("xy and y, so xy{y}") == {"a": "xy", "b": "y"}
    for wrong in ("x and y, so x{y}", "x and z, so xy{z}", "xy and y, so xy{z}", "x and z, so x", "x and z, so x{z}!"):
        assert plan.read(wrong) is None


def test_rules_that_come_later_count(model):
    plan = menu()
    before = plan.compile(model)
    assert plan.compile(model) is before
    plan.model.add(plan["mon"]["salad"] == 1)
    assert plan.compile(model) is not before
    assert plan.open() == {"mon": ("salad",)}


def test_the_plan_comes_after_a_text(model):
    plan = menu(after="So:")
    state = plan.compile(model).start()
    for token_id in model.tokenizer("No rice. So: Monday: salad", add_special_tokens=False)["input_ids"]:
        assert token_id in allowed(state), model.tokenizer.decode([token_id])
        state.accept(token_id)
    for token_id in model.tokenizer(", Tuesday: fish pie, Wednesday: fish.", add_special_tokens=False)["input_ids"]:
        assert not state.complete
        state.accept(token_id)
    assert state.complete and allowed(state) == [1]


def test_the_smallest_clash_is_named():
    plan = menu()
    plan.model.add(sum(plan[day]["bean stew"] for day in DAYS) >= 1)
    plan.model.add(sum(plan[day]["salad"] for day in DAYS) == 1).with_name("one salad")
    plan.model.add(plan["mon"]["fish"] + plan["tue"]["fish"] <= 1).with_name("idle")
    text = "3 rules can't be kept together: two with fish; mon=bean stew .* wed=bean stew >= 1; one salad; loosen one"
    with pytest.raises(ConstraintError, match=text):
        plan.open()
    # Chains of rules: a clash of five hides one of two, and rules without names are written out.
    plan = Plan(" ".join(f"{{{i}}}" for i in range(12)), {str(i): range(20) for i in range(12)})
    for i in range(11):
        plan.model.add(plan.value(str(i)) < plan.value(str(i + 1))).with_name(f"{i} before {i + 1}")
    plan.model.add(plan.value("11") <= 9).with_name("early")
    plan.model.add(plan["5"][3] == 1)
    plan.model.add(plan["5"][3] + plan["5"][4] == 0).with_name("neither")
    with pytest.raises(ConstraintError, match="these 2 rules can't be kept together: 5=3 == 1; neither; loosen"):
        plan.open()
    # Twelve in a row below nine; no rule can be left out.
    plan = Plan(" ".join(f"{{{i}}}" for i in range(10)), {str(i): range(9) for i in range(10)})
    plan.model.add_all_different(plan.value(str(i)) for i in range(10)).with_name("all different")
    plan.model.add(plan.value("0") >= 0).with_name("idle")
    with pytest.raises(ConstraintError, match="this rule can't be kept: all different; loosen it"):
        plan.open()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Plan("none", {"a": ["x"]}), "has no slot"),
        (lambda: Plan("{a", {"a": ["x"]}), "can't be read"),
        (lambda: Plan("{a:3}", {"a": ["x"]}), "write {name} alone"),
        (lambda: Plan("{a}{b}", {"a": ["x"]}), "slots has no 'b'"),
        (lambda: Plan("{a}", {"a": ["x"], "b": ["y"]}), "the template has no {b}"),
        (lambda: Plan("{a}", {"a": []}), "'a' has no option"),
        (lambda: Plan("{a}", {"a": ["x", "x"]}), "the option 'x' twice"),
        (lambda: Plan("{a}", {"a": [1, "1"]}), "the option '1' twice"),
        (lambda: Plan("{a}", {"a": [""]}), "a text that is not empty"),
        (lambda: Plan("{a}", {"a": [1.5]}), "a text or a whole number"),
        (lambda: Plan("{a}", {"a": "xyz"}), "use a list"),
        (lambda: Plan("{a}", {"a": range(1000)}), "512 at most"),
        (lambda: Plan("{a}", {"a": ["x"]}, seconds=0), "seconds is 0"),
        (lambda: Plan(" {a}", {"a": ["x"]}, after="so"), "begins with white space"),
        (lambda: menu()["thu"], "there is no slot 'thu'; they are mon, tue, wed"),
        (lambda: menu()["mon"]["rice"], "'mon' has no option 'rice'; its options are 'fish'"),
        (lambda: menu().value("mon", {"fish": 1}), "the number of 'fish pie' in 'mon' is None"),
        (lambda: menu().value("mon", [1, 2]), "2 entries for 5 options"),
        (lambda: menu().value("mon", [1, 2, 3, 4, 0.5]), "is 0.5; use whole numbers"),
        (lambda: menu().value("mon"), "the number of 'fish' in 'mon' is 'fish'"),
        (lambda: menu().minimise(0, within=0.9), "within is 0.9; use 1 or more"),
        (lambda: menu().open({"tue": "fish"}), "'mon' comes before 'tue'"),
        (lambda: menu().open({"mon": "fish", "thu": "fish"}), "no slot 'thu'|comes before"),
        (lambda: menu().open({"mon": "salad", "tue": "roast beef"}), "no plan that keeps the rules begins with"),
    ],
)
def test_mistakes_are_told_in_one_line(make, message):
    with pytest.raises(ConstraintError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_what_the_model_must_not_have_is_refused_by_name():
    plan = menu()
    plan.model.minimize(plan.value("mon", PRICES))
    with pytest.raises(ConstraintError, match="give the cost to minimise"):
        plan.open()
    plan = menu()
    plan.model.add_assumption(plan["mon"]["fish"])
    with pytest.raises(ConstraintError, match="add them as rules"):
        plan.open()


def test_where_the_search_for_a_clash_is_cut_what_was_found_is_named(monkeypatch):
    monkeypatch.setattr(clash, "SECONDS", 0.0)
    plan = menu()
    plan.model.add(sum(plan[day]["salad"] for day in DAYS) == 2).with_name("two salads")
    with pytest.raises(ConstraintError, match="rules can't be kept together: .*salad once.*two salads"):
        plan.open()


def test_a_question_that_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(clash, "SECONDS", 0.0)
    source = random.Random(1)
    plan = Plan(" ".join(f"{{{i}}}" for i in range(60)), {str(i): [0, 1] for i in range(60)}, seconds=0.02)
    for k in range(25):  # the market split problem: hard on purpose
        plan.model.add(sum(source.randint(0, 99) * plan.value(str(i)) for i in range(60)) == 1487 + k)
    with pytest.raises(ConstraintError, match="could not tell within 0.02 s|can't be kept"):
        plan.open()


def test_a_text_that_is_read_in_too_many_ways_is_refused():
    plan = Plan("".join(f"{{{i}}}" for i in range(24)), {str(i): ["x", "xx"] for i in range(24)})
    with pytest.raises(ConstraintError, match="can be read in more than"):
        plan.read("x" * 36)
