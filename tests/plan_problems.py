"""Random plans with rules, and what brute force says of them."""

import random

import numpy as np

from counterpoint.constraints import Plan

WORDS = ["fish", "fish pie", "bean", "beans", "rice, plain", "x", "xx", "égg 🥚", "tea", "nut"]


class Problem:
    """A random plan and all choices that keep its rules, as rows of option numbers."""

    def __init__(self, seed, *, most_slots=5, most_options=5, words=WORDS, gap=", ", rules=None):
        source = random.Random(seed)
        while True:
            num = source.randint(2, most_slots)
            self.slots = {
                f"s{i}": source.sample(words, source.randint(2, min(most_options, len(words)))) for i in range(num)
            }
            self.plan = Plan(gap.join(f"{{{name}}}" for name in self.slots), self.slots)
            sizes = [len(options) for options in self.slots.values()]
            self.rows = np.stack([g.ravel() for g in np.indices(sizes, dtype=np.int8)], 1)
            for _ in range(rules or source.randint(1, 4)):
                self._rule(source)
            if len(self.rows):
                return

    def _rule(self, source):
        plan, names, rows = self.plan, list(self.slots), self.rows
        kind = source.choice(["different", "count", "sum", "order", "if"])
        if kind == "different":
            one, other = source.sample(range(len(names)), 2)
            shared = set(self.slots[names[one]]) & set(self.slots[names[other]])
            keep = np.ones(len(rows), bool)
            for text in shared:
                plan.model.add_at_most_one(plan[names[one]][text], plan[names[other]][text])
                a, b = self.slots[names[one]].index(text), self.slots[names[other]].index(text)
                keep &= ~((rows[:, one] == a) & (rows[:, other] == b))
        elif kind == "count":
            text, most = source.choice(WORDS), source.randint(0, 2)
            where = [(i, self.slots[n].index(text)) for i, n in enumerate(names) if text in self.slots[n]]
            plan.model.add(sum(plan[names[i]][text] for i, _ in where) <= most)
            keep = sum(((rows[:, i] == o).astype(int) for i, o in where), np.zeros(len(rows), int)) <= most
        elif kind == "sum":
            numbers = [[source.randint(-3, 9) for _ in self.slots[name]] for name in names]
            total = sum(np.array(numbers[i])[rows[:, i]] for i in range(len(names)))
            low = int(source.choice(list(total))) if len(total) else 0
            high = low + source.randint(0, 3)
            plan.model.add_linear_constraint(sum(plan.value(name, by) for name, by in zip(names, numbers)), low, high)
            keep = (total >= low) & (total <= high)
        elif kind == "order":
            one, other = source.sample(range(len(names)), 2)
            by = {text: i for i, text in enumerate(WORDS)}
            own = [{t: by[t] for t in self.slots[names[i]]} for i in (one, other)]
            plan.model.add(plan.value(names[one], own[0]) <= plan.value(names[other], own[1]))
            left, right = (np.array([by[t] for t in self.slots[names[i]]])[rows[:, i]] for i in (one, other))
            keep = left <= right
        else:
            one, other = source.sample(range(len(names)), 2)
            a, b = source.randrange(len(self.slots[names[one]])), source.randrange(len(self.slots[names[other]]))
            first, second = self.slots[names[one]][a], self.slots[names[other]][b]
            plan.model.add_implication(plan[names[one]][first], plan[names[other]][second])
            keep = (rows[:, one] != a) | (rows[:, other] == b)
        self.rows = rows[keep]

    def possible(self, made):
        """Options of the next slot by brute force, in order."""
        rows = self.rows
        for i, option in enumerate(made):
            rows = rows[rows[:, i] == option]
        name = list(self.slots)[len(made)]
        return tuple(self.slots[name][i] for i in sorted(set(rows[:, len(made)].tolist())))

    def texts(self):
        """Every text of the plan."""
        return {
            self.plan.template.format(**{n: o[i] for (n, o), i in zip(self.slots.items(), row)})
            for row in self.rows.tolist()
        }

    def walk(self, source):
        """Check every step of a way through the plan."""
        names, made = list(self.slots), []
        while len(made) < len(names):
            chosen = {n: self.slots[n][i] for n, i in zip(names, made)}
            left = self.plan.open(chosen)[names[len(made)]]
            assert left == self.possible(made), (chosen, left, self.possible(made))
            made.append(self.slots[names[len(made)]].index(source.choice(left)))
        assert self.plan.open({n: self.slots[n][i] for n, i in zip(names, made)}) == {}
