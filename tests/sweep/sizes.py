"""The sizes of the sweep's small models: which part a field of a config plays, by its name, and how large that is then."""

from __future__ import annotations

from typing import Any

VOCAB = 200
PAD, BOS = 0, 1
CONTEXT = 256

#: what part a number of a config plays, by the name of its field; the first that matches
PARTS: tuple[tuple[str, str], ...] = (
    (r"(^|_)pad_token_id$", "pad"),
    (r"(^|_)bos_token_id$|decoder_start_token_id$", "bos"),
    (r"^forced_\w+_token_id$", "none"),
    (r"(^|_)(sep|cls|unk|mask|eos|eod)_token_id$", "special"),
    (r"_token_(id|index)$", "placeholder"),
    (r"vocab_size|_vocab$|^n_tokens$|^vocab_offset$", "vocab"),
    (r"shared_layers$", "shared"),
    (r"(layers?|depth|n_layer)$", "layers"),
    (
        r"(max_position_embeddings|n_positions|max_seq_len|max_target_positions|max_source_positions|context_length|n_ctx|"
        r"model_max_length|max_sequence_length|seq_length|max_length)$",
        "context",
    ),
    (r"original_max_position", "original"),
    (
        r"(sliding_window|window_size|local_attention|sliding_window_size|attention_window|mem_len|rel_extent)$",
        "window",
    ),
    (r"(chunk_size|chunk_length|block_size|floor_scale|n_floor|index_topk|max_inference_chunksize)$", "chunk"),
    (r"index_kpool$", "pool"),
    (r"^local_radius$", "window"),
    (r"^relative_attention_max_distance$", "distance"),
    (r"^relative_attention_num_buckets$", "buckets"),
    (r"^num_random_blocks$", "one"),
    (r"^num_codebooks$", "books"),
    (r"(key_value_heads|kv_heads|num_query_groups|n_head_kv|num_kv|n_kv_heads)$", "kv"),
    (r"(qk_rope_head_dim|rotary_dim)$", "rope"),
    (r"qk_head_dim$", "query"),
    (r"(mamba_n_heads|mamba_num_heads|n_mamba_heads)$", "state_heads"),
    (r"(mamba_d_head|mamba_head_dim|mamba_headdim)$", "state_head"),
    (r"(head_dim|d_head|head_size|d_kv|kv_channels|qk_nope_head_dim|v_head_dim)$", "head"),
    (r"(attention_heads|n_head|n_heads|num_heads|key_heads|value_heads|attn_heads)$", "heads"),
    (r"(rank|_rank)$|^d_rel$|laurel", "rank"),
    (r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_experts_total|n_experts)$", "experts"),
    (r"(experts_per_tok(en)?|moe_topk|moe_k|top_k_experts|moe_top_k|experts_topk)$", "chosen"),
    (r"^(n_group|topk_group|num_expert_group|\w*mamba_ngroups|n_groups)$", "one"),
    (r"(d_state|state_size|ssm_state_size|conv_state)$", "state"),
    (
        r"(d_ssm|intermediate_size|ffn_dim|ffn_hidden_size|n_inner|d_ff|feed_forward_size|d_inner|dim_ff|inner_dim|mlp_dim)\w*$",
        "inner",
    ),
    (
        r"(hidden_size|d_model|n_embd|emb_dim|embedding_dim|dim_model|embed_proj_dim|embedding_size|embed_dim|lru_width|"
        r"attention_hidden_size|model_dim|hidden_dim|hidden_size_\w+|projection_dim|word_embed_\w+|out_dim)$",
        "hidden",
    ),
    (r"^num_image_tokens$|^image_seq_len(gth)?$", "picture"),
)

FIRST: dict[str, Any] = {
    "pad": PAD, "bos": BOS, "none": None, "special": 2, "vocab": VOCAB, "layers": 2, "shared": 2, "context": CONTEXT, "original": 32, "window": 8,
    "chunk": 8, "pool": 4, "distance": 16, "buckets": 8, "books": None, "kv": 2, "rope": 8, "query": 16, "head": 8, "heads": 4, "state_heads": 8, "state_head": 8, "rank": 16,
    "experts": 4, "chosen": 2, "one": 1, "state": 8, "inner": 64, "hidden": 32, "picture": 4, "sections": 4,
}  # fmt: skip
#: proportions that some classes want, tried in turn and in pairs
OTHERS: tuple[dict[str, Any], ...] = (
    {"filled": True},
    {"layers": 4, "cycled": True},
    {"mrope": True},
    {"mrope": True, "sections": 2},
    {"kv": 4},
    {"heads": 8, "kv": 4},
    {"head": 16},
    {"head": 16, "rope": 16, "query": 32},
    {"rope": 4, "query": 12},
    {"state_heads": 4, "state_head": 16},
    {"layers": 4},
    {"layers": 6},
    {"experts": 8},
    {"head": 32},
    {"hidden": 64, "head": 16},
    {"kv": 1},
    {"rank": 32},
    {"chunk": 16},
    {"heads": 2, "kv": 2, "head": 16},
)
#: proportions of those classes that want more than one of the above
LAST: tuple[dict[str, Any], ...] = (
    {"chunk": None},  # as they are
    {"vocab": None},
    {"books": 1},
    {"kv": 4, "query": 8},
    {"kv": 4, "chunk": 16},
    {"kv": 4, "whole_head": 16},
    {"mrope": True, "mrope_last": True},
    *OTHERS,
)

#: what a default leaves out although the class can't do without, by the name of the field. Tried where nothing else helps.
LACKING: dict[str, Any] = {
    "mlp_layer_types": ["dense"] * 8,
    "vocabulary_map": {
        "<image>": VOCAB - 12, "IMGIMGAZ": VOCAB - 11, "<|extra_200|>": VOCAB - 10, "<|visual token 000000|>": VOCAB - 9,
    },
    "deepstack_layer_map": [[0, 0]], "downsample_rate": "4/8",
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8, "indexer_compress_ratio": 4,
}  # fmt: skip
FILLED = ("head", "kv", "experts", "chosen", "heads")  # parts that a default may leave to the class
FILLED_LAST = (*FILLED, "inner", "window")

#: which parts of a picture's or a sound's config are made small: all (None), or some where only the whole goes together
OF_OTHERS: tuple[frozenset[str] | None, ...] = (
    None,
    frozenset(),
    frozenset({"layers"}),
    frozenset({"hidden", "inner", "heads", "kv", "head"}),
)

#: what no name of a field tells: fields that have to agree, or that the default leaves out
HINTS: dict[str, dict[str, Any]] = {
    "DoryConfig": {
        "n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1, "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "GraniteMoeHybridConfig": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 8},
    "DeepseekV2Config": {"num_experts_per_tok": 2, "num_key_value_heads": 4},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "Dots1Config": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    },
    "DbrxConfig": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "ZambaConfig": {
        "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4, "n_mamba_heads": 2,
    },
    "XmodConfig": {"languages": ["en_XX"], "default_language": "en_XX"},
    "ReformerConfig": {
        "is_decoder": True, "attn_layers": ["local", "local"], "axial_pos_embds": False, "local_attn_chunk_length": 8,
    },
    "CohereCompassTextConfig": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
}  # fmt: skip

#: numbers so small already stay as they are: a window of 0 is none, one group is one
SCALES = {
    "window": 0,
    "shared": 0,
    "chunk": 0,
    "kv": 1,
    "rope": 0,
    "head": 0,
    "layers": 0,
    "rank": 0,
    "chosen": 1,
    "experts": 1,
    "inner": 0,
    "hidden": 0,
}
