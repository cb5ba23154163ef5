"""Which token ids a model both predicts and reads, and which begin and end a text."""

from __future__ import annotations

from transformers import PreTrainedModel


def num_ids(model: PreTrainedModel) -> int:
    """How many token ids, from 0 on, the model predicts and can read back.

    A head may be wider than the embeddings (padding for the hardware): nothing past the embeddings may be chosen.
    """
    sizes = [len(weight) for weight in map(_weight, (model.get_input_embeddings(), _head(model))) if weight is not None]
    return min(sizes) if sizes else model.config.get_text_config().vocab_size


def _head(model: PreTrainedModel) -> object:
    return model.get_output_embeddings()


def _weight(module: object) -> object:
    weight = getattr(module, "weight", None)
    return weight if getattr(weight, "dim", lambda: 0)() == 2 else None


def special_ids(model: PreTrainedModel, name: str) -> list[int]:
    """Token ids by their name, from the generation config, the config, or the text's config, whichever has them first."""
    for place in (model.generation_config, model.config, model.config.get_text_config()):
        value = getattr(place, name, None)
        if value is not None:
            return [value] if isinstance(value, int) else list(value)
    return []
