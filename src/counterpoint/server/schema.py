"""The wire's fields. Strict: no number for a text, no text for a number, no NaN, and an unknown field is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from counterpoint.wire import CONTEXT_FIELDS, READER_FIELDS

MAX_TOP = 20  # alternatives of one token
MAX_STOPS = 16

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
Weight = Annotated[float, Field(ge=-1e6, le=1e6)]
Count = Annotated[int, Field(ge=1, lt=2**31)]


class Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class TextPart(Wire):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Wire):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class BranchFields(Wire):
    """A further context: one of `prompt` (in chat: another system message), `prompt_ids`, `messages` (chat), `suffix`,
    `last_tokens`, `empty`, `without`, `system` (chat; null is none), `default_system` (chat). With `model` or `adapter`
    (null is none) that one reads it, alone the prompt."""

    prompt: Text | None = None
    prompt_ids: Annotated[list[TokenId], Field(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    suffix: Text | Annotated[list[TokenId], Field(min_length=1)] | None = Field(
        None, description="read after all that the prompt's branch holds, anew at each step"
    )
    last_tokens: Count | None = Field(None, description="the end of the prompt")
    empty: Literal[True] | None = Field(None, description="nothing but the token that begins a text")
    without: Text | None = Field(None, description="the prompt without this passage, which it holds once")
    instead: Text | None = Field(None, description="with `without`: what stands in the passage's place")
    system: Text | None = Field(None, description="in chat: another system message; null is none")
    default_system: Literal[True] | None = Field(None, description="in chat: what the template writes by itself")
    model: Text | None = Field(None, description="another model that this server has loaded, by its name")
    adapter: Text | None = Field(None, description="the same model with this adapter; null is without any")
    weight: Weight | None = Field(None, description="negative pushes away, positive pulls; null takes 1 - scale")

    @model_validator(mode="after")
    def _one_context(self) -> BranchFields:
        given = [name for name in CONTEXT_FIELDS if name in self.written]
        readers = [name for name in READER_FIELDS if name in self.written]
        if len(given) > 1 or len(readers) > 1 or not (given or readers):
            raise ValueError(
                f"a branch has {' and '.join(given) or 'no context'}; give one of {', '.join(CONTEXT_FIELDS)}"
            )
        return self

    @property
    def written(self) -> dict[str, Any]:
        """The fields that the request holds. null is the same as left out, but for those where it means none."""
        fields = self.model_dump(exclude_unset=True)
        return {name: value for name, value in fields.items() if value is not None or name in ("system", "adapter")}


class Guidance(Wire):
    """The other arguments of the guide, and branches."""

    scale: Weight | None = None
    space: Literal["log", "prob"] | None = None
    plausibility: Annotated[float, Field(ge=0, le=1)] | None = None
    gate: Annotated[float, Field(ge=0, le=1e6)] | None = Field(None, description="nats")
    start: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stop: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    adaptive: Literal["jsd"] | None = None
    branches: Annotated[list[BranchFields], Field(min_length=1)] | None = None


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="understood and without effect")


class Asked(Wire):
    """The fields that completions and chat have in common."""

    model: str | None = Field(None, description="the served model; it may be left out")
    temperature: Annotated[float, Field(ge=0, le=1e6)] | None = Field(None, description="default 1; 0 is greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = Field(None, description="0 and -1 are off")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=1e6)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = None
    n: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**62)] | None = Field(None, description="sample i uses seed + i")
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=256)] | None = None
    ignore_eos: bool | None = None
    max_tokens: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="understood and without effect")
    metadata: dict[str, str] | None = Field(None, description="understood and without effect")
    negative_prompt: Text | None = Field(
        None, description="what to move away from; in chat it takes the system message's place"
    )
    negative_prompt_ids: Annotated[list[TokenId], Field(min_length=1)] | None = None
    guidance_scale: Weight | None = Field(None, description="1 is unguided")
    cfg_scale: Weight | None = Field(None, description="another name of guidance_scale")
    guidance: Guidance | None = None
    trace: Annotated[int, Field(ge=1, le=MAX_TOP)] | None = Field(
        None, description="tell for each token what every branch thought of it and this many alternatives"
    )

    show_branches: bool | None = Field(
        None, description="tell with each choice what every branch read, where they differ, and what looks like a slip"
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> Asked:
        scales = {"guidance_scale": self.guidance_scale, "cfg_scale": self.cfg_scale}
        scales["guidance.scale"] = self.guidance.scale if self.guidance else None
        given = [name for name, value in scales.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given; keep one")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given without stream; leave it out or set stream to true")
        return self

    @property
    def scale(self) -> float | None:
        """The guidance scale, by whichever of its names."""
        for value in (self.guidance_scale, self.cfg_scale, self.guidance.scale if self.guidance else None):
            if value is not None:
                return value
        return None


class CompletionBody(Asked):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None

    @model_validator(mode="after")
    def _no_scored_prompt(self) -> CompletionBody:
        if self.echo and self.logprobs is not None:
            raise ValueError(
                "echo and logprobs are both given; log-probabilities are those of the output only, drop one"
            )
        return self


class ChatBody(Asked):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    negative_messages: Annotated[list[Message], Field(min_length=1)] | None = Field(
        None, description="a whole conversation to move away from"
    )
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None

    @model_validator(mode="after")
    def _no_contradiction_in_chat(self) -> ChatBody:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are both given; keep one")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is given without logprobs; set logprobs to true")
        return self
