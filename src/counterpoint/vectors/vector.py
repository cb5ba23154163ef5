"""A control vector as a value: a direction for each of some layers."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from counterpoint.errors import UsageError
from counterpoint.guide import finite

if TYPE_CHECKING:
    from counterpoint.models.model import Model


@dataclass(frozen=True, eq=False)
class Vector:
    """Directions that are added to what a model's layers write, so that it writes more like one text than another.

    Layer N is the model's layer N counted from 0, as llama.cpp and repeng count them; both know none for layer 0.

    Args:
        directions: layer number to (H,); finite. They are kept in float32.
        model_type: `config.model_type` of the model that it was fitted on, or what a file says; "" where nothing does.
        about: how it was made, as plain texts.

    Raises:
        UsageError: no direction, a layer below 0, directions of several widths, or numbers that are not finite.
    """

    directions: Mapping[int, Tensor]
    model_type: str = ""
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.directions, Mapping) or not self.directions:
            raise UsageError("the vector has no direction; give a mapping of layer numbers to tensors")
        made: dict[int, Tensor] = {}
        for layer, direction in sorted(self.directions.items()):
            if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
                raise UsageError(f"the vector has a direction for layer {layer!r}; layers are numbers from 0")
            direction = torch.as_tensor(direction).detach().float().cpu().contiguous().clone()
            if direction.dim() != 1 or not len(direction):
                raise UsageError(
                    f"the vector's direction for layer {layer} has the shape {tuple(direction.shape)}; give (H,)"
                )
            if not bool(direction.isfinite().all()):
                raise UsageError(
                    f"the vector's direction for layer {layer} has numbers that are not finite; fit it anew"
                )
            made[layer] = direction
        widths = {len(direction) for direction in made.values()}
        if len(widths) > 1:
            raise UsageError(
                f"the vector's directions are {' and '.join(map(str, sorted(widths)))} wide; use one width"
            )
        object.__setattr__(self, "directions", MappingProxyType(made))
        object.__setattr__(self, "about", MappingProxyType({str(k): str(v) for k, v in self.about.items()}))

    @classmethod
    def fit(
        cls,
        model: Model,
        pairs: Sequence[tuple[Any, Any]],
        *,
        method: Literal["mean", "pca"] = "mean",
        num_directions: int = 1,
        layers: Sequence[int] | None = None,
        length: Literal["difference", "states"] = "difference",
    ) -> Vector:
        """The vector that leads from the second texts of some pairs to the first ones.

        Of each text the states after its last token are taken, of each pair their difference. "mean" is the mean of the
        differences. "pca" is that mean as far as it lies along the differences' first principal directions, which
        leaves out what differs in few pairs; with as many directions as pairs it is the mean. So in one layer strength 1
        moves the states as far as the texts are apart on average, which is little where they differ in little; in several the
        additions pile up, and take less.

        Args:
            model: the model that the vector is for, in whichever state it is.
            pairs: (towards, away from): texts, token ids, or prompts that `contexts.chat_prompt` made. 2 pairs or more;
                what all pairs have in common is what the vector learns, so let them differ in all else.
            num_directions: of "pca", 1 or more.
            layers: for which layers, from 0; None is one a little past the middle. `vectors.scan` says what each does.
            length: of each layer's direction: "difference" as above, or "states", as long as the layer's states are on
                average: then a strength is a share of these, and means the same in every layer and for any pairs.

        Raises:
            UsageError: too few pairs, a text that is empty, or two that do not differ.

        Source: Zou et al. 2023, arXiv 2310.01405 (reading vectors by PCA); Turner et al. 2023, arXiv 2308.10248, and
        Rimsky et al. 2023, arXiv 2312.06681 (means of differences).
        """
        from counterpoint.vectors.fit import fit

        return fit(model, pairs, method=method, num_directions=num_directions, layers=layers, length=length)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vector:
        """Read a file that `save` wrote, or a GGUF file of llama.cpp or repeng.

        Raises:
            UsageError: there is no such file, or it holds no vector.
        """
        from counterpoint.vectors.files import load

        return load(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file: as safetensors, or in the GGUF layout that llama.cpp's --control-vector and repeng read.

        Args:
            path: ends in .safetensors or .gguf.

        Raises:
            UsageError: another ending, a direction for layer 0 in GGUF, or a file that can't be written.
        """
        from counterpoint.vectors.files import save

        save(self, path)

    @property
    def width(self) -> int:
        """H."""
        return len(next(iter(self.directions.values())))

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the layers and their directions."""
        made = hashlib.sha256()
        for layer, direction in self.directions.items():
            made.update(f"{layer}:{len(direction)}:".encode() + direction.numpy().tobytes())
        return made.hexdigest()[:16]

    def only(self, layers: Sequence[int]) -> Vector:
        """The same without the other layers' directions.

        Raises:
            UsageError: a layer has none.
        """
        missing = [layer for layer in layers if layer not in self.directions]
        if missing or not layers:
            named = f"layer {missing[0]}" if missing else "no layer"
            raise UsageError(f"{named} is asked for; the vector has {_shown(tuple(self.directions))}", param="layers")
        return Vector({layer: self.directions[layer] for layer in layers}, self.model_type, self.about)

    def __add__(self, other: Vector) -> Vector:
        """Both together. A layer that one of them lacks has the other's direction."""
        if not isinstance(other, Vector):
            return NotImplemented
        if other.width != self.width:
            raise UsageError(f"the vectors are {self.width} and {other.width} wide; only vectors of one width add up")
        layers = {*self.directions, *other.directions}
        nothing = torch.zeros(self.width)
        made = {n: self.directions.get(n, nothing) + other.directions.get(n, nothing) for n in layers}
        return Vector(made, self.model_type if self.model_type == other.model_type else "")

    def __sub__(self, other: Vector) -> Vector:
        return self + other * -1.0 if isinstance(other, Vector) else NotImplemented

    def __mul__(self, factor: float) -> Vector:
        factor = finite("the factor of a vector", factor)
        return Vector({n: d * factor for n, d in self.directions.items()}, self.model_type, self.about)

    __rmul__ = __mul__

    def __neg__(self) -> Vector:
        return self * -1.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        kind = f" of {self.model_type}" if self.model_type else ""
        return f"Vector({_shown(tuple(self.directions))}, {self.width} wide{kind})"


def _shown(layers: Sequence[int]) -> str:
    """Layer numbers in words: runs as first to last."""
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {', '.join(map(str, layers))}"
