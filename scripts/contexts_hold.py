"""How long an instruction at the beginning keeps its hold: the share of text of the asked-for genre, by distance."""

from __future__ import annotations

from typing import Any

from evidence_data import GENRES, PIECE_CHARS

import counterpoint as cp
from counterpoint.contexts import Empty
from counterpoint.engine import Engine, prepare
from counterpoint.evaluate.intervals import difference, interval
from counterpoint.evaluate.judges import Judge

STEP = 256
ARMS = {
    "unguided": None,
    "scale 1.5": cp.Guide(scale=1.5, plausibility=0.02),
    "scale 3": cp.Guide(scale=3, plausibility=0.02),
    "plausibility 0.02 alone": cp.Guide(scale=1, plausibility=0.02),
}


def measure_hold(model: cp.Model, judge: Judge, *, texts: int, seed: int, say: Any) -> dict[str, Any]:
    """Write to the end of the context under each arm; judge pieces of every STEP tokens.

    Args:
        texts: for each genre and arm.
    """
    engine, asked, done = Engine(model, max_rows=96), {}, {}
    for genre in GENRES.values():
        for number in range(texts):
            for name, guide in ARMS.items():
                negative = Empty() if guide is not None and guide.scale != 1 else None
                request = prepare(
                    model, f"Genre: {genre}.\n\n", negative=negative, guide=guide, max_tokens=model.context_len,
                    ignore_eos=True, seed=seed + number,
                )  # fmt: skip
                asked[engine.add(request)] = (name, genre, number)
    for progress in engine.run():
        if progress.completion is not None:
            done[asked[progress.request_id]] = progress.completion.token_ids
            if len(done) % 8 == 0:
                say(f"{len(done)} of {len(asked)} texts")
    shares: dict[tuple[str, int], list[float]] = {}
    for (name, genre, _), ids in sorted(done.items()):
        for at in range(0, len(ids), STEP):
            pieces = _pieces(model.decode(ids[at : at + STEP]))
            if pieces:
                agreed = judge.agrees(pieces, genre)
                shares.setdefault((name, at), []).append(sum(agreed) / len(agreed))
    rows = []
    for name, at in shares:
        row: dict[str, Any] = {"arm": name, "from token": at, "share": interval(shares[name, at], seed=seed)}
        if name != "unguided" and len(shares[name, at]) == len(shares["unguided", at]):
            row["over unguided"] = difference(shares[name, at], shares["unguided", at], seed=seed)
        rows.append(row)
    rows.sort(key=lambda row: (row["from token"], list(ARMS).index(row["arm"])))
    return {"texts": len(done), "judge accuracy": judge.accuracy, "genres": list(GENRES.values()), "rows": rows}


def _pieces(text: str) -> list[str]:
    """Pieces of the length that the judge was trained on; a shorter rest belongs to the piece before."""
    return [
        text[i : i + PIECE_CHARS]
        for i in range(0, max(len(text) - PIECE_CHARS // 2, 1), PIECE_CHARS)
        if text[i:].strip()
    ]
