"""THE table of neutral values: what a field of a request says when it asks for nothing.

Clients send every field that their library knows, most at the value that means "as without it". So

- null is the same as left out, for every field;
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
    "negative_prompt": ("",),
    "negative_prompt_ids": ([],),
    "negative_messages": ([],),
    "guidance": ({}, ""),
    "model": ("",),
    "seed": (-1,),
    "max_completion_tokens": (),
    "max_output_tokens": (),
    "stop": ("", [], [""]),
    "stream_options": ({}, {"include_usage": False}),
    "logprobs": (False,),
    "stop_token_ids": ([],),
    "logit_bias": ({},),
    "tools": ([],),
    "include": ([],),
    "text": ({"format": {"type": "text"}}, {"format": {"type": "text"}, "verbosity": "medium"}, {}),
    "reasoning": ({},),
    "response_format": ({"type": "text"}, {}),
    "structured_outputs": ({},),
    "guided_json": ("", {}),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "chat_template_kwargs": ({},),
    "min_tokens": (0,),
    "trace": (0,),
}

#: fields that never touch the text
UNTOUCHING = frozenset({
    # OpenAI's
    "user", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options",
    "safety_identifier", "max_tool_calls",
    # vLLM's
    "request_id", "priority", "cache_salt", "return_tokens_as_token_ids",
    # llama.cpp's
    "cache_prompt", "id_slot", "timings_per_token", "return_progress", "n_indent", "verbose",
    # of front ends
    "session_id", "conversation_id", "keep_alive", "guided_decoding_backend",
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
_OFF = Foreign((False,))
_NONE = Foreign((0, False, [], {}, ""))
_ZERO = Foreign((0, -1, False))
_ONE = Foreign((1, 0))
FOREIGN: dict[str, Foreign] = {
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
    # llama.cpp's and front ends'
    "n_predict": Foreign((-1,), "use max_tokens"),
    "n_probs": Foreign((0,), "use logprobs"),
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
    left = {name: value for name, value in fields.items() if not is_neutral(name, value)}
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
