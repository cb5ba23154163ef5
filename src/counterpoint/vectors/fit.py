"""A vector from pairs of texts: the states after each, and what leads from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.contexts.reading import read_prompt
from counterpoint.errors import UsageError
from counterpoint.models.layers import listening
from counterpoint.models.model import Model
from counterpoint.models.rows import Feed, Rows
from counterpoint.vectors.principal import principal_directions
from counterpoint.vectors.vector import Vector

METHODS = ("mean", "pca")
LENGTHS = ("difference", "states")
LEAST_PAIRS = 2
USUAL_DEPTH = 0.57  # where a scan of SmolLM2 has its best; llama.cpp's and the papers' examples lie near it
Ids = tuple[int, ...]


def fit(
    model: Model,
    pairs: Sequence[tuple[Any, Any]],
    *,
    method: str = "mean",
    num_directions: int = 1,
    layers: Sequence[int] | None = None,
    length: str = "difference",
) -> Vector:
    """See `Vector.fit`."""
    check_method(method, num_directions, length)
    read = read_pairs(model, pairs)
    chosen = (usual_layer(model),) if layers is None else checked_layers(model, layers)
    states = states_of_pairs(model, read, chosen)
    directions = {layer: direction(found, method, num_directions, length) for layer, found in states.items()}
    if not any(bool(found.any()) for found in directions.values()):
        raise UsageError("the two texts of every pair end in the same states; let them differ before their last token")
    about = {"method": method, "pairs": str(len(read)), "model": model.name, "length": length}
    if method == "pca":
        about["directions"] = str(num_directions)
    return Vector(directions, model.hf.config.get_text_config().model_type, about)


def direction(states: Tensor, method: str, num_directions: int, length: str = "difference") -> Tensor:
    """What leads from the second texts' states to the first ones', (2, N, H), in one layer. -> (H,) of float32.

    Args:
        length: "difference", as far as the texts are apart on average, or "states", as long as the states are on average.
    """
    differences = states[0] - states[1]
    mean = differences.double().mean(0)
    if method == "pca":
        found, _ = principal_directions(differences, num_directions)
        mean = found.T @ (found @ mean)
    if length == "states" and bool(mean.any()):
        mean = mean * (states.double().norm(dim=-1).mean() / mean.norm())
    return mean.float()


def check_method(method: str, num_directions: int, length: str = "difference") -> None:
    """Raises UsageError: an unknown method or length, or a number of directions that none can have."""
    if length not in LENGTHS:
        raise UsageError(f"length is {length!r}; use {' or '.join(LENGTHS)}", param="length")
    if method not in METHODS:
        raise UsageError(f"method is {method!r}; use {' or '.join(METHODS)}", param="method")
    if isinstance(num_directions, bool) or not isinstance(num_directions, int) or num_directions < 1:
        raise UsageError(f"num_directions is {num_directions!r}; use a whole number, 1 or more", param="num_directions")
    if method == "mean" and num_directions != 1:
        raise UsageError(f"num_directions is {num_directions} and method is 'mean'; use 'pca'", param="num_directions")


def usual_layer(model: Model) -> int:
    """A layer a little past the middle, where one direction usually does most."""
    return round(USUAL_DEPTH * (len(model.layers.modules) - 1))


def checked_layers(model: Model, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers that are asked for, in order; all but the first where none is named."""
    count = len(model.layers.modules)
    if layers is None:
        return tuple(range(1, count)) or (0,)
    bad = [n for n in layers if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < count]
    if bad or not layers:
        named = f"has {bad[0]!r}" if bad else "is empty"
        raise UsageError(f"layers {named}; the layers of {model.name} are 0 to {count - 1}", param="layers")
    return tuple(sorted(set(layers)))


def read_pairs(model: Model, pairs: Sequence[tuple[Any, Any]]) -> list[tuple[Ids, Ids]]:
    """Token ids of both texts of each pair.

    Raises:
        UsageError: too few pairs, something that is no pair, or an empty text.
    """
    read = []
    for number, pair in enumerate(pairs):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise UsageError(f"pair {number} is {pair!r:.60}; give (towards, away from)", param="pairs")
        towards, away = (read_prompt(model, text, name=f"text of pair {number}") for text in pair)
        if towards == away:
            raise UsageError(f"the two texts of pair {number} are the same; let them differ", param="pairs")
        read.append((towards, away))
    if len(read) < LEAST_PAIRS:
        given = "1 pair is given" if len(read) == 1 else f"{len(read)} pairs are given"
        raise UsageError(f"{given}; a vector needs {LEAST_PAIRS} or more", param="pairs")
    return read


@torch.no_grad()
def states_of_pairs(model: Model, pairs: Sequence[tuple[Ids, Ids]], layers: Sequence[int]) -> dict[int, Tensor]:
    """For each layer the states after the last token, (2, N, H) of float32: of the first texts, then of the second."""
    modules, rows = model.layers.modules, model.new_rows()
    sides = [[_last_states(rows, modules, pair[side]) for pair in pairs] for side in (0, 1)]
    return {layer: torch.stack([torch.stack([one[layer] for one in side]) for side in sides]) for layer in layers}


def _last_states(rows: Rows, modules: Sequence[nn.Module], ids: Ids) -> dict[int, Tensor]:
    """What each layer writes after the last token, (H,) of float32 on the CPU."""
    found: dict[int, Tensor] = {}

    def hear(layer: int, states: Tensor) -> None:
        found[layer] = states[0, -1].float().cpu()

    row = rows.add()
    with listening(modules, hear):
        rows.forward([Feed(row, ids)])
    rows.free(row)
    return found
