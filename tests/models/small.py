"""Small models with random weights, each of a kind that a short trial with five tokens says nothing about."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as hf
from transformers import PreTrainedConfig, PreTrainedModel

VOCAB = 200
PLAIN = {"vocab_size": VOCAB, "eos_token_id": None, "bos_token_id": 1, "pad_token_id": 0}
LLAMA = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **PLAIN
)
SHARED = {"num_hidden_layers": 4, "head_dim": 8, "sliding_window": 8, "num_kv_shared_layers": 2}
TYPES = ["sliding_attention", "full_attention"] * 2
PER_LAYER = {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8}


def built(cls: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """Weights of standard deviation 0.25, the same at every call."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = cls(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


def gpt_neo(window: int = 8) -> PreTrainedModel:
    kinds = [[["global", "local"], 1]]
    config = hf.GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=4, attention_types=kinds, window_size=window, **PLAIN
    )
    return built(hf.GPTNeoForCausalLM, config)


def phi3(original: int = 32, context: int = 128) -> PreTrainedModel:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.5, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": original,
    }
    more = {"max_position_embeddings": context, "original_max_position_embeddings": original}
    return built(hf.Phi3ForCausalLM, hf.Phi3Config(rope_parameters=rope, **more, **LLAMA))


def dynamic(context: int = 32) -> PreTrainedModel:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    return built(hf.LlamaForCausalLM, hf.LlamaConfig(max_position_embeddings=context, rope_parameters=rope, **LLAMA))


def llama(**more: object) -> PreTrainedModel:
    return built(hf.LlamaForCausalLM, hf.LlamaConfig(**{**LLAMA, **more}))


def falcon() -> PreTrainedModel:
    config = hf.FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **PLAIN)
    return built(hf.FalconForCausalLM, config)


def lfm2() -> PreTrainedModel:
    return built(hf.Lfm2ForCausalLM, hf.Lfm2Config(layer_types=["conv", "full_attention"], **LLAMA))


def minimax() -> PreTrainedModel:
    config = hf.MiniMaxConfig(layer_types=["linear_attention", "full_attention"], num_local_experts=2, **LLAMA)
    return built(hf.MiniMaxForCausalLM, config)


def roberta(*, is_decoder: bool = True) -> PreTrainedModel:
    config = hf.RobertaConfig(**{**LLAMA, "pad_token_id": 1}, is_decoder=is_decoder, max_position_embeddings=66)
    return built(hf.RobertaForCausalLM, config)


def bert() -> PreTrainedModel:
    return built(hf.BertLMHeadModel, hf.BertConfig(**LLAMA))


def gemma3n() -> PreTrainedModel:
    more = {"laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4, "layer_types": TYPES}
    return built(hf.Gemma3nForCausalLM, hf.Gemma3nTextConfig(**{**LLAMA, **SHARED, **PER_LAYER, **more}))


def gemma4() -> PreTrainedModel:
    more = {"global_head_dim": 16, "layer_types": TYPES}
    return built(hf.Gemma4ForCausalLM, hf.Gemma4TextConfig(**{**LLAMA, **SHARED, **PER_LAYER, **more}))


def rwkv() -> PreTrainedModel:
    return built(hf.RwkvForCausalLM, hf.RwkvConfig(hidden_size=32, num_hidden_layers=2, **PLAIN))


def mpt(context: int = 40) -> PreTrainedModel:
    return built(hf.MptForCausalLM, hf.MptConfig(d_model=32, n_layers=2, n_heads=4, max_seq_len=context, **PLAIN))


def bart() -> PreTrainedModel:
    """Fewer layers in the encoder than in the decoder, of whose cache transformers makes one layer too few."""
    config = hf.BartConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        is_decoder=True,
        is_encoder_decoder=False,
        max_position_embeddings=64,
        **PLAIN,
    )
    return built(hf.BartForCausalLM, config)


def wide_head() -> PreTrainedModel:
    """A head that predicts ids which there are no embeddings of."""
    model = llama()
    model.lm_head = torch.nn.Linear(32, VOCAB + 24, bias=False)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.25)
        model.lm_head.weight[VOCAB:] *= 3  # often the best
    return model


EVERY: dict[str, Callable[[], PreTrainedModel]] = {
    "a local window of the model's own": gpt_neo,
    "longrope": phi3,
    "dynamic rope": dynamic,
    "another branch for another attention": falcon,
    "a state that can't be cut back": lfm2,
    "linear attention": minimax,
    "positions that begin elsewhere": roberta,
    "layers that share keys": gemma3n,
    "layers that share keys, of two widths": gemma4,
    "a batch that transformers gets wrong": rwkv,
    "a cache that does not fit": bart,
    "a head wider than the embeddings": wide_head,
}
