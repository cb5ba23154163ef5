"""Conversations with pictures, through the processor of a model that reads them."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.contexts import pictures
from counterpoint.contexts.branched_prompt import BranchedPrompt
from counterpoint.contexts.chat import System, is_conversation, renderer, settled
from counterpoint.contexts.inputs import Inputs
from counterpoint.contexts.messages import Message, checked
from counterpoint.errors import GuideError, PromptError
from counterpoint.guide import Branch, Guide

if TYPE_CHECKING:
    from PIL.Image import Image

    Change = Callable[[Image], Image | None]

PART_NAMES = {"image": "image", "image_url": "image_url", "input_image": "image_url"}  # where each kind has its picture
CONTRASTIVE = Guide(scale=2.0, plausibility=0.1)


def picture_chat(
    model: Any,
    messages: Sequence[Message],
    *,
    negative: Change | str | System | Sequence[Message] | None = None,
    branches: Sequence[Branch] | None = None,
    template: Mapping[str, Any] | None = None,
) -> BranchedPrompt:
    """A conversation with pictures against the same one with other pictures, or under another system message.

        generate(model, picture_chat(model, [{"role": "user", "content": [
            {"type": "image", "image": photo}, {"type": "text", "text": "What is on the table?"}]}]))

    Args:
        model: a `Model` that was loaded with its processor, or a processor of transformers.
        messages: the conversation. A picture is a part {"type": "image", "image": ...} with a picture of Pillow, a path, or
            a data: URL; parts as OpenAI has them, {"type": "image_url", ...}, are taken too.
        negative: a function from each picture to another, or to None for none; another system message; or a whole
            conversation. None is `pictures.noisy`, and then the guide, where none is given, is that of the source: scale 2,
            plausibility 0.1.
        branches: several, with weights, instead of `negative`; the context of each is one of those, or a context of
            `counterpoint.contexts`.
        template: further arguments of the chat template.

    Raises:
        GuideError: both `negative` and `branches` are given.
        PromptError: there is no processor or no chat template, a picture can't be read, or as of `chat`.

    Source: visual contrastive decoding, Leng et al. 2023, arXiv 2311.16922.
    """
    if negative is not None and branches is not None:
        raise GuideError("both negative and branches are given; put the negative among the branches with its weight")
    guide = None
    if branches is None:
        guide = CONTRASTIVE if negative is None else None
        branches = [Branch(pictures.noisy if negative is None else negative)]
    writer = _Writer(model, template)
    read = with_pictures(messages)
    contexts = [_changed(read, branch.context) for branch in branches]
    prompt, others = settled(writer.render, read, contexts)
    return BranchedPrompt(
        writer.inputs(prompt),
        tuple(
            Branch(writer.inputs(other) if is_conversation(other) else other, branch.weight)
            for branch, other in zip(branches, others)
        ),
        guide,
    )


def picture_prompt(model: Any, messages: Sequence[Message], *, template: Mapping[str, Any] | None = None) -> Inputs:
    """A conversation with pictures as a prompt without further branches; arguments and errors as of `picture_chat`."""
    writer = _Writer(model, template)
    return writer.inputs(settled(writer.render, with_pictures(messages))[0])


def with_pictures(messages: Sequence[Message]) -> list[Message]:
    """The messages with each picture as a picture of Pillow.

    Raises:
        PromptError: a message is malformed, or a picture can't be read.
    """
    return [
        message
        if isinstance(message.get("content"), (str, type(None)))
        else {**message, "content": [_part(part) for part in message["content"]]}
        for message in checked(messages)
    ]


class _Writer:
    """What a processor makes of messages."""

    def __init__(self, model: Any, template: Mapping[str, Any] | None) -> None:
        processor = getattr(model, "processor", model)
        if not (hasattr(processor, "apply_chat_template") and hasattr(processor, "tokenizer")):
            name = getattr(model, "name", type(model).__name__)
            raise PromptError(
                f"{name} has no processor, so no pictures can be read; load a model that reads them, with its processor's files"
            )
        if not processor.chat_template:
            raise PromptError(
                "the processor has no chat template; set processor.chat_template, or give what it makes of a text with "
                "pictures, as counterpoint.contexts.Inputs(processor(...))"
            )
        self._processor, self._template = processor, dict(template or {})
        self.render = renderer(_Template(processor), template=template)

    def inputs(self, messages: Sequence[Message]) -> Inputs:
        try:
            made = self._processor.apply_chat_template(
                list(messages),
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
                **self._template,
            )
        except Exception as error:  # processors raise many kinds for pictures that they can't take
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PromptError(f"the processor refuses the conversation: {reason:.200}", param="messages") from error
        return Inputs(made)


class _Template:
    """The chat template of a processor, which is not always its tokenizer's."""

    def __init__(self, processor: Any) -> None:
        self.chat_template, self.apply_chat_template = processor.chat_template, processor.apply_chat_template


def _changed(messages: list[Message], context: Any) -> Any:
    """The conversation with other pictures, where a context says which; other contexts with their pictures read."""
    if is_conversation(context):
        return with_pictures(context)
    if not callable(context):
        return context

    def parts(content: Any) -> Any:
        if not isinstance(content, (list, tuple)):
            return content
        changed = [{**part, "image": context(part["image"])} if "image" in part else part for part in content]
        return [part for part in changed if part.get("image", part) is not None]

    changed = [{**message, "content": parts(message.get("content"))} for message in messages]
    if not any("image" in part for m in messages for part in m.get("content") or () if isinstance(part, Mapping)):
        raise PromptError(
            "the conversation has no picture to change; give a negative text, or a picture", param="messages"
        )
    return changed


def _part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return part
    if kind not in PART_NAMES:
        raise PromptError(
            f"a part of a message is {str(part)[:60]!r}; use parts of type text or image", param="messages"
        )
    value = part.get(PART_NAMES[kind], part.get("image"))
    if isinstance(value, Mapping):
        value = value.get("url")
    return {"type": "image", "image": picture_of(value)}


def picture_of(value: Any) -> Image:
    """A picture of Pillow from one, from a path, from a file's bytes, or from a data: URL.

    Raises:
        PromptError: it is none of them, or holds no picture that Pillow reads.
    """
    if hasattr(value, "convert") and hasattr(value, "size"):
        return value.convert("RGB")
    from PIL import Image, UnidentifiedImageError

    if isinstance(value, str) and value.startswith("data:"):
        try:
            value = base64.b64decode(value.partition(",")[2], validate=True)
        except binascii.Error:
            raise PromptError(
                "the picture is a data: URL that is not base64; encode it again", param="messages"
            ) from None
    elif isinstance(value, str) and value.split(":")[0] in ("http", "https"):
        raise PromptError(f"the picture is the address {value[:60]!r}; give the picture itself", param="messages")
    if not isinstance(value, (str, Path, bytes)):
        raise PromptError(
            f"the picture is a {type(value).__name__}; use a picture of Pillow, a path or a data: URL", param="messages"
        )
    shown = "the picture" if isinstance(value, bytes) else f"the picture {str(value)[:60]!r}"
    try:
        return Image.open(io.BytesIO(value) if isinstance(value, bytes) else value).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "Pillow finds no picture in it"
        raise PromptError(f"{shown} can't be read: {reason}", param="messages") from None
