"""Requests and what they say about guidance: one table, put to the wire itself, to our server and to vLLM's middleware.

Contexts are in words that every surface can do.
"""

from counterpoint.contexts import DEFAULT_SYSTEM, NO_SYSTEM
from counterpoint.guide import Branch, Guide
from counterpoint.wire import Guidance

OTHER = [{"role": "system", "content": "Be rude."}, {"role": "user", "content": "Hi"}]

#: fields, whether they belong to a chat, what they say
SAID = [
    ({}, False, Guidance()),
    ({"negative_prompt": None, "guidance_scale": None, "guidance": None}, False, Guidance()),
    # neutral values
    ({"negative_prompt": "", "negative_prompt_ids": [], "guidance": {}}, False, Guidance()),
    ({"guidance_scale": 1, "negative_prompt": "no"}, False, Guidance()),
    ({"guidance_scale": 1.0, "negative_prompt": "no", "guidance": {"gate": 0.5}}, False, Guidance()),
    ({"cfg_scale": 1}, False, Guidance()),
    ({"guidance": {"scale": 1}, "negative_prompt": "no"}, False, Guidance()),
    ({"guidance": {"space": "log", "plausibility": 0, "gate": 0.0, "start": 0, "stop": None}}, False, Guidance()),
    ({"guidance": {"branches": []}}, False, Guidance()),
    ({"guidance": {"branches": [{"prompt": "b", "weight": 0}]}}, False, Guidance()),
    ({"guidance": ""}, False, Guidance()),
    ({"negative_messages": [], "negative_prompt": ""}, True, Guidance()),
    # a negative
    ({"negative_prompt": "no"}, False, Guidance(Guide(), (Branch("no"),), ("negative_prompt",))),
    (
        {"negative_prompt": "no", "guidance_scale": 3},
        False,
        Guidance(Guide(scale=3), (Branch("no"),), ("negative_prompt",)),
    ),
    (
        {"negative_prompt": "no", "guidance_scale": 2, "cfg_scale": 2.0, "guidance": {"scale": 2}},
        False,
        Guidance(Guide(scale=2), (Branch("no"),), ("negative_prompt",)),
    ),
    (
        {"negative_prompt_ids": [3, 4], "guidance": {"space": "prob", "scale": 0}},
        False,
        Guidance(Guide(scale=0, space="prob"), (Branch((3, 4)),), ("negative_prompt_ids",)),
    ),
    ({"negative_prompt": "Be rude."}, True, Guidance(Guide(), (Branch("Be rude."),), ("negative_prompt",))),
    ({"negative_messages": OTHER}, True, Guidance(Guide(), (Branch(OTHER),), ("negative_messages",))),
    # the last token of the prompt
    ({"guidance_scale": 2}, False, Guidance(Guide(scale=2))),
    ({"guidance": {"space": "prob"}}, False, Guidance(Guide(space="prob"))),
    ({"guidance": "space=prob,scale=2"}, False, Guidance(Guide(scale=2, space="prob"))),
    ({"guidance": '{"space": "prob"}'}, False, Guidance(Guide(space="prob"))),
    # plausibility alone
    ({"guidance_scale": 1, "guidance": {"plausibility": 0.1}}, False, Guidance(Guide(scale=1, plausibility=0.1))),
    # branches
    (
        {"guidance": {"branches": [{"prompt": "b", "weight": 0.5}, {"prompt_ids": [5], "prompt": None}]}},
        False,
        Guidance(Guide(), (Branch("b", 0.5), Branch((5,))), ("guidance.branches[0]", "guidance.branches[1]")),
    ),
    (
        {"negative_prompt": "no", "guidance_scale": 1, "guidance": {"branches": [{"prompt": "b", "weight": -0.5}]}},
        False,
        Guidance(Guide(), (Branch("b", -0.5),), ("guidance.branches[0]",)),
    ),
    (
        {"guidance": {"branches": [{"messages": OTHER}, {"prompt": "Be rude."}]}},
        True,
        Guidance(Guide(), (Branch(OTHER), Branch("Be rude.")), ("guidance.branches[0]", "guidance.branches[1]")),
    ),
    (
        {"guidance": {"branches": [{"system": None}, {"default_system": True}]}},
        True,
        Guidance(
            Guide(), (Branch(NO_SYSTEM), Branch(DEFAULT_SYSTEM)), ("guidance.branches[0]", "guidance.branches[1]")
        ),
    ),
]

#: fields, whether they belong to a chat, the field to blame, words of the message
REFUSED = [
    ({"guidance_scale": "x"}, False, "guidance_scale", "guidance_scale is 'x'"),
    ({"guidance_scale": True}, False, "guidance_scale", "use a number"),
    ({"guidance_scale": 2, "cfg_scale": 3}, False, "guidance_scale", "keep one"),
    ({"guidance_scale": 2, "guidance": {"scale": 3}}, False, "guidance_scale", "keep one"),
    ({"cfg_scale": 1, "guidance_scale": 2}, False, "guidance_scale", "keep one"),
    ({"negative_prompt": 3}, False, "negative_prompt", "negative_prompt is 3"),
    ({"negative_prompt": "a", "negative_prompt_ids": [3]}, False, "negative_prompt", "both given"),
    ({"negative_prompt": [3, "a"]}, False, "negative_prompt", "use token ids"),
    ({"negative_prompt_ids": [-1]}, False, "negative_prompt_ids", "0 or more"),
    ({"negative_messages": OTHER}, False, "negative_messages", "for conversations"),
    ({"negative_messages": [{"content": "a"}]}, True, "negative_messages[0].role", "no role"),
    ({"guidance": 3}, False, "guidance", "use an object"),
    ({"guidance": {"scle": 2, "spce": 1}}, False, "guidance.scle", "'scle', 'spce'"),
    ({"guidance": {"space": "both"}}, False, "guidance.space", "'both'"),
    ({"guidance": {"plausibility": 3}}, False, "guidance.plausibility", "from 0 to 1"),
    ({"guidance": {"start": -1}}, False, "guidance.start", "0 or more"),
    ({"guidance": {"branches": {"prompt": "a"}}}, False, "guidance.branches", "use a list"),
    ({"guidance": {"branches": ["a"]}}, False, "guidance.branches[0]", "use an object"),
    ({"guidance": {"branches": [{}]}}, False, "guidance.branches[0]", "no context"),
    ({"guidance": {"branches": [{"prompt": "a"}, {"promt": "a"}]}}, False, "guidance.branches[1].promt", "'promt'"),
    ({"guidance": {"branches": [{"prompt": ""}]}}, False, "guidance.branches[0].prompt", "not empty"),
    ({"guidance": {"branches": [{"prompt": "a", "weight": "x"}]}}, False, "guidance.branches[0].weight", "use a number"),
    ({"guidance": {"branches": [{"system": "a"}]}}, False, "guidance.branches[0]", "for conversations"),
    ({"guidance_scale": 2, "guidance": {"branches": [{"prompt": "a", "weight": 1}]}}, False, "guidance.branches", "weight of its own"),
]  # fmt: skip
