"""From the fields of a request, as they stand in JSON, to a guide, branches and a conversation: the same over HTTP, on our
server and on vLLM's, in files and on the command line. Nothing here knows HTTP, a schema of one server, or a model's weights.
"""

from counterpoint.wire.branches import BRANCH_FIELDS, CONTEXT_FIELDS, READER_FIELDS, branch_from_wire
from counterpoint.wire.forms import FORM_FIELDS, Calls, read_calls, read_form, tool_names
from counterpoint.wire.guidance import (
    GUIDANCE_FIELDS,
    LISTED,
    Guidance,
    guidance_fields,
    read_guidance,
    read_guidance_each,
)
from counterpoint.wire.messages import messages_from_wire
from counterpoint.wire.neutral import FOREIGN, OWN, UNTOUCHING, asked, is_neutral

__all__ = [
    "BRANCH_FIELDS", "CONTEXT_FIELDS", "Calls", "FOREIGN", "FORM_FIELDS", "GUIDANCE_FIELDS", "Guidance", "LISTED", "OWN", "READER_FIELDS", "UNTOUCHING", "asked",
    "branch_from_wire", "guidance_fields", "is_neutral", "messages_from_wire",
    "read_calls", "read_form", "read_guidance", "read_guidance_each", "tool_names",
]  # fmt: skip
