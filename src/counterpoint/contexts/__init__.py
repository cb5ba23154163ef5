"""A request made into its branches' token ids: what the other branch is. No model is run here.

Builders for the usual pairs give a `Built`, which `counterpoint.generate` takes where it takes a prompt.
"""

from counterpoint.contexts.built import Built
from counterpoint.contexts.chat import DEFAULT_SYSTEM, NO_SYSTEM, System, chat
from counterpoint.contexts.kinds import Empty, LastTokens, Rendered, Suffix
from counterpoint.contexts.reading import ReadBranch, read_branches, read_prompt, read_request

__all__ = [
    "DEFAULT_SYSTEM", "NO_SYSTEM", "Built", "Empty", "LastTokens", "ReadBranch", "Rendered", "Suffix", "System",
    "chat", "read_branches", "read_prompt", "read_request",
]  # fmt: skip
