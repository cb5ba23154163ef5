"""`/tokenize` and `/detokenize`, in the shape of vLLM's."""

from __future__ import annotations

from typing import Any

from counterpoint.contexts import Rendered
from counterpoint.errors import UsageError
from counterpoint.server.errors import ApiError, from_usage
from counterpoint.server.schema import DetokenizeBody, TokenizeBody
from counterpoint.server.template import written
from counterpoint.server.work import Served


def tokenize(served: Served, body: TokenizeBody) -> dict[str, Any]:
    """The token ids of a text or a conversation; `token_strs` are their names in the vocabulary.

    Raises:
        ApiError: the conversation can't be written, or the text is no Unicode.
    """
    model, prompt = served.model, body.prompt
    if body.messages is not None:
        prompt, _ = written(served, body)
    is_text = isinstance(prompt, str)
    text = prompt.text if isinstance(prompt, Rendered) else prompt
    special = body.add_special_tokens is not False if is_text else False
    try:
        ids = model.encode(text, special_tokens=special)
    except (UsageError, UnicodeEncodeError, TypeError) as error:
        raise from_usage(
            error if isinstance(error, UsageError) else UsageError(f"the text is no Unicode: {error}")
        ) from None
    names = model.tokenizer.convert_ids_to_tokens(ids) if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": model.context_len, "tokens": ids, "token_strs": names}


def detokenize(served: Served, body: DetokenizeBody) -> dict[str, Any]:
    """The text of token ids, special tokens included.

    Raises:
        ApiError: an id is outside of the vocabulary.
    """
    model = served.model
    outside = [token_id for token_id in body.tokens if token_id >= model.vocab_size]
    if outside:
        raise ApiError(
            400,
            f"tokens has {', '.join(map(str, outside[:20]))}; ids of {model.name} end at {model.vocab_size - 1}",
            param="tokens",
        )
    try:
        return {"prompt": model.decode(body.tokens, special_tokens=True)}
    except UsageError as error:
        raise from_usage(error, "tokens") from error
