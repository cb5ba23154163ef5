"""Guidance for `model.generate` of transformers: one argument, `custom_generate=generate`, or a logits processor."""

from counterpoint.transformers.codebooks import codebooks
from counterpoint.transformers.decode import generate
from counterpoint.transformers.processor import GuidanceLogitsProcessor

__all__ = ["GuidanceLogitsProcessor", "codebooks", "generate"]
