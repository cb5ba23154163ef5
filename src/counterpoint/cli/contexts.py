"""Options that say what the branches read, the same for every command, and what they are made into."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterpoint.cli.command import OptionGroup, Options
from counterpoint.cli.kinds import FILE, Count, Input, Pair
from counterpoint.cli.options import open_model, option, read_text, read_vector
from counterpoint.errors import PromptError, UsageError

if TYPE_CHECKING:
    from counterpoint.guide import Branch
    from counterpoint.models.model import Model

# Each of these makes the branches by itself; --branch alone goes with --chat, --system and --negative-system.
WAYS = (
    "negative", "negative_file", "last_tokens", "empty", "suffix", "without", "document", "contrast", "adapter",
    "negative_system", "negative_picture",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the options amount to.

    Args:
        model: the model that generates.
        prompt: a text, or a `BranchedPrompt` with its branches.
        negative, branches: as `generate` takes them.
    """

    model: Model
    prompt: Any
    negative: Any = None
    branches: list[Branch] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """For `generate` and its like."""
        return {"negative": self.negative, "branches": self.branches}


class _Branch(Pair):
    """WEIGHT=TEXT, WEIGHT={JSON}, or {JSON} with the weight in it."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        text = str(value)
        if text.startswith("{"):
            _json_branch(text)
            return text
        text = super().convert(value, param, ctx)
        context = text.partition("=")[2]
        if context.startswith("{"):
            _json_branch(context)
        return text


def _check(options: Options) -> None:
    given = [f"--{name.replace('_', '-')}" for name in WAYS if options.get(name) not in (None, False, ())]
    if options["branch"] and given != ["--negative-system"]:
        given += ["--branch"] if given or not is_chat(options) else []
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are given; keep one, or write the branches with --branch")
    for name, needs in (("instead", "without"), ("undo", "adapter"), ("negative_picture", "picture")):
        if options.get(name) and not options[needs]:
            raise UsageError(f"--{name.replace('_', '-')} needs --{needs}")
    if options.get("picture") and options.get("document"):
        raise UsageError("--picture and --document are both given; keep one")
    if is_chat(options) and given and given[0] in ("--without", "--contrast", "--adapter"):
        raise UsageError(f"{given[0]} is for a plain prompt; in a chat use --branch with JSON")
    is_bare = options.get("no_prompt")
    if is_bare and (options.get("prompt") or options["prompt_file"]):
        raise UsageError("--no-prompt and a prompt are both given; keep one")
    if is_bare and (given or is_chat(options) or options["branch"]) and given != ["--negative"]:
        raise UsageError("--no-prompt goes with --negative only; the other branches are made of a prompt")
    if options.get("prompt") == "":
        raise UsageError("the prompt is empty; give a text, or --no-prompt to begin from nothing")
    for name in ("negative", "suffix"):
        if options[name] == "":
            raise UsageError(f"--{name} is empty; give a text, or --empty for a branch that reads nothing")


CONTEXTS = OptionGroup(
    "What is read: the prompt, and what it is read against",
    (
        option("--prompt-file", type=FILE, default=None, help="Read the prompt from a file."),
        option("--no-prompt", is_flag=True, help="Begin from nothing but the token that begins a text."),
        option("-e", "--escapes", is_flag=True, help=r"Read \n, \t and \\ in texts typed here as what they mean."),
        option("--negative", default=None, metavar="TEXT", help="What to move away from."),
        option("--negative-file", type=FILE, default=None, help="Read the negative from a file."),
        option("--last-tokens", type=Count(1), default=None, help="Against the last tokens of the prompt alone."),
        option("--empty", is_flag=True, help="Against nothing but the token that begins a text."),
        option("--suffix", default=None, metavar="TEXT", help="Against prompt and output with this text after them."),
        option("--without", default=None, metavar="TEXT", help="Against the prompt without this passage of it ..."),
        option("--instead", default=None, metavar="TEXT", help="... or with this in its place."),
        option(
            "--document", type=FILE, multiple=True, help="PROMPT is a question: with this file against without it."
        ),
        option("--chat", is_flag=True, help="Write PROMPT as a user turn through the model's chat template."),
        option("--system", default=None, metavar="TEXT", help="The system message before PROMPT."),
        option(
            "--negative-system", default=None, metavar="TEXT", help="Another system message, or 'none', or 'default'."
        ),
        option("--picture", type=FILE, multiple=True, help="A picture before PROMPT; may be given several times."),
        option(
            "--negative-picture", default=None, metavar="KIND|FILE",
            help="The same with each picture as noisy:STEPS, as blank, or none; or with this picture.",
        ),
        option("--contrast", default=None, metavar="NAME", help="Against what this weaker model predicts."),
        option(
            "--adapter", type=Input(folder=True), default=None,
            help="A peft adapter's folder: the model with it against without it.",
        ),
        option("--undo", is_flag=True, help="With --adapter: the model without it against with it."),
        option(
            "--branch", type=_Branch("WEIGHT", "TEXT", number="WEIGHT", example="--branch=-0.5=TEXT"), multiple=True,
            help="Or WEIGHT={JSON}; may be given several times.",
        ),
        option("--with-model", type=Pair("NAME", "FOLDER"), multiple=True, help="A model that branches can name."),
        option("--with-vector", type=Pair("NAME", "FILE"), multiple=True, help="A control vector that they can name."),
    ),
    _check,
)  # fmt: skip


#: what goes with every prompt of a file alike
SHARED = (
    "escapes", "negative", "negative_file", "last_tokens", "empty", "suffix", "without", "instead", "chat", "system",
    "negative_system", "branch", "with_model",
)  # fmt: skip
SHARED_CONTEXTS = OptionGroup(
    "What each prompt is read against", tuple(one for one in CONTEXTS.options if one.name in SHARED), _check
)


def check_prompt(options: Options) -> None:
    """Refuse a command without a prompt, or with two."""
    given = [options.get("prompt") is not None, options["prompt_file"] is not None, options["no_prompt"]]
    if sum(given) == 0:
        raise UsageError("give a PROMPT (a text, or - for standard input), --prompt-file, or --no-prompt")
    if sum(given) > 1:
        raise UsageError("the prompt is given twice; keep PROMPT, --prompt-file or --no-prompt")


def has_contexts(options: Options) -> bool:
    """Whether the options name something to read the prompt against."""
    return bool(options["branch"]) or any(options[name] not in (None, False, ()) for name in WAYS)


def read_contexts(options: Options) -> Contexts:
    """Read the files, load the model, and make the branches.

    Raises:
        UsageError: a file, a model or a value can't be read.
    """
    prompt = read_text(options["prompt"], options["prompt_file"], name="prompt")
    negative = _negative(options)
    texts = [read_text(None, path, name="document") or "" for path in options["document"]]
    if prompt == "":
        raise UsageError("the prompt is empty; give a text, or --no-prompt to begin from nothing")
    model = open_model(options)
    load_vectors(model, options)
    from counterpoint import contexts

    if options["no_prompt"]:
        return Contexts(model, contexts.Empty(), negative)
    assert prompt is not None
    if texts:
        chat_model = model if is_chat(options) else None
        return Contexts(model, contexts.documents(prompt, texts, model=chat_model, system=options["system"]))
    if options["contrast"] is not None:
        return Contexts(model, contexts.contrastive(prompt, _load(options["contrast"], options)))
    if options["adapter"] is not None:
        return _with_adapter(model, prompt, options)
    branches = _branches(model, options) if options["branch"] else None
    if not is_chat(options):
        return Contexts(model, prompt, negative, branches)
    turns = [{"role": "user", "content": _with_pictures(options["picture"], prompt)}]
    messages = turns if options["system"] is None else [{"role": "system", "content": options["system"]}, *turns]
    if options["picture"] and negative is None and branches is None:
        return Contexts(model, contexts.picture_prompt(model, messages))
    chat = contexts.picture_chat if options["picture"] else contexts.chat
    built = chat(model, messages, negative=negative, branches=branches)
    if len(messages) == 1 and negative is None and branches is None:  # a turn, and nothing to move away from
        return Contexts(model, built.prompt)
    return Contexts(model, built)


def read_shared(model: Model, options: Options) -> dict[str, Any]:
    """What `SHARED_CONTEXTS` amounts to, as `contexts.chat` and `generate` take it."""
    branches = _branches(model, options) if options["branch"] else None
    return {"negative": _negative(options), "branches": branches}


def is_chat(options: Options) -> bool:
    """Whether a prompt is what a user says."""
    return bool(
        options["chat"]
        or options["system"] is not None
        or options["negative_system"] is not None
        or options.get("picture")
    )


def _with_pictures(paths: Sequence[str], prompt: str) -> Any:
    if not paths:
        return prompt
    parts: list[dict[str, Any]] = [{"type": "image", "image": path} for path in paths]
    return [*parts, {"type": "text", "text": prompt}]


def _picture_change(given: str) -> Any:
    """A kind of change, or a file's picture in the place of each."""
    from counterpoint.contexts import pictures
    from counterpoint.contexts.picture_chat import picture_of

    if not os.path.exists(given):
        return pictures.change_of(given)
    other = picture_of(given)
    return lambda image: other


def _negative(options: Options) -> Any:
    from counterpoint.contexts import Empty, LastTokens, Suffix, Swapped, System

    if options["negative_system"] is not None:
        named = {system.value: system for system in System}
        return named.get(options["negative_system"], options["negative_system"])
    if options.get("negative_picture") is not None:
        return _picture_change(options["negative_picture"])
    if options["last_tokens"] is not None:
        return LastTokens(options["last_tokens"])
    if options["empty"]:
        return Empty()
    if options["suffix"] is not None:
        return Suffix(options["suffix"])
    if options["without"] is not None:
        return Swapped(options["without"], options["instead"] or "")
    return read_text(options["negative"], options["negative_file"], name="negative")


def _json_branch(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise PromptError(f"the branch {text[:40]!r} is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise PromptError(f"the branch {text[:40]!r} is no JSON object")
    return fields


def _branches(model: Model, options: Options) -> list[Branch]:
    from counterpoint.wire import branch_from_wire

    models = load_models(options)
    branches = []
    for text in options["branch"]:
        weight, _, context = ("", "", text) if text.startswith("{") else text.partition("=")
        fields: dict[str, Any] = _json_branch(context) if context.startswith("{") else {"prompt": context}
        if weight:
            fields["weight"] = float(weight)
        branches.append(branch_from_wire(fields, model=model, models=models, is_chat=is_chat(options)))
    return branches


def _with_adapter(model: Model, prompt: str, options: Options) -> Contexts:
    from counterpoint.contexts import against_adapter
    from counterpoint.models.adapters import load_adapter

    name = "given"
    load_adapter(model.hf, options["adapter"], name=name)
    plain = model.with_adapter(None)
    if options["undo"]:
        return Contexts(plain, against_adapter(prompt, plain, adapter=name))
    return Contexts(model, against_adapter(prompt, model))


def load_models(options: Options) -> dict[str, Model]:
    """The models of --with-model, by name."""
    return {name: _load(folder, options) for name, folder in named(options["with_model"])}


def load_vectors(model: Model, options: Options) -> None:
    """Give the model the vectors of --with-vector, by name; refuses one that does not fit it."""
    for name, path in named(options["with_vector"]):
        model.add_vector(name, read_vector(path))


def named(texts: Sequence[str]) -> list[tuple[str, str]]:
    """NAME=FOLDER as pairs."""
    return [(name, folder) for name, _, folder in (text.partition("=") for text in texts)]


def _load(folder: str, options: Options) -> Model:
    return open_model({**options, "model": folder, "vector": None})
