"""The cells of the table that are refused, by whom and why. Everything else that applies has to be right."""

from conformance.architectures import ARCHITECTURES
from counterpoint.models.trials import Abilities, LoopCall, abilities_of

STATE = "transformers drafts on no model with a state that can't be rolled back"
RIGHT_PADDED = "transformers' own loops can't continue a prompt after its padding; pad it on the left"
READS_PADDING = "the model reads padding as text in transformers' own loops; give prompts of one length"
NO_EMBEDDINGS = "transformers itself takes no embeddings for Bamba; give ids"
NO_REORDER = (
    "transformers can't reorder the state of beams on RWKV, and loses it on RecurrentGemma; pass use_cache=False"
)

# Cases whose prompts differ in length, by who takes transformers' own loop for them.
PADDED_FOR_BOTH = ("the prompt as embeddings",)
PADDED_FOR_PROCESSOR = (
    "beams, one negative",
    "beams, a negative a prompt",
    "beams, negatives expanded",
    "scores sum to 1",
    "no negative: the last prompt token",
    "left-padded prompts and negatives",
    "right-padded negatives",
    "padded negatives without a mask",
    "right-padded negatives without a mask",
    "one negative for two prompts",
    "seeded sampling",
    "several samples of a prompt",
    "negatives expanded for samples",
    "static cache",
    "a scale a row",
    "a guide a row",
    "rows that end early",
)

DRAFTED = ("assisted decoding", "prompt lookup")

# (case, kind of architecture or its name, integration) -> reason: what transformers itself says no to
REFUSED = {
    **{("right-padded prompts", kind, "processor"): RIGHT_PADDED for kind in ("attention", "recurrent")},
    **{("the prompt as embeddings", "bamba", integration): NO_EMBEDDINGS for integration in ("generate", "processor")},
    **{("beams, prompts of one length", name, "processor"): NO_REORDER for name in ("rwkv", "recurrent_gemma")},
}


def is_refused(architecture: str, case: str, integration: str) -> bool:
    """Whether this cell has to be refused."""
    kind = ARCHITECTURES[architecture].kind
    if any((case, name, integration) in REFUSED for name in (architecture, kind)):
        return True
    return (
        kind != "encoder" and _reason(abilities_of(ARCHITECTURES[architecture].model()), case, integration) is not None
    )


def _reason(found: Abilities, case: str, integration: str) -> str | None:
    """Why a model for which trials found this has to refuse."""
    if integration not in ("generate", "processor"):
        return None
    if case in DRAFTED and not (found.joint or found.manner.crops):
        return STATE
    padded = PADDED_FOR_BOTH + (PADDED_FOR_PROCESSOR if integration == "processor" else ())
    return READS_PADDING if case in padded and not found.own_loop(LoopCall(padded=True)) else None
