"""Which comes first, the constraint or guidance: both orders on the same prompts and seeds, judged."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import counterpoint as cp
from counterpoint.constraints import Json
from counterpoint.constraints.compiled import Compiled
from counterpoint.constraints.masks import unpacked
from counterpoint.engine import Engine, prepare
from counterpoint.evaluate.intervals import difference, interval
from counterpoint.evaluate.judges import Labelled, train_judge
from counterpoint.train import read_config
from counterpoint.train.corpus import is_held_out
from counterpoint.train.records import Broken, find_file, read_records

PIECE_CHARS = 240
PROMPT = "Sentiment: {}. Movie review.\n\n"
GUIDES = {
    "prob, scale 3": cp.Guide(scale=3.0, space="prob"),
    "prob, scale 5": cp.Guide(scale=5.0, space="prob"),
    "log, scale 3, plausibility 0.1": cp.Guide(scale=3.0, plausibility=0.1),
    "log, scale 3, gate 3 nats": cp.Guide(scale=3.0, gate=3.0),
    "log, scale 3, adaptive": cp.Guide(scale=3.0, adaptive="jsd"),
}
FORM = Json(
    {
        "type": "object",
        "properties": {
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "review": {"type": "string", "minLength": 80, "maxLength": 160},
        },
        "required": ["stars", "review"],
        "additionalProperties": False,
    }
)


class MaskLast:
    """The constraint as a processor after guidance; counts the steps at which guidance has left nothing of it."""

    def __init__(self, compiled: Compiled, counts: dict[str, int]) -> None:
        self._compiled, self._state, self._counts, self._seen = compiled, compiled.start(), counts, 0

    def fork(self) -> MaskLast:
        other = MaskLast(self._compiled, self._counts)
        other._state, other._seen = self._state.fork(), self._seen
        return other

    def __call__(self, prompt_ids: Any, output_ids: Any, scores: Any) -> Any:
        for token_id in output_ids[self._seen :]:
            self._state.accept(token_id)
        self._seen = len(output_ids)
        left = scores.masked_fill(~unpacked([self._state], len(scores), scores)[0], -float("inf"))
        dropped = bool((left == -float("inf")).all())
        # Where nothing is left the engine asks again, with the prompt's own distribution.
        self._counts["dropped"] += dropped
        self._counts["steps"] += not dropped
        return left


def measure_order(corpus: Path, *, texts: int, seed: int, say: Any) -> dict[str, Any]:
    """For each guide and order: how often guidance was dropped, and what the judge says of the reviews.

    Args:
        texts: of each arm, half of them of each sentiment.
    """
    config = read_config(Path(__file__).parent.parent / "configs" / "bundled.toml")
    source = next(source for source in config.source if source.file == "sentiment")
    held = [
        record
        for record in read_records(find_file(corpus, "sentiment"), only=source.only, broken=Broken())
        if is_held_out(record, source.held_out_share, frozenset(config.held_out))
    ]
    examples = [
        Labelled(record.text[at : at + PIECE_CHARS], record.conditions["sentiment"][0], str(number))
        for number, record in enumerate(held)
        for at in range(0, min(len(record.text), 8 * PIECE_CHARS), PIECE_CHARS)
    ]
    judge = train_judge("sentiment", examples, seed=seed)
    say(f"the judge: balanced accuracy {judge.accuracy:.3f} on {len(held)} reviews held out")
    model = cp.load("bundled", dtype="float32")
    compiled = FORM.compile(model)
    arms = {}
    for name, guide in GUIDES.items():
        found = {}
        for order in ("first", "last"):
            counts = {"dropped": 0, "steps": 0}
            found[order] = _write(model, compiled, guide, order, counts, texts, seed)
            found[order]["dropped"] = counts["dropped"] / counts["steps"] if order == "last" else 0.0
            for at, label in enumerate(("positive", "negative")):
                reviews = found[order]["reviews"][at::2]
                found[order].setdefault("odds", [0.0] * texts)[at::2] = judge.log_odds(reviews, label)
                found[order].setdefault("agrees", [0] * texts)[at::2] = judge.agrees(reviews, label)
        arms[name] = {
            order: {
                "dropped": one["dropped"],
                "agrees": _interval(one["agrees"], seed),
                "log_odds": _interval(one["odds"], seed),
                "complete": one["complete"],
            }
            for order, one in found.items()
        }
        gap = difference(found["first"]["odds"], found["last"]["odds"], seed=seed)
        arms[name]["gain"] = [gap.value, gap.low, gap.high]
        agree = difference(found["first"]["agrees"], found["last"]["agrees"], seed=seed)
        arms[name]["gain_agrees"] = [agree.value, agree.low, agree.high]
        say(f"{name}: log-odds {gap.value:+.2f}, dropped {100 * arms[name]['last']['dropped']:.1f} %")
    return {"texts": texts, "seed": seed, "accuracy": judge.accuracy, "held_out": len(held), "arms": arms}


def _interval(values: list[Any], seed: int) -> list[float]:
    one = interval(values, seed=seed)
    return [one.value, one.low, one.high]


def _write(
    model: cp.Model, compiled: Compiled, guide: cp.Guide, order: str, counts: dict[str, int], texts: int, seed: int
) -> dict[str, Any]:
    how: dict[str, Any] = {"constraint": compiled} if order == "first" else {"processors": [MaskLast(compiled, counts)]}
    labels = [("positive", "negative")[at % 2] for at in range(texts)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        requests = [
            prepare(
                model,
                PROMPT.format(label),
                negative=PROMPT.format("negative" if label == "positive" else "positive"),
                guide=guide,
                seed=seed + at,
                max_tokens=120,
                **how,
            )
            for at, label in enumerate(labels)
        ]
    done = [samples[0] for samples in Engine(model, max_rows=96).complete(requests)]
    complete = [one.finish_reason == "stop" for one in done]
    reviews = []
    for one in done:
        if one.finish_reason == "stop":
            reviews.append(json.loads(one.text)["review"])
        else:  # cut by its length: what there is of the review
            reviews.append((one.text or "").partition('"review"')[2].lstrip(' \t\r\n:"'))
    return {"reviews": reviews, "complete": sum(complete) / len(complete)}
