"""The wire's fields. Strict: no number for a text, no text for a number, no NaN, and an unknown field is an error.

What guidance, messages and neutral values mean is decided in `counterpoint.wire`; here are kinds and ranges.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from counterpoint.errors import FieldError
from counterpoint.wire import BRANCH_FIELDS

MAX_TOP = 20  # alternatives of one token
MAX_STOPS = 16
MAX_STOP_CHARS = 4096  # of one stop text
BAN = -100.0  # the bias by which OpenAI's clients rule a token out


def _whole(value: Any) -> Any:
    """In JSON 16.0 is a whole number, and some clients write them so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _said(value: Any) -> Any:
    """Stop texts without those that say nothing, which front ends send for fields that nobody filled."""
    return [text for text in value if text is not None and text != ""] if isinstance(value, list) else value


def _begun(value: Any) -> Any:
    if value in ("", []) or (isinstance(value, list) and "" in value):
        raise ValueError(
            "a prompt is empty; give a text, or for nothing the id of the token that begins a text, as [ID]"
        )
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
TokenId = Annotated[Whole, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Count = Annotated[Whole, Field(ge=1, lt=2**31)]
Most = Annotated[Whole, Field(ge=-1, lt=2**31, description="tokens; -1 is as many as fit")]
Messages = Annotated[
    list[dict[str, Any]],
    Field(min_length=1, description="role and content (a text or text parts); tool_calls and tool turns of a history"),
]


class Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class StreamOptions(Wire):
    include_usage: bool | None = Field(None, description="a last event with the usage")
    continuous_usage_stats: bool | None = Field(None, description="the usage so far with every event")
    include_obfuscation: bool | None = Field(None, description="understood and without effect")


class Sampled(Wire):
    """How tokens are drawn, by whichever endpoint."""

    model: str | None = Field(None, description="the served model; it may be left out")
    temperature: Annotated[float, Field(ge=0, le=1e6)] | None = Field(None, description="default 1; 0 is greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = Field(None, description="0 and -1 are off")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=1e6)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = Field(None, description="token id to a number from -100, a ban, to 100")
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**64)] | None = Field(None, description="sample i uses seed + i")
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS), BeforeValidator(_said)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=256)] | None = None
    ignore_eos: bool | None = None
    loop: Annotated[list[Annotated[Whole, Field(ge=1, le=4096)]], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="[longest period, repeats]: a passage that stands there so many times in a row ends the output",
    )
    watch: str | None = Field(None, description="a watch that the server was started with: alarms while it is written")
    on_alarm: Literal["mark", "stop", "ease"] | None = Field(
        None, description="default mark: told with the answer; stop ends it; ease goes back under a gentler guide"
    )
    max_eases: Annotated[Whole, Field(ge=0, le=64)] | None = Field(
        None, description="how often ease goes back; default 3"
    )
    min_tokens: Annotated[Whole, Field(ge=0, lt=2**31)] | None = Field(None, description="before them nothing ends it")
    stream: bool | None = None
    return_tokens_as_token_ids: bool | None = Field(None, description="logprobs name tokens by id, as token_id:50")
    preset: str | None = Field(None, description="a name for fields that the request does not have itself")
    negative_prompt: str | list[TokenId] | list[str] | list[list[TokenId]] | None = Field(
        None,
        description="what to move away from; in chat it takes the system message's place. Beside a list of prompts one for "
        "all, or a list of as many",
    )
    negative_prompt_ids: list[TokenId] | list[list[TokenId]] | None = None
    guidance_scale: float | None = Field(None, description="1 is off")
    cfg_scale: float | None = Field(None, description="another name of guidance_scale")
    guidance: dict[str, Any] | str | None = Field(
        None,
        description="scale, space (log, prob), plausibility, gate, start, stop, adaptive (jsd), and branches: a list of "
        f"objects with {', '.join(BRANCH_FIELDS)}",
    )

    @field_validator("logit_bias")
    @classmethod
    def _ids_and_numbers(cls, given: dict[str, float] | None) -> dict[str, float] | None:
        bad = [name for name in given or () if not re.fullmatch("0|[1-9][0-9]{0,8}", name)]
        if bad:
            raise ValueError(f"the keys {', '.join(map(repr, bad[:20]))} are no token ids; use ids such as '50'")
        wide = {name: value for name, value in (given or {}).items() if not -100 <= value <= 100}
        if wide:
            raise ValueError(f"{wide} is not within -100 and 100")
        return given

    @property
    def num_samples(self) -> int:
        """Samples that are shown of each prompt."""
        return getattr(self, "n", None) or 1

    @property
    def num_drawn(self) -> int:
        """Samples that are generated of each prompt."""
        return getattr(self, "best_of", None) or self.num_samples


class BaseBody(Sampled):
    """The fields that completions and chat have in common."""

    n: Count | None = None
    best_of: Count | None = Field(None, description="generate so many, show the n likeliest")
    response_format: dict[str, Any] | None = Field(None, description="type: text, json_object or json_schema")
    structured_outputs: dict[str, Any] | None = Field(
        None, description="one of json, regex, choice, grammar, json_object"
    )
    guided_json: dict[str, Any] | str | None = Field(None, description="an older name of structured_outputs.json")
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    stream_options: StreamOptions | None = None
    trace: Annotated[Whole, Field(ge=0, le=MAX_TOP)] | None = Field(
        None, description="tell for each token what every branch thought of it and this many alternatives"
    )
    show_branches: bool | None = Field(
        None, description="tell with each choice what every branch read, where they differ, and what looks like a slip"
    )
    return_token_ids: bool | None = Field(None, description="tell the ids of prompts and outputs too")

    @model_validator(mode="after")
    def _no_options_of_a_stream_without_one(self) -> BaseBody:
        if self.stream_options is not None and not self.stream:
            raise FieldError(
                "stream_options is given without stream; leave it out or set stream to true", param="stream_options"
            )
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage. Usage all along has it at the end too, unless that is refused."""
        options = self.stream_options
        if options is None or options.include_usage is False:
            return False
        return bool(options.include_usage or options.continuous_usage_stats)

    @property
    def wants_usage_always(self) -> bool:
        """Whether every event of a stream has the usage so far."""
        return bool(self.wants_usage and self.stream_options and self.stream_options.continuous_usage_stats)


class CompletionBody(BaseBody):
    """`POST /v1/completions`."""

    prompt: Annotated[
        Text
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)],
        BeforeValidator(_begun),
    ]
    max_tokens: Most | None = Field(None, description="default 16; -1 is as many as fit; 0 with echo writes nothing")
    echo: bool | None = Field(None, description="the prompt before the output; with logprobs its scores too")
    logprobs: Annotated[Whole, Field(ge=0, le=MAX_TOP)] | None = None
    add_special_tokens: bool | None = Field(None, description="false: the prompt holds its special tokens already")

    @model_validator(mode="after")
    def _no_contradiction(self) -> CompletionBody:
        _check_best_of(self.best_of, self.num_samples, self.stream)
        if self.max_tokens == 0 and not self.echo:
            raise FieldError(
                "max_tokens is 0 and there is no echo, so nothing would be answered; give 1 or more", param="max_tokens"
            )
        if self.echo and self.trace:
            raise FieldError("echo and trace are both given; a trace is of the output only, drop one", param="echo")
        return self


class ChatBody(BaseBody):
    """`POST /v1/chat/completions`."""

    messages: Messages
    max_tokens: Most | None = None
    max_completion_tokens: Most | None = Field(None, description="another name of max_tokens")
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_TOP)] | None = None
    negative_messages: list[dict[str, Any]] | None = Field(None, description="a whole conversation to move away from")
    tools: list[dict[str, Any]] | None = Field(None, description="functions; the template writes them into the prompt")
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = Field(None, description="go on with the last message; no new turn begins")
    add_generation_prompt: bool | None = Field(None, description="false: the template does not open the answer's turn")
    add_special_tokens: bool | None = Field(None, description="true: the tokenizer adds its own before the template's")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="variables of the model's template, such as enable_thinking"
    )
    reasoning_effort: str | None = Field(None, description="for a template that knows it")

    @model_validator(mode="after")
    def _no_contradiction(self) -> ChatBody:
        _check_best_of(self.best_of, self.num_samples, self.stream)
        given = {self.max_tokens, self.max_completion_tokens} - {None}
        if 0 in given:
            name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
            raise FieldError(
                f"{name} is 0, so nothing would be answered; give 1 or more, or -1 for as many as fit", param=name
            )
        if len(given) > 1:
            raise FieldError(
                "max_tokens and max_completion_tokens are both given and differ; keep one", param="max_tokens"
            )
        if self.top_logprobs and not self.logprobs:
            raise FieldError("top_logprobs is given without logprobs; set logprobs to true", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            raise FieldError(
                "continue_final_message and add_generation_prompt are both true; keep one",
                param="continue_final_message",
            )
        return self


class TokenizeBody(Wire):
    """`POST /tokenize`: a text, or a conversation through the model's template."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = Field(None, description="true for a prompt, false for messages unless given")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_text(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise FieldError("give one of prompt and messages", param="prompt")
        return self


class DetokenizeBody(Wire):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[TokenId]


def _check_best_of(best_of: int | None, n: int, stream: bool | None) -> None:
    if best_of is not None and best_of < n:
        raise FieldError(f"best_of is {best_of}, below n at {n}; raise it", param="best_of")
    if best_of is not None and best_of > n and stream:
        raise FieldError(
            f"best_of is {best_of} and a stream shows each sample as it is written; leave stream out", param="best_of"
        )
