"""A loaded model: transformers' model and tokenizer together, and what the rest of the package asks of them."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
import weakref
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from counterpoint.contexts.inputs import Inputs
from counterpoint.errors import CompileWarning, ModelError, PromptError, UnsupportedError, UsageError
from counterpoint.guide import weighty
from counterpoint.models.adapters import AdapterSwitch, unwrapped
from counterpoint.models.devices import input_device
from counterpoint.models.fingerprint import fingerprint
from counterpoint.models.graphs import fixed_steps
from counterpoint.models.ids import num_ids, special_ids
from counterpoint.models.inputs import check_names
from counterpoint.models.kernels import build
from counterpoint.models.layers import Directions, Layers, VectorSwitch, layers_of
from counterpoint.models.ragged import RaggedRows
from counterpoint.models.recorded.steps import RecordedSteps
from counterpoint.models.rows import Feed, Rows
from counterpoint.models.switched import Switch, SwitchedRows
from counterpoint.models.trials import Abilities, abilities_of

# Capitals, accents, digits, white space and more than one script: what tokenizers treat each in their own way.
PROBE = "The  QUICK brown fox's 12,345 Äpfel\tcafé\n\n naïve — 日本語 🙂"


@dataclass(frozen=True, slots=True)
class _On:
    """A switch that is on in a variant of a model.

    Args:
        key: tells it from others of its kind.
        shown: what a message says of it.
    """

    key: Hashable
    switch: Switch
    shown: str


class Model:
    """A causal language model, with its tokenizer where it has one.

    Args:
        hf: the transformers model, or peft's wrapper around one, of which the model inside is taken, with its adapters. It is
            put into evaluation mode.
        tokenizer: None where prompts are token ids only.
        processor: makes pictures and texts into what a vision-language model reads; None where prompts are text, or come
            ready made as `contexts.Inputs`.
        name: what messages call it.
        compile: "auto" makes products of few rows on the CPU by a kernel that the machine's C compiler builds once, in
            about a second, and compiles whole steps where the work to come seems long enough to pay for it. True
            compiles the steps of every shape when it first occurs, which takes 10 seconds or more for each and a few
            seconds in later processes. On a GPU, "auto" records the steps as CUDA graphs, and True compiles what is
            recorded. False does neither. With either of the first two, weights of GPT-2's kind get another memory layout
            on the CPU (same numbers), and the weights must not be exchanged for others any more.

    Raises:
        UnsupportedError: the model is an encoder-decoder or has no output embeddings, it has adapters and is to be compiled,
            or peft has learned a prompt or a prefix for it.
        UsageError: `hf` is no model of transformers.
        ModelError: `compile` is something else.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        processor: ProcessorMixin | None = None,
        name: str = "",
        compile: bool | Literal["auto"] = "auto",
    ) -> None:
        if compile not in (True, False, "auto"):
            raise ModelError(f"compile is {compile!r}; use True, False or 'auto'")
        hf = unwrapped(hf)
        if hf.config.is_encoder_decoder:
            raise UnsupportedError(
                f"{type(hf).__name__} is an encoder-decoder; guide it through counterpoint.transformers.generate"
            )
        adapted = bool(getattr(hf, "peft_config", None))
        if compile is True and adapted:
            raise UnsupportedError(
                f"{type(hf).__name__} has adapters, which compiled steps don't see; use compile=False"
            )
        self.hf = hf.eval()
        self.tokenizer, self.processor = tokenizer, processor
        self.name = name or type(hf).__name__
        #: whether kernels of ours are used where they are there
        self.has_kernels = compile is not False
        self._fixed = None if compile is False or adapted else fixed_steps(hf, compiled=compile is True)
        if compile is not False and hf.device.type == "cpu":
            build.warn_where_missing()
        self._recorded = None if compile is False or adapted else RecordedSteps(hf)
        self._switches: dict[str, _On] = {}  # by kind, of which there is one at a time
        # Shared by all variants of the same weights. One that nobody holds any more is forgotten with its rows.
        self._variants: MutableMapping[tuple, Model] = weakref.WeakValueDictionary()
        self._vectors: dict[str, Directions] = {}  # shared likewise

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.dtype}, {self.device})"

    @property
    def base(self) -> Model:
        """The same weights with nothing switched."""
        return self

    @property
    def compiles(self) -> bool:
        """Whether the steps of every shape are compiled."""
        return self._fixed is not None and self._fixed.compiles and self._fixed.always

    @property
    def may_compile(self) -> bool:
        """Whether steps may be compiled, always or where it pays."""
        return self._fixed is not None and self._fixed.compiles

    @property
    def device(self) -> torch.device:
        """Where it takes its token ids."""
        return input_device(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model both predicts and reads."""
        return num_ids(self.hf)

    @property
    def context_len(self) -> int | None:
        """Most tokens that a branch can hold; None where the model has no bound."""
        return self.abilities.context_len

    @property
    def abilities(self) -> Abilities:
        """What trials find the model can do."""
        return abilities_of(self.hf)

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a text."""
        return frozenset(special_ids(self.hf, "eos_token_id"))

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, where there is one."""
        own = self.tokenizer.bos_token_id if self.tokenizer is not None else None
        return own if own is not None else next(iter(special_ids(self.hf, "bos_token_id")), None)

    @functools.cached_property
    def vocabulary(self) -> str:
        """A digest that is equal where token ids mean the same texts and texts become the same ids.

        Raises:
            PromptError: the model has no tokenizer.
        """
        ids = self.encode(PROBE, special_tokens=False)
        known = sorted(self.tokenizer.get_vocab().items())
        return hashlib.sha256(json.dumps([known, ids]).encode()).hexdigest()

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with the tokenizer's own special tokens unless told otherwise."""
        if self.tokenizer is None:
            raise PromptError(f"the model {self.name} has no tokenizer, so a text can't be read; give token ids")
        return self.tokenizer(text, add_special_tokens=special_tokens)["input_ids"]

    def decode(self, ids: Sequence[int], *, special_tokens: bool = False) -> str:
        """The text of token ids, without special tokens unless they are asked for."""
        if self.tokenizer is None:
            raise PromptError(f"the model {self.name} has no tokenizer, so token ids can't be written as text")
        if self._decodes_plainly:
            return self.tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=not special_tokens)
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=not special_tokens, clean_up_tokenization_spaces=False
        )

    @functools.cached_property
    def _decodes_plainly(self) -> bool:
        """Whether the tokenizer hands ids on to the library that it stands over, as they are."""
        if self.tokenizer is None:
            return False
        own, plain = type(self.tokenizer), PreTrainedTokenizerFast
        return issubclass(own, plain) and own.decode is plain.decode and own._decode is plain._decode

    def with_adapter(self, name: str | None) -> Model:
        """This model as it is with one of its peft adapters on, or with None: the same weights, rows of its own.

        Raises:
            UsageError: the model has no such adapter.
        """
        shown = "without an adapter" if name is None else f"with the adapter {name}"
        return self._variant("adapter", name, lambda: AdapterSwitch(self.hf, name), shown)

    @property
    def vectors(self) -> Mapping[str, Directions]:
        """Control vectors that requests can name."""
        return MappingProxyType(self._vectors)

    def add_vector(self, name: str, vector: Directions) -> None:
        """Let requests name a control vector.

        Raises:
            UnsupportedError: as of `with_vector`, so that no request meets it.
        """
        self.with_vector(vector)
        self._vectors[name] = vector

    def with_vector(self, vector: Directions | str | None, strength: float = 1.0) -> Model:
        """This model with a control vector added to what its layers write, or without one: the same weights, rows of
        its own. Another vector takes the place of the one that is on.

        Args:
            vector: a `counterpoint.Vector`, the name of one of `vectors`, or None.
            strength: times the vector's directions, within -1e6 and 1e6; negative for the opposite. 0 is the model without one.

        Raises:
            UsageError: there is no vector of that name.
            UnsupportedError: the vector has another width or more layers than the model, the model's layers can't be
                told, or its steps are compiled, which no vector could be added to.
        """
        strength = weighty("strength", strength)
        if isinstance(vector, str):
            if vector not in self._vectors:
                known = f"known are {', '.join(self._vectors)}" if self._vectors else "none is loaded"
                raise UsageError(f"there is no vector {vector!r:.60}; {known}", param="vector")
            name, vector = f"the vector {vector}", self._vectors[vector]
        else:
            name = "a vector"
        if vector is None:
            return self._variant("vector", None, None, "")
        directions = vector.directions
        self.layers.check(directions, self.name)
        if strength == 0:
            return self._variant("vector", None, None, "")
        if self.base.compiles:
            raise UnsupportedError(
                f"the steps of {self.name} are compiled, and compiled steps don't see a vector; use compile=False"
            )
        key = (vector.digest, strength)
        return self._variant(
            "vector",
            key,
            lambda: VectorSwitch(self.layers, directions, strength),
            f"with {name} times {strength:g}",
        )

    @property
    def layers(self) -> Layers:
        """The layers that states pass through, in order.

        Raises:
            UnsupportedError: no trial finds them.
        """
        return layers_of(self.base)

    @property
    def fingerprint(self) -> str:
        """A hash of all weights and of what is switched on, so that answers of another model or of this one in another
        state are never taken for this one's."""
        weights = fingerprint(self.hf)
        if not self._switches:
            return weights
        return hashlib.sha256(json.dumps([weights, _names(self._switches)]).encode()).hexdigest()[:16]

    def _variant(self, kind: str, key: Hashable, new_switch: Callable[[], Switch] | None, shown: str) -> Model:
        """The same weights with a switch on, in the place of another of its kind; the same object while anybody holds it.

        Args:
            key: tells switches of a kind apart.
            new_switch: None for no switch of this kind.
        """
        switches = {name: on for name, on in self._switches.items() if name != kind}
        wanted = _names(switches) + ([[kind, repr(key)]] if new_switch is not None else [])
        names = tuple(map(tuple, sorted(wanted)))
        if not names:
            return self.base
        found = self._variants.get(names)
        if found is None:
            if new_switch is not None:
                switches[kind] = _On(key, new_switch(), shown)
            found = self._variants[names] = _SwitchedModel(self.base, switches)
        return found

    def check_takes(self, inputs: Inputs) -> None:
        """Raise `PromptError` where the forward has no argument of one of their names, such as pictures."""
        check_names(self.hf, inputs.values)

    def check_inputs(self, inputs: Inputs) -> None:
        """Raise `UnsupportedError` where rows can't go on after such a prompt, `PromptError` where it can't be read."""
        self.abilities.check_reads(inputs, limit=self.context_len)

    def new_rows(self) -> Rows:
        """Empty rows of this model: one forward for all where trials show that they are exact, else one for each.

        Raises:
            UnsupportedError: the model can't be continued token by token.
        """
        return self.abilities.new_rows(
            limit=self.context_len, kernels=self.has_kernels, steps=self._fixed, recorded=self._recorded
        )

    def not_recorded(self) -> str | None:
        """Why steps are not recorded, found by reading a token; None where they are."""
        if not self.abilities.causal:
            return f"it can't be guided: {self.abilities.causal.reason}"
        rows = self.new_rows()
        if not isinstance(rows, RaggedRows):
            return "its rows don't share a forward"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CompileWarning)  # it is what is returned
            rows.forward([Feed(rows.add(), [0])])
        return rows.not_recorded


class _SwitchedModel(Model):
    """What `Model.with_adapter` and `Model.with_vector` give."""

    def __init__(self, base: Model, switches: dict[str, _On]) -> None:
        shown = " ".join([base.name, *(on.shown for on in switches.values())])
        super().__init__(base.hf, base.tokenizer, processor=base.processor, name=shown, compile=False)
        self._base, self._switches, self._variants = base, switches, base._variants
        self.has_kernels, self._vectors = base.has_kernels, base._vectors

    @property
    def base(self) -> Model:
        return self._base

    def new_rows(self) -> Rows:
        return SwitchedRows(super().new_rows(), [on.switch for on in self._switches.values()])


def _names(switches: dict[str, _On]) -> list[list[str]]:
    return sorted([kind, repr(on.key)] for kind, on in switches.items())
