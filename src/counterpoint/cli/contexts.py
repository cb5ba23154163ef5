"""Options that say what the other branches are, and what they are made into. No heavy import at the top."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from counterpoint.cli.options import NUMBER, read_text
from counterpoint.errors import PromptError, UsageError

if TYPE_CHECKING:
    from counterpoint.guide import Branch
    from counterpoint.models.model import Model

# Each of these makes the branches by itself; --branch alone goes with --chat, --system and --negative-system.
WAYS = (
    "negative", "negative_file", "last_tokens", "empty", "suffix", "without", "document", "contrast", "adapter",
    "negative_system",
)  # fmt: skip


def context_options(function: Callable) -> Callable:
    """What the prompt is read against, instead of --negative."""
    for option in reversed(
        [
            click.option("--last-tokens", type=int, default=None, help="Against the last tokens of the prompt alone."),
            click.option("--empty", is_flag=True, help="Against nothing but the token that begins a text."),
            click.option("--suffix", default=None, help="Against prompt and output with this text after them."),
            click.option("--without", default=None, help="Against the prompt without this passage of it ..."),
            click.option("--instead", default=None, help="... or with this in its place."),
            click.option("--document", multiple=True, help="PROMPT is a question: with this file against without it."),
            click.option("--chat", is_flag=True, help="Write PROMPT as a user turn through the model's chat template."),
            click.option("--system", default=None, help="The system message before PROMPT."),
            click.option("--negative-system", default=None, help="Another system message, or 'none', or 'default'."),
            click.option("--contrast", default=None, help="Against what this weaker model predicts: folder or hub id."),
            click.option(
                "--adapter", default=None, help="A peft adapter's folder: the model with it against without it."
            ),
            click.option("--undo", is_flag=True, help="With --adapter: the model without it against with it."),
            click.option("--branch", multiple=True, help="WEIGHT=TEXT or WEIGHT={JSON}; may be given several times."),
            click.option("--with-model", multiple=True, help="NAME=FOLDER: a model that branches can name."),
            click.option("--show-branches", is_flag=True, help="Print what each branch reads and where they differ."),
        ]
    ):
        function = option(function)
    return function


def check_contexts(options: dict[str, Any], *, many: bool) -> None:
    """Refuse options that exclude one another, before a model is loaded.

    Args:
        many: whether the prompts come from a file of JSON Lines, whose lines name their own branches.

    Raises:
        UsageError: two ways to make a branch, or an option that needs another one or does nothing.
    """
    if many:
        for name in ("branch", "chat", "system", "show_branches", "with_model", *WAYS[2:]):
            if options[name] not in (None, False, ()):
                raise UsageError(
                    f"--{name.replace('_', '-')} is for one PROMPT; write branches into the lines of --jsonl"
                )
    given = [f"--{name.replace('_', '-')}" for name in WAYS if options[name] not in (None, False, ())]
    if options["branch"] and given != ["--negative-system"]:
        given += ["--branch"] if given or not _is_chat(options) else []
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are given; keep one, or write the branches with --branch")
    for name, needs in (("instead", "without"), ("undo", "adapter")):
        if options[name] and not options[needs]:
            raise UsageError(f"--{name} needs --{needs}")
    if _is_chat(options) and given and given[0] in ("--without", "--contrast", "--adapter"):
        raise UsageError(f"{given[0]} is for a plain prompt; in a chat use --branch with JSON")
    for text in options["branch"]:
        if "=" not in text:
            raise UsageError(f"--branch is {text[:40]!r}; write WEIGHT=TEXT, as --branch=-0.5=TEXT")
    named(options["with_model"], "--with-model")


def read_contexts(model: Model, prompt: str, options: dict[str, Any]) -> tuple[Model, Any, Any, list[Branch] | None]:
    """The model that generates, the prompt (or a `Built`), the negative and the branches that the options ask for.

    Raises:
        UsageError: a file, a model or a value can't be read.
    """
    from counterpoint import contexts

    if options["document"]:
        texts = [read_text(None, path, name="document") for path in options["document"]]
        chat_model = model if _is_chat(options) else None
        return model, contexts.documents(prompt, texts, model=chat_model, system=options["system"]), None, None
    if options["contrast"] is not None:
        return model, contexts.contrastive(prompt, _load(options["contrast"], options)), None, None
    if options["adapter"] is not None:
        return _with_adapter(model, prompt, options)
    negative = _negative(prompt, options)
    branches = _branches(model, options) if options["branch"] else None
    if not _is_chat(options):
        return model, prompt, negative, branches
    turns = [{"role": "user", "content": prompt}]
    messages = turns if options["system"] is None else [{"role": "system", "content": options["system"]}, *turns]
    built = contexts.chat(model, messages, negative=negative, branches=branches)
    if len(messages) == 1 and negative is None and branches is None:  # a turn, and nothing to move away from
        return model, built.prompt, None, None
    return model, built, None, None


def _is_chat(options: dict[str, Any]) -> bool:
    return options["chat"] or options["system"] is not None or options["negative_system"] is not None


def _negative(prompt: str, options: dict[str, Any]) -> Any:
    from counterpoint.contexts import Empty, LastTokens, Suffix, Swapped, System

    if options["negative_system"] is not None:
        named = {system.value: system for system in System}
        return named.get(options["negative_system"], options["negative_system"])
    if options["last_tokens"] is not None:
        return LastTokens(options["last_tokens"])
    if options["empty"]:
        return Empty()
    if options["suffix"] is not None:
        return Suffix(options["suffix"])
    if options["without"] is not None:
        return Swapped(options["without"], options["instead"] or "")
    return read_text(options["negative"], options["negative_file"], name="negative")


def _branches(model: Model, options: dict[str, Any]) -> list[Branch]:
    from counterpoint.wire import branch_from_wire

    models = load_models(options)
    branches = []
    for text in options["branch"]:
        weight, _, context = text.partition("=")
        fields: Any = {"prompt": context}
        if context.startswith("{"):
            try:
                fields = json.loads(context)
            except ValueError as error:
                raise PromptError(f"the branch {context[:40]!r} is not valid JSON: {error}") from None
        fields = {**fields, "weight": NUMBER.convert(weight, None, None)}
        branches.append(branch_from_wire(fields, model=model, models=models, is_chat=_is_chat(options)))
    return branches


def _with_adapter(model: Model, prompt: str, options: dict[str, Any]) -> tuple[Model, Any, None, None]:
    from counterpoint.contexts import against_adapter
    from counterpoint.models.adapters import load_adapter

    name = "given"
    load_adapter(model.hf, options["adapter"], name=name)
    plain = model.with_adapter(None)
    if options["undo"]:
        return plain, against_adapter(prompt, plain, adapter=name), None, None
    return model, against_adapter(prompt, model), None, None


def load_models(options: dict[str, Any]) -> dict[str, Model]:
    """The models of --with-model, by name."""
    return {name: _load(folder, options) for name, folder in named(options["with_model"], "--with-model")}


def named(texts: Sequence[str], option: str) -> list[tuple[str, str]]:
    """NAME=FOLDER as pairs.

    Raises:
        UsageError: one has no equals sign.
    """
    for text in texts:
        if "=" not in text:
            raise UsageError(f"{option} is {text[:40]!r}; write NAME=FOLDER")
    return [(name, folder) for name, _, folder in (text.partition("=") for text in texts)]


def _load(folder: str, options: dict[str, Any]) -> Model:
    from counterpoint.cli.options import open_model

    return open_model({**options, "model": folder})
