"""The cells of the table that are refused, by whom and why. Everything else that applies has to be right."""

from conformance.architectures import ARCHITECTURES

STATE = "transformers drafts on no model with a state that can't be rolled back"
RIGHT_PADDED = "transformers' own loops can't continue a prompt after its padding; pad it on the left"

# (case, kind of architecture or its name, integration) -> reason
REFUSED = {
    ("assisted decoding", "recurrent", "generate"): STATE,
    ("assisted decoding", "recurrent", "processor"): STATE,
    ("prompt lookup", "recurrent", "generate"): STATE,
    ("prompt lookup", "recurrent", "processor"): STATE,
    ("right-padded prompts", "attention", "processor"): RIGHT_PADDED,
    ("right-padded prompts", "recurrent", "processor"): RIGHT_PADDED,
    ("right-padded prompts", "recurrent", "generate"): RIGHT_PADDED,
    ("right-padded prompts", "bloom", "generate"): RIGHT_PADDED,
}


def is_refused(architecture: str, case: str, integration: str) -> bool:
    kind = ARCHITECTURES[architecture].kind
    return any((case, name, integration) in REFUSED for name in (architecture, kind))
