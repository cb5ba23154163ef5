"""The tokenizer of a GGUF file, as transformers makes it, and the tokens that end a text."""

from __future__ import annotations

import warnings

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from counterpoint.errors import ModelError
from counterpoint.models.gguf.file import GgufFile

ENDS = ("eos", "eot", "eom")


def read_tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """The tokenizer, with the chat template of the file where it has one.

    Raises:
        ModelError: the file has none, or one that transformers can't make.
    """
    if not file.fields.get("tokenizer.ggml.tokens") or not file.fields.get("tokenizer.ggml.model"):
        raise ModelError(f"{file.shown!r} has no tokenizer; convert the model again together with its tokenizer")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PreTrainedTokenizerFast.from_pretrained(
                str(file.path.parent), gguf_file=file.path.name, local_files_only=True
            )
    except Exception as error:  # transformers raises many kinds for a tokenizer that it can't make
        kind = file.fields["tokenizer.ggml.model"]
        raise ModelError(
            f"transformers can't make the tokenizer of {file.shown!r}, which is of the kind {kind!r}; load the model "
            "from the folder or the hub id of its original"
        ) from error


def end_ids(file: GgufFile, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a text: those that the file names, and the one that ends an assistant's turn in its template."""
    fields = (file.fields.get(f"tokenizer.ggml.{name}_token_id") for name in ENDS)
    found = {own for own in fields if own is not None}
    if tokenizer.chat_template:
        found |= _turn_end(tokenizer)
    return sorted(found)


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    said = "counterpoint"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}], tokenize=False
        )
    except Exception:  # a template may demand roles or fields of its own; the fields' tokens remain
        return set()
    after = tokenizer(text.rpartition(said)[2], add_special_tokens=False)["input_ids"]
    special = {token for token, own in tokenizer.added_tokens_decoder.items() if own.special}
    return special & set(after[:1])
