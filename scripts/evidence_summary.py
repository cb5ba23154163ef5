"""The answers of `scripts/evidence_smollm2.py` as numbers: every "better" with an interval and a paired test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from evidence_parts import Arm, Part

from counterpoint.evaluate.answering import Answer
from counterpoint.evaluate.artefacts import find_artefacts
from counterpoint.evaluate.diversity import distinct
from counterpoint.evaluate.intervals import OfMean, difference, interval
from counterpoint.evaluate.posterior import bootstrap

Answers = Mapping[tuple[int, int, int], Answer]  # by document, arm and sample
MARKS = ("lower_case", "confuses_roles", "repetition", "symbols")
_RATIO = OfMean(lambda mean: mean)


def summarise_part(part: Part, answers: Answers, *, seed: int) -> dict[str, Any]:
    """One row an arm: how it was judged, what went wrong in its texts, and how it compares.

    `gain` is over the unguided arm that is greedy or sampled as it is, `over_plain` over the best arm without a branch of
    the same kind (a temperature, plausibility alone); p by McNemar's exact test where documents are right or wrong.
    """
    by_arm = [_by_document(part, answers, number) for number in range(len(part.arms))]
    judged = [
        [sum(part.judge(doc, one) for one in texts) / len(texts) for doc, texts in zip(part.documents, each)]
        for each in by_arm
    ]
    rows = [_row(part, arm, texts, scores, seed) for arm, texts, scores in zip(part.arms, by_arm, judged)]
    for row, arm, scores in zip(rows, part.arms, judged):
        base = next(
            i for i, one in enumerate(part.arms) if _is_plain(one) and bool(one.temperature) == bool(arm.temperature)
        )
        plain = [
            i for i, one in enumerate(part.arms) if _is_plain(one) and bool(one.temperature) == bool(arm.temperature)
        ]
        best = (min if part.name == "personal data" else max)(plain, key=lambda i: sum(judged[i]))
        row["gain"] = None if rows[base] is row else _difference(scores, judged[base], seed)
        row["gain_by_group"] = (
            {}
            if row["gain"] is None
            else {
                group: _difference(*(_of_group(part, group, each) for each in (scores, judged[base])), seed)
                for group in row["by_group"]
            }
        )
        row["over_plain"] = (
            None if _is_plain(arm) else {"arm": part.arms[best].name} | _difference(scores, judged[best], seed)
        )
    for kind in (False, True):
        chosen = [i for i, arm in enumerate(part.arms) if bool(arm.temperature) == kind]
        if len(chosen) > 1:
            believed = bootstrap(
                list(zip(*(judged[i] for i in chosen))), [part.arms[i].name for i in chosen], seed=seed,
                higher_is_better=part.name != "personal data",
            )  # fmt: skip
            for i, one in zip(chosen, believed.standings):
                rows[i]["standing"] = dataclasses.asdict(one)
    return {
        "documents": len(part.documents),
        "samples": part.samples,
        "max_tokens": part.max_tokens,
        "groups": list(dict.fromkeys(doc.group for doc in part.documents)),
        "arms": rows,
        "examples": [
            {"document": part.documents[at].name}
            | {part.arms[n].name: by_arm[n][at][0].text for n in range(len(by_arm))}
            for at in (0, len(part.documents) // 2)
        ],
    }


def choose_guide(part: dict[str, Any]) -> dict[str, Any]:
    """The default for chats, by a rule that was fixed before the figures were seen.

    Among greedy arms with a branch that garble no more than unguided text (their artefacts of each kind lie within, or
    below, the interval of the unguided arm, and improbable tokens are below one in a thousand): the best adherence; among those that a paired
    test can't tell from it (p > 0.05) the smallest scale.
    """
    greedy = [row for row in part["arms"] if not row["temperature"]]
    base = greedy[0]
    within = [
        row
        for row in greedy
        if row["negative"] is not None
        and all(row[mark]["value"] <= base[mark]["high"] for mark in MARKS)
        and row["artefacts"]["value"] <= MOST_IMPROBABLE
    ]
    within.sort(key=lambda row: -row["judged"]["value"])
    if not within:
        return {"chosen": None, "within": []}
    alike = [row for row in within if _p(row["wins"], within[0]["wins"]) > 0.05]
    chosen = min(alike, key=lambda row: (row["guide"]["scale"], len(row["guide"])))
    return {"chosen": chosen["arm"], "within": [row["arm"] for row in within], "alike": [row["arm"] for row in alike]}


MOST_IMPROBABLE = 0.001


def _p(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return difference(ours, theirs, seed=0).p


def _is_plain(arm: Arm) -> bool:
    return arm.negative is None and arm.prompt == "prompt"


def _of_group(part: Part, group: str, scores: list[float]) -> list[float]:
    return [score for score, document in zip(scores, part.documents) if document.group == group]


def _by_document(part: Part, answers: Answers, arm: int) -> list[list[Answer]]:
    count = part.samples if part.arms[arm].temperature else 1
    return [[answers[at, arm, sample] for sample in range(count)] for at in range(len(part.documents))]


def _row(part: Part, arm: Arm, texts: list[list[Answer]], scores: list[float], seed: int) -> dict[str, Any]:
    flat = [one for each in texts for one in each]
    marks = [find_artefacts(one.text) for one in flat]
    row = {
        "arm": arm.name,
        "family": arm.family,
        "guide": arm.guide.to_dict(),
        "negative": arm.negative,
        "temperature": arm.temperature,
        "judged": dataclasses.asdict(interval(scores, seed=seed)),
        "by_group": {
            group: sum(s for s, doc in zip(scores, part.documents) if doc.group == group)
            / sum(doc.group == group for doc in part.documents)
            for group in dict.fromkeys(doc.group for doc in part.documents)
        },
        "artefacts": dataclasses.asdict(
            interval([(one.num_artefacts, max(1, one.num_tokens)) for one in flat], seed=seed, statistic=_RATIO)
        ),
        "distinct_2": distinct([one.text for one in flat], 2),
        "wins": scores,
    }
    for mark in MARKS:
        row[mark] = dataclasses.asdict(interval([float(getattr(one, mark)) for one in marks], seed=seed))
    return row


def _difference(ours: Sequence[float], theirs: Sequence[float], seed: int) -> dict[str, Any]:
    return dataclasses.asdict(difference(ours, theirs, seed=seed))
