"""THE table of neutral values: what a field of a request says when it asks for nothing.

Clients send every field that their library knows, most at the value that means "as without it". So

- null is the same as left out, for every field, known or not;
- our own fields are left out at the values in `OWN`;
- fields that never touch the text (`UNTOUCHING`) pass at any value;
- fields of other servers (`FOREIGN`) pass at their neutral values and are refused by name at any other;
- whatever else is unknown, and all of it is named at once.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from counterpoint.errors import FieldError, UnknownFieldError

#: our own fields: the values at which they ask for nothing
OWN: dict[str, tuple[Any, ...]] = {
    "negative_prompt": ("", []),
    "negative_prompt_ids": ([],),
    "negative_messages": ([],),
    "guidance": ({}, [], ""),  # some languages write an object without fields as []
    "model": ("",),
    "seed": (-1,),
    "max_completion_tokens": (),
    "max_output_tokens": (),
    "stop": ("", [], [""]),
    "stream_options": ({}, [], {"include_usage": False}),
    "logprobs": (False,),
    "stop_token_ids": ([],),
    "logit_bias": ({}, []),
    "tools": ([],),
    "include": ([],),
    "text": ({"format": {"type": "text"}}, {"format": {"type": "text"}, "verbosity": "medium"}, {}),
    "reasoning": ({},),
    "response_format": ({"type": "text"}, {}, []),
    "structured_outputs": ({}, []),
    "guided_json": ("", {}),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "chat_template_kwargs": ({}, []),
    "min_tokens": (0,),
    "trace": (0,),
    "watch": ("",),
}

#: fields that never touch the text
UNTOUCHING = frozenset({
    # OpenAI's
    "user", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options",
    "safety_identifier", "max_tool_calls",
    # vLLM's
    "request_id", "priority", "cache_salt", "stream_interval", "mm_payload",
    # SGLang's
    "rid", "extra_key", "data_parallel_rank", "routed_dp_rank", "disagg_prefill_dp_rank", "custom_labels",
    "return_flat_raw_top_logprobs_b64",
    # llama.cpp's
    "cache_prompt", "id_slot", "timings_per_token", "return_progress", "verbose", "sse_ping_interval", "n_cache_reuse",
    "backend_sampling", "speculative.n_max", "speculative.n_min", "speculative.p_min", "speculative.type",
    "speculative.ngram_size_n", "speculative.ngram_size_m", "speculative.ngram_min_hits",
    # of front ends
    "session_id", "conversation_id", "chat_id", "keep_alive", "ttl", "guided_decoding_backend", "use_default_badwordsids",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Foreign:
    """A field that another server has and this one does not.

    Args:
        neutral: values at which it asks for nothing, null beside them.
        way_out: what to do instead.
    """

    neutral: tuple[Any, ...] = ()
    way_out: str = "leave it out"


_ELSEWHERE = Foreign((), "it belongs to another endpoint; leave it out")
_COMPLETIONS = Foreign((False, 0), "only /v1/completions has it; leave it out")
_GENERATION = Foreign((1, False), "only /v1/completions and /v1/chat/completions have it; leave it out")
_OFF = Foreign((False,))
_NONE = Foreign((0, False, [], {}, ""))
_ZERO = Foreign((0, -1, False))
_ONE = Foreign((1, 0))
FOREIGN: dict[str, Foreign] = {
    # what some endpoints have and others don't
    "echo": _COMPLETIONS,
    "n": _GENERATION,
    "best_of": _GENERATION,
    "show_branches": _GENERATION,
    "return_token_ids": _GENERATION,
    "top_logprobs": Foreign((0,), "only chats and responses have it; use logprobs"),
    "parallel_tool_calls": Foreign((True, False), "only chats and responses have it; leave it out"),
    "tool_choice": Foreign(("none", "auto"), "only chats and responses have it; leave it out"),
    "continue_final_message": Foreign((False,), "only chats have it; leave it out"),
    "add_generation_prompt": Foreign((True, False), "only chats have it; leave it out"),
    "add_special_tokens": Foreign((True, False), "only /v1/completions and /v1/chat/completions have it; leave it out"),
    "reasoning_effort": Foreign(("none", "medium"), "only chats have it; in responses it is reasoning.effort"),
    "max_tokens": Foreign((-1,), "here it is max_output_tokens"),
    # OpenAI's
    "suffix": Foreign(("",), "text can't be inserted before another; put it into the prompt"),
    "modalities": Foreign((["text"], []), "answers are text; leave it out"),
    "audio": Foreign((), "answers are text; leave it out"),
    "prediction": Foreign((), "leave it out"),
    "web_search_options": Foreign((), "nothing is looked up; leave it out"),
    "functions": Foreign(([],), "use tools"),
    "function_call": Foreign(("none", "auto"), "use tool_choice"),
    "verbosity": Foreign(("medium",), "say it in the system message"),
    "previous_response_id": Foreign(("",), "no answer is kept; send the whole conversation as input"),
    "conversation": Foreign((), "no conversation is kept; send all of it as input"),
    "background": Foreign((False,), "answers are given at once; leave it out"),
    "truncation": Foreign(("disabled",), "nothing is cut; shorten the conversation"),
    "context_management": Foreign(([],), "nothing is cut; shorten the conversation"),
    "moderation": Foreign((), "leave it out"),
    "documents": Foreign(([],), "put them into a message"),
    # vLLM's
    "use_beam_search": Foreign((False,), "beams are not searched; sample several with n"),
    "length_penalty": _ONE,
    "early_stopping": _OFF,
    "skip_special_tokens": Foreign((True,), "special tokens are left out of the text; leave it out"),
    "spaces_between_special_tokens": Foreign((True,)),
    "include_stop_str_in_output": Foreign((False,), "a stop text is cut from the output; leave it out"),
    "truncate_prompt_tokens": Foreign((-1,), "prompts are not cut; shorten it"),
    "prompt_logprobs": Foreign((), "use echo with logprobs in /v1/completions"),
    "prompt_embeds": Foreign(([],)),
    "allowed_token_ids": Foreign(([],), "use logit_bias"),
    "bad_words": Foreign(([],), "use logit_bias"),
    "logits_processors": Foreign(([],)),
    "chat_template": Foreign(("",), "the model's own template is used; leave it out"),
    "mm_processor_kwargs": _NONE,
    "media_io_kwargs": _NONE,
    "kv_transfer_params": _NONE,
    "vllm_xargs": _NONE,
    "repetition_detection": _NONE,
    "thinking_token_budget": Foreign((-1,)),
    "lora_request": _NONE,
    "truncation_side": Foreign(("left", "right"), "prompts are not cut; leave it out"),
    "logprob_token_ids": Foreign(([],), "use logprobs, which tells the likeliest"),
    "watermarking": _OFF,
    "return_weight_versions": _OFF,
    "routed_experts_prompt_start": _ZERO,
    "return_token_offsets": Foreign((False,), "logprobs in /v1/completions have text_offset"),
    "return_prompt_text": Foreign((False,), "use show_branches"),
    "return_mm_kwargs": _OFF,
    "ec_transfer_params": _NONE,
    "enable_response_messages": _OFF,
    "previous_input_messages": Foreign(([],), "no answer is kept; send the whole conversation as input"),
    # SGLang's
    "bootstrap_host": _NONE,
    "bootstrap_port": _NONE,
    "bootstrap_room": _NONE,
    "return_hidden_states": _OFF,
    "return_routed_experts": _OFF,
    "routed_experts_start_len": _ZERO,
    "return_cached_tokens_details": Foreign((False,), "usage.prompt_tokens_details tells of them"),
    "return_spec_tokens_details": _OFF,
    "return_prompt_token_ids": Foreign((False,), "use return_token_ids"),
    "return_input_ids_in_sglext": Foreign((False,), "use return_token_ids"),
    "return_output_ids_in_sglext": Foreign((False,), "use return_token_ids"),
    "return_meta_info": _OFF,
    "return_sampling_mask": _OFF,
    "return_flat_raw_output_top_logprobs": _OFF,
    "sampling_logprobs_mode": Foreign(("",)),
    "regex": Foreign(("",), "use structured_outputs.regex"),
    "ebnf": Foreign(("",), "use structured_outputs.grammar"),
    "stop_regex": Foreign(("", []), "use stop"),
    "no_stop_trim": Foreign((False,), "a stop text is cut from the output; leave it out"),
    "lora_path": _NONE,
    "session_params": _NONE,
    "custom_params": _NONE,
    "custom_logit_processor": Foreign(("",), "no code of a client's is run; leave it out"),
    "watermark": _NONE,
    "images_config": _NONE,
    "video_config": _NONE,
    "task": Foreign(("",)),
    "separate_reasoning": Foreign((True, False)),
    "stream_reasoning": Foreign((True, False)),
    "max_dynamic_patch": _NONE,
    "min_dynamic_patch": _NONE,
    "use_audio_in_video": _OFF,
    "input_ids": Foreign(([],), "give ids as the prompt of /v1/completions"),
    # llama.cpp's and front ends'
    "n_predict": Foreign((-1,), "use max_tokens"),
    "n_probs": Foreign((0,), "use logprobs"),
    "n_cmpl": Foreign((1,), "use n"),
    "n_indent": _ZERO,
    "return_tokens": Foreign((False,), "use return_token_ids"),
    "response_fields": Foreign(([],), "answers have all their fields; leave it out"),
    "adaptive_target": Foreign((-1, -0.01)),
    "adaptive_decay": Foreign((0.9,)),
    "grammar_lazy": _OFF,
    "grammar_type": Foreign(("",)),
    "grammar_triggers": Foreign(([],)),
    "preserved_tokens": Foreign(([],)),
    "generation_prompt": Foreign(("",), "end the conversation with a turn of the assistant and continue_final_message"),
    "parse_tool_calls": Foreign((True, False)),
    "chat_format": _ZERO,
    "chat_parser": Foreign(("",)),
    "message_delimiters": Foreign(([],)),
    "reasoning_control": _OFF,
    "reasoning_budget_tokens": Foreign((-1,)),
    "reasoning_budget_message": Foreign(("",)),
    "thinking_budget_tokens": Foreign((-1,)),
    "max_new_tokens": Foreign((-1,), "use max_tokens"),
    "max_length": Foreign((-1,), "use max_tokens"),
    "min_length": Foreign((0, -1), "use min_tokens"),
    "do_sample": Foreign((True,), "use a temperature of 0"),
    "rep_pen_range": _ZERO,
    "rep_pen_slope": Foreign((0, 1)),
    "repetition_penalty_range": _ZERO,
    "skew": _ZERO,
    "nsigma": _ZERO,
    "dynatemp_low": _ONE,
    "dynatemp_high": _ONE,
    "dynatemp_min": Foreign((0, 1)),
    "dynatemp_max": Foreign((0, 1)),
    "temperature_last": Foreign((True, False)),
    "sampler_order": Foreign(([],)),
    "sampler_priority": Foreign(([],)),
    "banned_tokens": Foreign(([], ""), "use logit_bias"),
    "banned_strings": Foreign(([], ""), "use logit_bias"),
    "custom_token_bans": Foreign(([], ""), "use logit_bias"),
    "grammar_string": Foreign(("",), "use structured_outputs.grammar"),
    "prompt_lookup_num_tokens": _ZERO,
    "truncation_length": Foreign((0,), "prompts are not cut; shorten it"),
    "auto_max_new_tokens": Foreign((False,), "use a max_tokens of -1"),
    "models": Foreign(([],), "one model is served"),
    "route": Foreign(("",), "one model is served"),
    "usage": _NONE,
    "think": _OFF,
    "format": Foreign(("",), "use response_format"),
    "draft_model": Foreign(("",)),
    "n_keep": _ZERO,
    "n_discard": _ZERO,
    "min_keep": _ZERO,
    "typical_p": _ONE,
    "typical": _ONE,
    "tfs_z": _ONE,
    "tfs": _ONE,
    "top_a": _ZERO,
    "top_n_sigma": _ZERO,
    "xtc_probability": _ZERO,
    "xtc_threshold": Foreign((0, 0.1)),
    "mirostat": _ZERO,
    "mirostat_mode": _ZERO,
    "mirostat_tau": Foreign((5,)),
    "mirostat_eta": Foreign((0.1,)),
    "dynatemp_range": _ZERO,
    "dynatemp_exponent": _ONE,
    "dynamic_temperature": _OFF,
    "smoothing_factor": _ZERO,
    "smoothing_curve": _ONE,
    "dry_multiplier": _ZERO,
    "dry_base": Foreign((1.75,)),
    "dry_allowed_length": Foreign((2,)),
    "dry_penalty_last_n": Foreign((-1, 0)),
    "dry_sequence_breakers": Foreign(([], ["\n", ":", '"', "*"])),
    "repeat_penalty": Foreign((1,), "use repetition_penalty"),
    "rep_pen": Foreign((1,), "use repetition_penalty"),
    "repeat_last_n": Foreign((-1,), "the penalty counts the whole text; leave it out"),
    "encoder_repetition_penalty": Foreign((1,)),
    "no_repeat_ngram_size": _ZERO,
    "penalty_alpha": _ZERO,
    "epsilon_cutoff": _ZERO,
    "eta_cutoff": _ZERO,
    "num_beams": Foreign((1,), "beams are not searched; sample several with n"),
    "add_bos_token": Foreign((True,)),
    "ban_eos_token": Foreign((False,), "use ignore_eos"),
    "grammar": Foreign(("",)),
    "json_schema": Foreign(({},), "use response_format"),
    "guided_whitespace_pattern": Foreign(("",)),
    "lora": Foreign(([],)),
    "samplers": Foreign(([],)),
    "post_sampling_probs": _OFF,
    "t_max_predict_ms": _ZERO,
    "reasoning_format": Foreign(("none", "auto")),
    "include_reasoning": Foreign((True, False)),
    "thinking": Foreign((False, {"type": "disabled"})),
    "transforms": Foreign(([],)),
    "plugins": Foreign(([],)),
    "provider": _NONE,
    "options": _NONE,
}


def is_neutral(name: str, value: Any) -> bool:
    """Whether a field asks for nothing at this value. Fields that the table does not have ask for nothing at null only."""
    if value is None or name in UNTOUCHING:
        return True
    neutral = OWN[name] if name in OWN else FOREIGN[name].neutral if name in FOREIGN else ()
    return any(_equal(value, one) for one in neutral)


def asked(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields of a request that ask for something.

    Args:
        fields: as they came.
        known: the names that the endpoint reads itself.

    Raises:
        UnknownFieldError: names that nobody knows, all of them.
        FieldError: a field of another server that asks for something.
    """
    fields = {name: value for name, value in fields.items() if value is not None}
    unknown = [
        name
        for name in fields
        if name not in known and name not in FOREIGN and name not in UNTOUCHING and name not in OWN
    ]
    if unknown:
        word = "field" if len(unknown) == 1 else "fields"
        raise UnknownFieldError(
            f"unknown {word} {', '.join(f'{name!r:.80}' for name in unknown[:20])}; leave "
            f"{'it' if len(unknown) == 1 else 'them'} out",
            param=unknown[0],
        )
    left = {
        name: value
        for name, value in fields.items()
        if (name in known and name not in OWN) or not is_neutral(name, value)
    }
    refused = [name for name in left if name not in known]
    if refused:
        reasons = [f"{name} is {reprlib.repr(left[name])}: {FOREIGN.get(name, _ELSEWHERE).way_out}" for name in refused]
        raise FieldError("; ".join(reasons), param=refused[0])
    return left


def _equal(value: Any, neutral: Any) -> bool:
    """Equal in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool) or isinstance(neutral, bool):
        return value is neutral
    if isinstance(value, (int, float)) and isinstance(neutral, (int, float)):
        return value == neutral
    return type(value) is type(neutral) and value == neutral
