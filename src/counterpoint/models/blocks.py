"""Layers whose weights stay in a GGUF file's blocks of 32, as its quantization rounded them and without another rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.models.kernels import blocks

MOST_ROWS = 64  #: more than these are multiplied by the weights in float32, made for the moment


class BlockLinear(nn.Module):
    """y = x W^T + b, W in blocks.

    Args:
        weight: (N, bytes of a row) uint8, as `kernels.blocks.laid` gives it.
        kind: "Q8_0", "Q4_0" or "Q4_1".
        bias: (N,), or None.
    """

    def __init__(self, weight: Tensor, kind: str, bias: Tensor | None = None) -> None:
        super().__init__()
        self.kind, self.in_features, self.out_features = kind, blocks.width(weight, kind), weight.shape[0]
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """W (N, K)."""
        return blocks.weights(self.weight, self.kind).to(dtype)

    def forward(self, states: Tensor) -> Tensor:
        if 0 < states.numel() <= MOST_ROWS * self.in_features:
            return blocks.product(states, self.weight, self.kind, None if self.bias is None else self.bias.float())
        return nn.functional.linear(states, self.dequantised(states.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}, bias={self.bias is not None}"


class BlockEmbedding(nn.Module):
    """The rows of a table in blocks, which a tied head may share.

    Args:
        weight, kind: as of `BlockLinear`.
        dtype: of the rows that are given.
    """

    def __init__(self, weight: Tensor, kind: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.kind, self.dtype = kind, dtype
        self.num_embeddings, self.embedding_dim = weight.shape[0], blocks.width(weight, kind)
        self.register_buffer("weight", weight)

    def forward(self, ids: Tensor) -> Tensor:
        return blocks.weights(self.weight, self.kind, ids.reshape(-1)).to(self.dtype).view(*ids.shape, -1)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.kind}"
