"""The cells of the table that are refused, by whom and why. Everything else that applies has to be right."""

from conformance.architectures import ARCHITECTURES

STATE = "transformers drafts on no model with a state that can't be rolled back"
RIGHT_PADDED = "transformers' own loops can't continue a prompt after its padding; pad it on the left"
READS_PADDING = "RWKV and RecurrentGemma read padding as text in transformers' own loops; give prompts of one length"
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

# (case, kind of architecture or its name, integration) -> reason
REFUSED = {
    **{
        (case, "recurrent", integration): STATE
        for case in ("assisted decoding", "prompt lookup")
        for integration in ("generate", "processor")
    },
    **{("right-padded prompts", kind, "processor"): RIGHT_PADDED for kind in ("attention", "recurrent")},
    **{
        (case, name, integration): READS_PADDING
        for name in ("rwkv", "recurrent_gemma")
        for integration, cases in (
            ("generate", PADDED_FOR_BOTH),
            ("processor", PADDED_FOR_BOTH + PADDED_FOR_PROCESSOR),
        )
        for case in cases
    },
    **{("the prompt as embeddings", "bamba", integration): NO_EMBEDDINGS for integration in ("generate", "processor")},
    **{("beams, prompts of one length", name, "processor"): NO_REORDER for name in ("rwkv", "recurrent_gemma")},
}


def is_refused(architecture: str, case: str, integration: str) -> bool:
    """Whether this cell has to be refused."""
    kind = ARCHITECTURES[architecture].kind
    return any((case, name, integration) in REFUSED for name in (architecture, kind))
