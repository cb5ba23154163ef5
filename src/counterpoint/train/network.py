"""The model, its loss and its optimisers. Knows nothing of corpora or of time."""

import torch
import torch.nn.functional as functional
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from counterpoint.train.config import ModelConfig, ScheduleConfig
from counterpoint.train.tokenizer import BOS, EOS, PAD


def new_model(config: ModelConfig, tokenizer: Tokenizer, *, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights from `seed`, in float32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=config.width,
            intermediate_size=config.inner,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.positions,
            tie_word_embeddings=True,
            use_cache=False,
            bos_token_id=tokenizer.token_to_id(BOS),
            eos_token_id=tokenizer.token_to_id(EOS),
            pad_token_id=tokenizer.token_to_id(PAD),
        )
    )


def sum_loss(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Sum of the targets' negative log-likelihoods in nats. rows: int64 [B, T + 1]; targets of -100 do not count."""
    with torch.autocast(rows.device.type, torch.bfloat16):
        logits = model(input_ids=rows[:, :-1].clamp_min(0), use_cache=False).logits  # [B, T, V]
    return functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")


def make_optimisers(model: LlamaForCausalLM, schedule: ScheduleConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embeddings and the norms. Rates are set at every step."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices,
            lr=schedule.matrix_rate,
            weight_decay=schedule.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=schedule.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
