import pytest
from wire.bodies import REFUSED, SAID

from counterpoint.errors import UsageError
from counterpoint.wire import read_guidance, read_guidance_each


@pytest.mark.parametrize("fields, is_chat, said", SAID, ids=lambda value: str(value)[:60])
def test_what_fields_say(fields, is_chat, said):
    assert read_guidance(fields, is_chat=is_chat) == said


@pytest.mark.parametrize("fields, is_chat, param, words", REFUSED, ids=lambda value: str(value)[:60])
def test_mistakes_name_their_field(fields, is_chat, param, words):
    with pytest.raises(UsageError) as caught:
        read_guidance(fields, is_chat=is_chat)
    assert caught.value.param == param and words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, values", [("negative_prompt", ["a", "b", ""]), ("negative_prompt_ids", [[3], [4, 5], []])]
)
def test_each_of_several_prompts_is_told_what_it_would_be_alone(name, values):
    rest = {"guidance_scale": 3}
    alone = [read_guidance({name: value, **rest}) for value in values]
    assert read_guidance_each({name: values, **rest}, 3) == alone
    for given in (values[:1], values[0]):
        assert read_guidance_each({name: given, **rest}, 3) == alone[:1] * 3
    with pytest.raises(UsageError, match=f"{name} has 3 entries and there are 2 prompts; give one for each") as caught:
        read_guidance_each({name: values, **rest}, 2)
    assert caught.value.param == name


def test_a_negative_is_ids_where_it_is_a_list_of_them():
    want = read_guidance({"negative_prompt_ids": [3, 4]}).branches
    assert read_guidance({"negative_prompt": [3, 4]}).branches == want
    assert read_guidance_each({"negative_prompt": [[3, 4], [5]]}, 2)[0].branches == want
