"""The frontier: what each guide gains in adherence, and what it costs in fluency, variety and artefacts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from counterpoint.contexts import Empty
from counterpoint.engine import Engine, Observation, prepare
from counterpoint.errors import UsageError
from counterpoint.evaluate.diversity import distinct, repetition, self_bleu
from counterpoint.evaluate.intervals import difference, interval
from counterpoint.evaluate.judges import Judge, NgramModel
from counterpoint.guide import Guide
from counterpoint.models.model import Model
from counterpoint.sampling import SEED_VERSION
from counterpoint.store import Store, key_of
from counterpoint.trace.record import LIMITS

SCALES = (1.5, 2.0, 3.0, 5.0, 8.0)
# The gate is above the 0.5 to 1 nat of arXiv 2510.13940, which a small model's entropy hardly ever falls below.
FORMULAS = {
    "log": {},
    "prob": {"space": "prob"},
    "log, plausibility 0.1": {"plausibility": 0.1},
    "log, gate 3 nats": {"gate": 3.0},
    "log, adaptive": {"adaptive": "jsd"},
}
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9)
PLAUSIBILITIES = (0.02, 0.1, 0.3)
MAX_ROWS = 96


@dataclass(frozen=True, slots=True)
class Condition:
    """Something to ask for.

    Args:
        name: what tables call it.
        prompt: the text that asks for it.
        negative: the text to move away from; None for no condition at all.
        judge: the name of the judge that decides.
        label: what the judge has to find.
    """

    name: str
    prompt: str
    negative: str | None
    judge: str
    label: str


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to write. `family` is what is drawn as one line."""

    family: str
    guide: Guide
    temperature: float = 1.0

    @property
    def name(self) -> str:
        if self.guide.scale != 1:
            return f"{self.family}, scale {self.guide.scale:g}"
        if self.guide.plausibility:
            return f"plausibility {self.guide.plausibility:g} alone"
        return f"unguided, temperature {self.temperature:g}"


def all_arms(scales: Sequence[float] = SCALES) -> list[Arm]:
    """Unguided first, which is every formula at scale 1; then temperatures, plausibility alone, and each formula."""
    plain = Guide(scale=1.0)
    return [
        Arm("unguided", plain),
        *(Arm("unguided", plain, temperature) for temperature in TEMPERATURES),
        *(Arm("plausibility alone", Guide(scale=1.0, plausibility=a)) for a in PLAUSIBILITIES),
        *(Arm(name, Guide(scale=scale, **fields)) for name, fields in FORMULAS.items() for scale in scales),
    ]


@dataclass(frozen=True, slots=True)
class Sample:
    """One text, how many tokens it has, and how many of them are artefacts by `counterpoint.trace`'s limits."""

    text: str
    num_tokens: int
    num_artefacts: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One arm's figures; each of the first four with its 95 percent interval over samples as (value, low, high).

    Args:
        adherence: share of samples that the judge takes for what was asked for.
        bits_per_byte: under the n-gram model; low is fluent, and too low is dull.
        artefacts: share of tokens that the conditional branch finds implausible.
        repetition: share of 3-grams that a sample had already.
        distinct_2, self_bleu: over samples of the same condition, averaged over conditions.
        won: adherence of each sample, for paired tests.
        by_condition: adherence for each condition.
    """

    arm: Arm
    adherence: tuple[float, float, float]
    bits_per_byte: tuple[float, float, float]
    artefacts: tuple[float, float, float]
    repetition: tuple[float, float, float]
    distinct_2: float
    self_bleu: float
    won: tuple[int, ...]
    by_condition: dict[str, float]


def write_samples(
    model: Model,
    arm: Arm,
    conditions: Sequence[Condition],
    *,
    samples: int,
    max_tokens: int,
    seed: int,
    store: Store,
    weights: str,
) -> list[list[Sample]]:
    """samples[condition][i]; sample i has the same seed under every arm. Taken from the store where they are there.

    Args:
        weights: a fingerprint of the model.
    """
    key = key_of(
        "frontier", SEED_VERSION, weights, arm.guide.to_dict(), arm.temperature, [dataclasses.asdict(c) for c in conditions],
        samples, max_tokens, seed,
    )  # fmt: skip
    found = store.get([key])
    if key not in found:
        written = _write(model, arm, conditions, samples, max_tokens, seed)
        found[key] = [[dataclasses.astuple(one) for one in each] for each in written]
        store.put(found)
    return [[Sample(*values) for values in each] for each in found[key]]


def measure(
    arm: Arm,
    conditions: Sequence[Condition],
    samples: Sequence[Sequence[Sample]],
    judges: dict[str, Judge],
    fluency: NgramModel,
    *,
    seed: int,
) -> Measured:
    """The figures of one arm."""
    won = [judges[c.judge].agrees([s.text for s in each], c.label) for c, each in zip(conditions, samples)]
    flat = [sample for each in samples for sample in each]
    texts = [[s.text for s in each] for each in samples]
    bits = [(fluency.bits(s.text), len(s.text.encode())) for s in flat]
    counts = [(s.num_artefacts, s.num_tokens) for s in flat]
    return Measured(
        arm=arm,
        adherence=_interval([one for each in won for one in each], seed),
        bits_per_byte=_interval(bits, seed, _ratio),
        artefacts=_interval(counts, seed, _ratio),
        repetition=_interval([repetition(s.text) for s in flat], seed),
        distinct_2=sum(distinct(each, 2) for each in texts) / len(texts),
        self_bleu=sum(self_bleu(each, seed=seed) for each in texts) / len(texts),
        won=tuple(one for each in won for one in each),
        by_condition={c.name: sum(each) / len(each) for c, each in zip(conditions, won)},
    )


def run_frontier(
    model: Model,
    conditions: Sequence[Condition],
    judges: dict[str, Judge],
    fluency: NgramModel,
    *,
    arms: Sequence[Arm],
    samples: int,
    max_tokens: int,
    seed: int,
    store: Store,
    weights: str,
    say: Callable[[str], None] = lambda line: None,
) -> list[Measured]:
    """Every arm written and measured, in order.

    Raises:
        UsageError: a condition names a judge that is not there, or `samples` is below 2.
    """
    for condition in conditions:
        if condition.judge not in judges:
            raise UsageError(
                f"the condition {condition.name!r} names the judge {condition.judge!r}, which is not there"
            )
    if samples < 2:
        raise UsageError(f"samples is {samples}; use 2 or more for each condition")
    measured = []
    for number, arm in enumerate(arms, 1):
        written = write_samples(
            model, arm, conditions, samples=samples, max_tokens=max_tokens, seed=seed, store=store, weights=weights
        )
        measured.append(measure(arm, conditions, written, judges, fluency, seed=seed))
        last = measured[-1]
        say(
            f"{number}/{len(arms)} {arm.name}: adherence {last.adherence[0]:.3f}, {last.bits_per_byte[0]:.3f} bits a byte"
        )
    return measured


@dataclass(frozen=True, slots=True)
class Choice:
    """The default and why: arms that stay within the bounds, best adherence first; tests against the alternatives.

    Args:
        chosen: the guided arm to use as default; None where no guided arm stays within the bounds.
        within: names of all arms within the bounds, guided or not, best adherence first.
        against: name of another arm -> `intervals.Difference` of the chosen arm's adherence less that arm's.
    """

    chosen: Measured | None
    within: tuple[str, ...]
    against: dict[str, dict[str, Any]]


def choose_default(
    measured: Sequence[Measured], *, seed: int, least_distinct: float = 0.9, most_artefacts: float = 1.0
) -> Choice:
    """The guided arm with the best adherence among those that cost nothing else; of those that a paired exact test
    can't tell from it (p > 0.05), the one with the smallest scale.

    Bounds, against unguided sampling (the first arm): bits per byte not above it, distinct-2 at least `least_distinct`
    of it, artefact rate at most `most_artefacts` of it, repetition not above its interval.
    """
    base = measured[0]
    within = [
        m
        for m in measured
        if m.bits_per_byte[0] <= base.bits_per_byte[0]
        and m.distinct_2 >= least_distinct * base.distinct_2
        and m.artefacts[0] <= most_artefacts * base.artefacts[0]
        and m.repetition[0] <= base.repetition[2]
    ]
    within.sort(key=lambda m: -m.adherence[0])
    guided = [m for m in within if m.arm.guide.scale != 1]
    names = tuple(m.arm.name for m in within)
    if not guided:
        return Choice(None, names, {})
    alike = [m for m in guided if difference(m.won, guided[0].won, seed=seed).p > 0.05]
    # FORMULAS is in order of how much there is to explain.
    order = {family: at for at, family in enumerate(FORMULAS)}
    chosen = min(alike, key=lambda m: (m.arm.guide.scale, order.get(m.arm.family, 0)))
    others = [base, guided[0]]
    for kind in ("unguided", "plausibility alone"):
        rivals = [m for m in within if m.arm.family == kind] or [m for m in measured if m.arm.family == kind]
        others += [max(rivals, key=lambda m: m.adherence[0])] if rivals else []
    against = {
        m.arm.name: dataclasses.asdict(difference(chosen.won, m.won, seed=seed))
        for m in others
        if m.arm.name != chosen.arm.name
    }
    return Choice(chosen, names, against)


def same_fluency(measured: Sequence[Measured], *, seed: int) -> list[dict[str, Any]]:
    """Each formula's arm of best adherence beside the unguided arm (any temperature or plausibility) whose bits per byte
    are nearest to its own, and the difference of their adherence: what guidance does that less entropy does not.

    Returns:
        `arm`, `rival` (names), `bits_per_byte`, `distinct_2` (of both), `difference` (`intervals.Difference` as a dict).
    """
    plain = [m for m in measured if m.arm.guide.scale == 1]
    rows = []
    for family in dict.fromkeys(m.arm.family for m in measured if m.arm.guide.scale != 1):
        ours = max((m for m in measured if m.arm.family == family), key=lambda m: m.adherence[0])
        rival = min(plain, key=lambda m: abs(m.bits_per_byte[0] - ours.bits_per_byte[0]))
        rows.append(
            {
                "arm": ours.arm.name,
                "rival": rival.arm.name,
                "bits_per_byte": (ours.bits_per_byte[0], rival.bits_per_byte[0]),
                "distinct_2": (ours.distinct_2, rival.distinct_2),
                "difference": dataclasses.asdict(difference(ours.won, rival.won, seed=seed)),
            }
        )
    return rows


def _write(
    model: Model, arm: Arm, conditions: Sequence[Condition], samples: int, max_tokens: int, seed: int
) -> list[list[Sample]]:
    requests, artefacts = [], [[0] * samples for _ in conditions]
    for at, condition in enumerate(conditions):
        negative: Any = Empty() if condition.negative is None else condition.negative
        request = prepare(
            model,
            condition.prompt,
            negative=None if arm.guide.scale == 1 else negative,
            guide=arm.guide,
            temperature=arm.temperature,
            max_tokens=max_tokens,
            seed=seed + 1000 * at,
            n=samples,
            observe=functools.partial(_watch, artefacts[at]),
        )
        requests.append(request)
    done = Engine(model, max_rows=MAX_ROWS).complete(requests)
    return [
        [Sample(c.text or "", len(c.token_ids), count) for c, count in zip(completions, counts)]
        for completions, counts in zip(done, artefacts)
    ]


def _watch(counts: list[int], index: int, seen: Observation) -> None:
    """Count the token if it is an artefact."""
    logprob = seen.cond[seen.token_id]
    is_improbable = float(logprob.exp()) < LIMITS.prob
    if is_improbable and int((seen.cond > logprob).sum()) >= LIMITS.rank:
        counts[index] += 1


def _interval(values: Sequence[Any], seed: int, statistic=None) -> tuple[float, float, float]:
    found = interval(values, seed=seed, statistic=statistic)
    return found.value, found.low, found.high


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(a for a, _ in pairs) / max(1, sum(b for _, b in pairs))
