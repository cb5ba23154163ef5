"""A request made into its branches' token ids: what the other branch is. No model is run here.

Builders for the usual pairs give a `BranchedPrompt`, which `counterpoint.generate` takes where it takes a prompt.
"""

from counterpoint.contexts import pictures
from counterpoint.contexts.branched_prompt import BranchedPrompt
from counterpoint.contexts.chat import DEFAULT_SYSTEM, NO_SYSTEM, System, chat, chat_prompt
from counterpoint.contexts.conversation import Conversation, Exchange
from counterpoint.contexts.documents import documents
from counterpoint.contexts.inputs import Inputs
from counterpoint.contexts.instruction import instruction
from counterpoint.contexts.kinds import Empty, LastTokens, OtherModel, Rendered, Suffix, Swapped
from counterpoint.contexts.other_model import against_adapter, contrastive, proxy_tuning
from counterpoint.contexts.picture_chat import picture_chat, picture_prompt
from counterpoint.contexts.reading import ReadBranch, read_branches, read_prompt, read_request
from counterpoint.contexts.show import Shown, show, show_read

__all__ = [
    "DEFAULT_SYSTEM", "NO_SYSTEM", "BranchedPrompt", "Conversation", "Empty", "Exchange", "Inputs", "LastTokens", "OtherModel", "ReadBranch", "Rendered", "Shown",
    "Suffix", "Swapped", "System", "against_adapter", "chat", "chat_prompt", "contrastive", "documents",
    "instruction", "picture_chat", "picture_prompt", "pictures", "proxy_tuning", "read_branches", "read_prompt", "read_request", "show", "show_read",
]  # fmt: skip
