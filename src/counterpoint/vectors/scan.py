"""Which layers a vector does its work in: each tried by itself, on pairs that its direction was not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from counterpoint import formulas
from counterpoint.models.layers import Layers, VectorSwitch
from counterpoint.models.model import Model
from counterpoint.models.rows import Feed, Rows
from counterpoint.vectors.fit import check_method, checked_layers, direction, read_pairs, states_of_pairs

MOST_FOLDS = 4


@dataclass(frozen=True, slots=True)
class LayerScan:
    """What one layer's direction does by itself.

    Args:
        layer: its number, from 0.
        size: the direction's length, as a share of the mean length of the layer's states.
        share: of the squared differences of the pairs, the part along the direction: 1 where all pairs differ alike.
        told: share of the held-out pairs whose texts the direction tells apart: that lie further along it for the
            first text than for the second.
        recovered: how far the direction, added after the second texts, moves what is predicted next towards what is
            predicted after the first ones: 1 - KL(first || second and direction) / KL(first || second), both summed
            over the held-out pairs. 0 is nowhere, 1 all the way, below 0 further away.
    """

    layer: int
    size: float
    share: float
    told: float
    recovered: float


@torch.no_grad()
def scan(
    model: Model,
    pairs: Sequence[tuple[Any, Any]],
    *,
    method: str = "mean",
    num_directions: int = 1,
    layers: Sequence[int] | None = None,
    length: str = "difference",
    strength: float = 1.0,
    on_layer: Callable[[LayerScan], None] | None = None,
) -> list[LayerScan]:
    """Fit a direction for each layer on a part of the pairs and try it on the others, in up to 4 folds.

    Args:
        model, pairs, method, num_directions, layers, length: as of `Vector.fit`.
        strength: times the direction, where it is added.
        on_layer: told each layer when it is done.

    Raises:
        UsageError: as of `Vector.fit`.
    """
    check_method(method, num_directions, length)
    read = read_pairs(model, pairs)
    chosen = checked_layers(model, layers)
    states = states_of_pairs(model, read, chosen)
    rows = model.new_rows()
    first = [_predicted(rows, towards) for towards, _ in read]
    second = [_predicted(rows, away) for _, away in read]
    apart = sum(_divergence(a, b) for a, b in zip(first, second))
    folds = [range(start, len(read), min(MOST_FOLDS, len(read))) for start in range(min(MOST_FOLDS, len(read)))]
    found = []
    for layer in chosen:
        towards, away = states[layer]  # (N, H)
        told, left = 0, 0.0
        for fold in folds:
            kept = [number for number in range(len(read)) if number not in fold]
            along = direction(states[layer][:, kept], method, num_directions, length)
            held = list(fold)
            told += int(((towards[held] - away[held]) @ along > 0).sum())
            with _added(model.layers, layer, along, strength):
                left += sum(_divergence(first[n], _predicted(rows, read[n][1])) for n in held)
        whole = direction(states[layer], method, num_directions)
        size, differences = float(whole.norm()), towards - away
        found.append(
            LayerScan(
                layer,
                size=size / float(torch.cat([towards, away]).norm(dim=-1).mean()),
                share=_share(differences, whole),
                told=told / len(read),
                recovered=1 - left / apart if apart > 0 else 0.0,
            )
        )
        if on_layer is not None:
            on_layer(found[-1])
    return found


def _added(layers: Layers, layer: int, along: Tensor, strength: float) -> Any:
    return VectorSwitch(layers, {layer: along}, strength)()


def _predicted(rows: Rows, ids: tuple[int, ...]) -> Tensor:
    """Log-probabilities (V,) after a text."""
    row = rows.add()
    logits = rows.forward([Feed(row, ids)])
    rows.free(row)
    return formulas.log_probs(logits)[0]


def _divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q) of log-probabilities, in nats."""
    terms = p.exp() * (p - q)
    return float(torch.where(p.isneginf(), 0.0, terms).sum())


def _share(differences: Tensor, along: Tensor) -> float:
    total, length = float(differences.square().sum()), float(along.norm())
    if total == 0 or length == 0:
        return 0.0
    return float((differences @ (along / length)).square().sum()) / total
