"""One record for each model of what it can do. The engine, the integrations, `info` and the refusals all ask it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.contexts.inputs import Inputs
from counterpoint.errors import UnsupportedError
from counterpoint.models.attention import FewQueries
from counterpoint.models.devices import input_device
from counterpoint.models.fixed import FixedSteps
from counterpoint.models.inputs import placed, uncached
from counterpoint.models.linears import Linears
from counterpoint.models.padded import PaddedHistories
from counterpoint.models.ragged import RaggedRows
from counterpoint.models.recorded.steps import RecordedSteps
from counterpoint.models.rows import Feed, Rows
from counterpoint.models.separate import Manner, SeparateRows
from counterpoint.models.traces import OwnState, Traces, slots_of
from counterpoint.models.trials.own_loop import LoopCall, writes_more
from counterpoint.models.trials.shrink import get
from counterpoint.models.trials.structure import ANEW, YES, Answer, Structure, first_line
from counterpoint.models.trials.texts import Texts
from counterpoint.models.trials.twin import twin_of
from counterpoint.models.trials.undisturbed import undisturbed

ATTENTION = ("sdpa", "eager")  # what takes a mask for each row
MOST_REMEMBERED = 8  # structures
NUM_AFTER = 3  # tokens of text that are read after a prompt with pictures in its trial
NO_TWIN = "no small model of its config can be built to try lengths on"

_ABILITIES: weakref.WeakKeyDictionary[PreTrainedModel, tuple[object, Abilities]] = weakref.WeakKeyDictionary()
_STRUCTURES: dict[tuple[type, str], Structure | None] = {}


def abilities_of(model: PreTrainedModel) -> Abilities:
    """What a model can do; found out once, and forgotten with the model."""
    kind = (model.config.get_text_config()._attn_implementation, model.dtype, model.device)
    known = _ABILITIES.get(model)
    if known is None or known[0] != kind:
        known = _ABILITIES[model] = kind, Abilities(model)
    return known[1]


class Abilities:
    """The trials of one model: on its twin what depends on its code, on itself that its own weights and kernels agree.

    Each is made when its answer is first asked for.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._ref = weakref.ref(model)
        self._own: dict[object, Answer] = {}

    @property
    def _model(self) -> PreTrainedModel:
        return self._ref()

    @functools.cached_property
    def _structure(self) -> Structure | None:
        return _structure_of(self._model)

    @functools.cached_property
    def _texts(self) -> Texts:
        texts = Texts(self._model, 8, is_twin=False)
        if self._structure is not None:
            texts.set_traces(self._structure.traces)
        return texts

    @property
    def readable_len(self) -> int | None:
        """Tokens past which the model's own forward fails; None where none is known."""
        return None if self._structure is None else self._structure.readable_len

    @property
    def context_len(self) -> int | None:
        """Most tokens of a text: what the config calls its positions, or `readable_len`, whichever is less."""
        named = get(self._model.config.get_text_config(), "max_position_embeddings")
        limits = [limit for limit in (named, self.readable_len) if isinstance(limit, int) and limit > 0]
        return min(limits, default=None)

    @functools.cached_property
    def causal(self) -> Answer:
        """Whether it can be continued token by token at all: plain ids suffice, and no prediction sees later tokens."""
        more = writes_more(self._model)
        if more is not None:
            return Answer(False, more)
        return self._try_own("causal", self._causal) if self._structure is None else self._structure.causal

    def _causal(self) -> Answer:
        early, late = self._texts.along(self._texts.long[:5], [3])[0], self._texts.after(self._texts.long[:3])
        return YES if self._texts.alike(early, late) else Answer(False, "it is not causal")

    @functools.cached_property
    def kernels(self) -> Answer:
        """Whether it attends by our kernels where rows are read together."""
        if not FewQueries(self._model, compiled=True).has_kernel:
            return Answer(False, "there are none for this device, dtype or class")
        return self._joint(True)

    @functools.cached_property
    def joint(self) -> Answer:
        """Whether rows of any lengths go through one forward, each exact."""
        return self.kernels if self.kernels else self._joint(False)

    def reads_jointly(self, limit: int | None) -> bool:
        """Whether rows of up to `limit` tokens go through one forward. Asks the twin alone where that is answer enough."""
        return self._structure_joint().holds(limit) and self.joint.holds(limit)

    def _structure_joint(self) -> Answer:
        """What the twin shows of rows in one forward, by whichever attention is better."""
        if self._structure is None:
            return Answer(False, NO_TWIN)
        has_kernel = FewQueries(self._model, compiled=True).has_kernel
        found = self._structure.joint(True) if has_kernel else Answer(False)
        return found or self._structure.joint(False)

    @functools.cached_property
    def manner(self) -> Manner:
        """How its rows are read one by one."""
        manner = ANEW if self._structure is None else self._structure.manner
        if manner == ANEW:
            return manner
        found = self._try_own("separate", lambda: self._continues_as_own(SeparateRows(self._model, manner=manner)))
        return manner if found else ANEW

    @functools.cached_property
    def padded(self) -> Answer:
        """Whether rows padded on the left share a forward and the model's own cache, each exact."""
        if self._structure is None:
            return Answer(False, NO_TWIN)
        found = self._structure.padded
        return found if not found else self._try_own("padded", self._padded, found)

    def own_loop(self, call: LoopCall) -> Answer:
        """Whether transformers' own loop is right on calls of this kind."""
        return Answer(False, NO_TWIN) if self._structure is None else self._structure.own_loop(call)

    def own_state(self) -> OwnState:
        """A place for the state that one reader's texts leave on the modules, apart from that of other readers."""
        found = None if self._model.config.is_encoder_decoder else self._structure
        if found is None:
            return OwnState(self._model, slots_of(self._model), Traces())
        return OwnState(self._model, found.slots, found.traces)

    def new_rows(
        self,
        *,
        limit: int | None = None,
        kernels: bool = True,
        keeps_layout: bool = False,
        steps: FixedSteps | None = None,
        recorded: RecordedSteps | None = None,
    ) -> Rows:
        """Empty rows: joint ones where trials show that they are exact up to `limit` tokens, else separate ones.

        Args:
            limit: most tokens of a row; None is no bound.
            kernels: use the kernels that the machine's C compiler makes.
            keeps_layout: leave weights as they lie in memory.
            steps, recorded: for joint rows; None is none of these.

        Raises:
            UnsupportedError: the model can't be continued token by token.
        """
        model = self._model
        input_device(model)  # raises where there are no weights
        self._check_causal()
        linears = Linears(model, compiled=kernels, keeps_layout=keeps_layout)
        if self.reads_jointly(limit):
            attention = FewQueries(model, compiled=kernels and bool(self.kernels))
            return RaggedRows(model, steps, linears, attention, recorded, self.own_state)
        return SeparateRows(model, linears, manner=self.manner, new_state=self.own_state)

    def reads(self, inputs: Inputs, *, limit: int | None = None) -> Answer:
        """Whether rows of `new_rows` can begin with such a prompt and go on with text, as the model reads both without a
        cache. Tried with the first prompt of each kind, which costs two forwards of it.

        Raises:
            PromptError: the model can't read this prompt at all.
        """
        kind = ("inputs", *sorted(inputs.values), self.reads_jointly(limit))
        if kind in self._own:
            return self._own[kind]
        plain = [token_id for token_id in self._texts.long if token_id not in inputs.ids]
        new = (plain or list(self._texts.long))[:NUM_AFTER]
        with undisturbed(self._model):
            want = uncached(self._model, placed(self._model, inputs.values), new, self.own_state())
        return self._try_own(kind, lambda: self._goes_on(inputs, new, want, limit))

    def check_reads(self, inputs: Inputs, *, limit: int | None = None) -> None:
        """Raise `UnsupportedError` where `reads` says no."""
        self._check_causal()
        found = self.reads(inputs, limit=limit)
        if not found:
            raise UnsupportedError(
                f"{type(self._model).__name__} can't go on after pictures or sounds in the engine: {found.reason}; use "
                "model.hf.generate(..., custom_generate=counterpoint.transformers.generate, negative_inputs=...)"
            )

    def _check_causal(self) -> None:
        if not self.causal:
            raise UnsupportedError(
                f"{type(self._model).__name__} can't be guided: {self.causal.reason}; use a causal language model "
                "(for classes with config.is_decoder, set it to True)"
            )

    def _goes_on(self, inputs: Inputs, new: list[int], want: Tensor, limit: int | None) -> Answer:
        rows = self.new_rows(limit=limit, kernels=False, keeps_layout=True)
        row, other = rows.add(), rows.add()
        first = rows.forward([Feed(other, self._texts.long[:3], columns=()), Feed(row, inputs.ids, inputs=inputs)])
        rest = [rows.forward([Feed(row, [token_id]), Feed(other, [token_id])])[0] for token_id in new]
        return self._compared(torch.stack([first[0], *rest]), list(want))

    def facts(self, limit: int | None = None) -> dict[str, str]:
        """What was found, for people to read.

        Args:
            limit: most tokens of a row; None is no bound.
        """
        if not self.causal:
            return {"rows": f"none: {self.causal.reason}"}
        is_joint = self.reads_jointly(limit)
        facts = {"rows": "joint, one forward for all branches" if is_joint else _shown_manner(self.manner)}
        if not is_joint:
            facts["not_joint"] = self._structure_joint().reason or self.joint.reason
        return facts | {
            "attention_kernel": _shown(self.kernels),
            "drafts": "yes" if is_joint or self.manner.crops else "no: what it has read can't be cut back",
            "padded_rows": _shown(self.padded),
            "own_loop": _shown(self.own_loop(LoopCall())),
            "own_padded_loop": _shown(self.own_loop(LoopCall(padded=True))),
        }

    def _joint(self, kernels: bool) -> Answer:
        if self._model.config.get_text_config()._attn_implementation not in ATTENTION:
            return Answer(False, "its attention takes no mask for each row; load it with attn_implementation='sdpa'")
        if self._structure is None:
            return Answer(False, NO_TWIN)
        found = self._structure.joint(kernels)
        if not found:
            return found

        def own() -> Answer:
            linears = Linears(self._model, compiled=kernels, keeps_layout=True)
            attention = FewQueries(self._model, compiled=kernels)
            return self._same_as_own(RaggedRows(self._model, None, linears, attention))

        return self._try_own(("joint", kernels), own, found)

    def _same_as_own(self, rows: Rows) -> Answer:
        """Two beginnings of a text, read and continued by a token, against one forward of the model's own.

        The twin has shown that rows don't mix, and that no prediction depends on later tokens.
        """
        text = self._texts.long
        long, short = rows.add(), rows.add()
        rows.forward([Feed(long, text[:4], columns=()), Feed(short, text[:2], columns=())])
        got = rows.forward([Feed(long, text[4:5]), Feed(short, text[2:3])])
        return self._compared(got, self._texts.along(text[:5], [5, 3]))

    def _continues_as_own(self, rows: Rows) -> Answer:
        """One text, read and continued by a token: rows of their own know nothing of each other."""
        text, row = self._texts.long, rows.add()
        rows.forward([Feed(row, text[:4], columns=())])
        return self._compared(rows.forward([Feed(row, text[4:5])]), self._texts.along(text[:5], [5]))

    def _padded(self) -> Answer:
        text, read = self._texts.long, PaddedHistories(self._model)
        read.logits([text[:4], text[:2]])
        got = read.logits([text[:3], text[:5]])
        return self._compared(got, self._texts.along(text[:5], [3, 5]))

    def _compared(self, got: Tensor, want: list[Tensor]) -> Answer:
        alike = all(self._texts.alike(row, own) for row, own in zip(got, want, strict=True))
        return YES if alike else Answer(False, "with its own weights, logits differ from those without a cache")

    def _try_own(self, name: object, trial: Callable[[], Answer], found: Answer = YES) -> Answer:
        """Run a trial on the model itself. If it succeeds, return `found`, the answer of the twin; else the failure."""
        if name not in self._own:
            try:
                with undisturbed(self._model):
                    self._own[name] = trial()
            except Exception as error:  # any failure of the trial means that this model's forward is of another kind
                self._own[name] = Answer(False, first_line(error))
        return self._own[name] and found


def _structure_of(model: PreTrainedModel) -> Structure | None:
    key = (
        type(model),
        model.config.to_json_string(use_diff=False) + str(model.config.get_text_config()._attn_implementation),
    )
    if key not in _STRUCTURES:
        with undisturbed():
            twin = twin_of(model)
        while len(_STRUCTURES) >= MOST_REMEMBERED:
            del _STRUCTURES[next(iter(_STRUCTURES))]
        _STRUCTURES[key] = None if twin is None else Structure(twin)
    return _STRUCTURES[key]


def _shown(answer: Answer) -> str:
    return (
        "yes"
        if answer.ok and answer.upto is None
        else f"up to {answer.upto} tokens"
        if answer
        else f"no: {answer.reason}"
    )


def _shown_manner(manner: Manner) -> str:
    if manner.anew_from == 0:
        return "separate, each read anew at each step"
    ends = [f"read anew past {length} tokens" for length in manner.anew_at]
    if manner.anew_from is not None:
        ends.append(f"read anew at each step past {manner.anew_from} tokens")
    return ", ".join(["separate, one forward for each branch", *ends])
