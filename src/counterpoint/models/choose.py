"""Which kind of rows a model can have: found out by trying, so that no architecture is guessed at."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from counterpoint.models.compiled import is_close
from counterpoint.models.ragged import RaggedRows
from counterpoint.models.rows import Feed

ATTENTION = ("sdpa", "eager")


@torch.inference_mode()
def is_ragged(model: PreTrainedModel) -> bool:
    """Whether a short trial with `RaggedRows` agrees with the model's own forward."""
    if getattr(model, "_is_stateful", False) or model.get_output_embeddings() is None:
        return False
    if model.config.get_text_config()._attn_implementation not in ATTENTION:
        return False
    vocab_size = model.config.get_text_config().vocab_size
    texts = [[1 % vocab_size, 3 % vocab_size, 2 % vocab_size, 5 % vocab_size], [4 % vocab_size, 6 % vocab_size]]
    last = [7 % vocab_size, 8 % vocab_size]
    try:
        rows = RaggedRows(model)
        handles = [rows.add() for _ in texts]
        rows.forward([Feed(h, ids, columns=()) for h, ids in zip(handles, texts)])
        got = rows.forward([Feed(h, [token_id]) for h, token_id in zip(handles, last)])
    except Exception:  # any failure of the trial means that this model's forward is of another kind
        return False
    want = torch.stack(
        [model(input_ids=torch.tensor([[*ids, t]], device=model.device)).logits[0, -1] for ids, t in zip(texts, last)]
    )
    # A wrong position or mask differs by a share of the spread between logits, far above rounding.
    return is_close(got, want)
