"""What a request says about guidance, from its fields to a guide and branches.

guidance_scale, or cfg_scale    a number; 1 is off
negative_prompt                 a text; in a chat another system message; or token ids
negative_prompt_ids             token ids
negative_messages               in a chat: a whole conversation
guidance                        the other arguments of the guide, its `scale`, and `branches`: an object, its JSON
                                text, or a guide's own text form, `space=prob,plausibility=0.1`

Beside a list of prompts the first two may be a list too: one for each prompt, or one for all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterpoint.errors import FieldError, GuideError, PromptError
from counterpoint.guide import Branch, Guide
from counterpoint.wire.branches import branch_from_wire, ids_from_wire, text_from_wire
from counterpoint.wire.messages import messages_from_wire
from counterpoint.wire.neutral import is_neutral

if TYPE_CHECKING:
    from counterpoint.models.model import Model

LISTED = ("negative_prompt", "negative_prompt_ids")
NEGATIVES = (*LISTED, "negative_messages")
SCALES = ("guidance_scale", "cfg_scale")
GUIDANCE_FIELDS = (*NEGATIVES, *SCALES, "guidance")
GUIDE_FIELDS = {f.name: f.default for f in dataclasses.fields(Guide)}


@dataclass(frozen=True, slots=True)
class Guidance:
    """What a request says about guidance.

    Args:
        guide: None where no guidance is asked for.
        branches: the further branches, the negative first. None with a guide means the prompt's last token.
        params: the field that each branch came from, for errors.
    """

    guide: Guide | None = None
    branches: tuple[Branch, ...] = ()
    params: tuple[str, ...] = ()


def read_guidance(
    fields: Mapping[str, Any],
    *,
    model: Model | None = None,
    models: Mapping[str, Model] | None = None,
    is_chat: bool = False,
) -> Guidance:
    """The guide and the further branches that a request asks for.

    Fields at their neutral value ask for nothing. An explicit scale of exactly 1 is "off": branches without a weight of
    their own, which would have `1 - scale`, are left out. So are branches of weight 0. A guide without branches means
    the prompt's last token, as in `prepare`.

    Args:
        fields: those of the request; others than `GUIDANCE_FIELDS` are not looked at.
        model, models, is_chat: as of `branch_from_wire`. In a chat the contexts go to `chat(branches=...)`.

    Raises:
        GuideError, PromptError, FieldError: a value is of the wrong kind or out of its range, or two contradict.
    """
    given = {name: fields[name] for name in GUIDANCE_FIELDS if not is_neutral(name, fields.get(name))}
    arguments = guidance_fields(given.get("guidance"))
    listed = arguments.pop("branches", ())
    scale = _scale({name: given[name] for name in SCALES if name in given}, arguments.pop("scale", None))
    named = _negative(given, is_chat)
    for number, one in enumerate(listed):
        param = f"guidance.branches[{number}]"
        named[param] = branch_from_wire(one, model=model, models=models, is_chat=is_chat, param=param)
    branches = {param: b for param, b in named.items() if b.weight != 0 and not (scale == 1 and b.weight is None)}
    # At scale 1 what is left of a guide without branches is the plausibility of the prompt's own tokens.
    is_off = scale == 1 and not branches and not arguments.get("plausibility")
    if is_off or (scale is None and not arguments and not branches):
        return Guidance()
    if scale == 1 and branches:
        scale = None
    guide = _guide({"scale": scale, **arguments})
    _weights(guide, list(branches.values()))
    return Guidance(guide, tuple(branches.values()), tuple(branches))


def read_guidance_each(fields: Mapping[str, Any], num_prompts: int, **how: Any) -> list[Guidance]:
    """What a request says about guidance for each of its prompts: what the prompt would be told alone, with its own entry
    of a list of negatives.

    Args:
        num_prompts: at least 1.
        fields, how: as of `read_guidance`.

    Raises:
        GuideError, PromptError, FieldError: as of `read_guidance`; or a list has neither 1 entry nor `num_prompts`.
    """
    each = [dict(fields) for _ in range(num_prompts)]
    for name in LISTED:
        given = fields.get(name)
        if not isinstance(given, list | tuple) or not given or isinstance(given[0], int):
            continue
        if len(given) not in (1, num_prompts):
            raise PromptError(
                f"{name} has {len(given)} entries and there {'is' if num_prompts == 1 else 'are'} {num_prompts} "
                f"prompt{'s' * (num_prompts > 1)}; give one for each, or one for all",
                param=name,
            )
        for number, own in enumerate(each):
            own[name] = given[number % len(given)]
    return [read_guidance(own, **how) for own in each]


def guidance_fields(value: Any) -> dict[str, Any]:
    """The fields of `guidance` that differ from what they are without being said, whichever way they are written.

    Raises:
        GuideError: it is no object and no text that stands for one, or has an unknown field.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("{"):
            value = Guide.parse(text).to_dict()
        else:
            try:
                value = json.loads(text)
            except ValueError as error:
                raise GuideError(
                    f'guidance is no JSON: {error}; write an object such as {{"space": "prob"}}', param="guidance"
                ) from None
    if not isinstance(value, Mapping):
        raise GuideError(f'guidance is {value!r:.60}; use an object such as {{"space": "prob"}}', param="guidance")
    unknown = [name for name in value if name not in GUIDE_FIELDS and name != "branches"]
    if unknown:
        raise GuideError(
            f"unknown guidance field {', '.join(map(repr, unknown))}; known are {', '.join(GUIDE_FIELDS)}, branches",
            param=f"guidance.{unknown[0]}",
        )
    listed = value.get("branches")
    if listed is not None and not isinstance(listed, list | tuple):
        raise GuideError(
            f"branches is {listed!r:.60}; use a list of objects with a prompt and a weight", param="guidance.branches"
        )
    for name, one in value.items():
        if name != "branches" and one is not None:
            _guide({name: one} if name != "stop" else {"stop": one, "start": value.get("start") or 0})
    return {
        name: one
        for name, one in value.items()
        if one is not None and (one != [] if name == "branches" else name == "scale" or one != GUIDE_FIELDS[name])
    }


def _scale(named: Mapping[str, Any], inner: Any) -> float | None:
    """The guidance scale by whichever of its names; two that agree are one."""
    scales = {**named, **({} if inner is None else {"guidance.scale": inner})}
    for name, value in scales.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise GuideError(f"{name} is {value!r:.60}; use a number", param=name)
    if len(set(scales.values())) > 1:
        raise FieldError(
            f"{' and '.join(f'{n} ({v})' for n, v in scales.items())} are both given; keep one",
            param=next(iter(scales)),
        )
    name, value = next(iter(scales.items()), (None, None))
    if value is not None:
        try:
            return Guide(scale=value).scale
        except GuideError as error:
            raise GuideError(str(error).replace("guidance scale", name, 1), param=name) from None
    return None


def _negative(given: Mapping[str, Any], is_chat: bool) -> dict[str, Branch]:
    names = [name for name in NEGATIVES if name in given]
    if len(names) > 1:
        raise FieldError(
            f"{' and '.join(names)} are both given; keep one, or use guidance.branches", param="negative_prompt"
        )
    if not names:
        return {}
    name, value = names[0], given[names[0]]
    if name in LISTED:
        is_ids = name == "negative_prompt_ids" or isinstance(value, list | tuple)
        return {name: Branch((ids_from_wire if is_ids else text_from_wire)(value, name, name))}
    if not is_chat:
        raise PromptError("negative_messages is for conversations; use negative_prompt here", param=name)
    return {name: Branch(messages_from_wire(value, param=name))}


def _guide(fields: Mapping[str, Any]) -> Guide:
    try:
        return Guide.from_dict(fields)
    except GuideError as error:
        blamed = [name for name in ("start", "stop") if f"{name} is" in str(error)] or list(fields)
        raise GuideError(str(error), param=f"guidance.{blamed[0]}" if len(blamed) == 1 else "guidance") from None


def _weights(guide: Guide, branches: list[Branch]) -> None:
    try:
        guide.weights(branches)
    except GuideError as error:
        raise GuideError(str(error), param="guidance.branches") from None
