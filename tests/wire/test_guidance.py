import pytest
from wire.bodies import REFUSED, SAID

from counterpoint.errors import UsageError
from counterpoint.wire import read_guidance


@pytest.mark.parametrize("fields, is_chat, said", SAID, ids=lambda value: str(value)[:60])
def test_what_fields_say(fields, is_chat, said):
    assert read_guidance(fields, is_chat=is_chat) == said


@pytest.mark.parametrize("fields, is_chat, param, words", REFUSED, ids=lambda value: str(value)[:60])
def test_mistakes_name_their_field(fields, is_chat, param, words):
    with pytest.raises(UsageError) as caught:
        read_guidance(fields, is_chat=is_chat)
    assert caught.value.param == param and words in str(caught.value) and "\n" not in str(caught.value)
