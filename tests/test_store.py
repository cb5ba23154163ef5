import pytest

from counterpoint.errors import UsageError
from counterpoint.store import Store, key_of


def test_what_was_put_is_there_after_another_opens_it(tmp_path):
    path = tmp_path / "folder" / "answers.sqlite"
    first = Store(path)
    first.put({"a": [1.5, True], "b": "text"})
    second = Store(path)  # the first was never closed, as after a kill
    assert second.get(["a", "b", "a", "c"]) == {"a": [1.5, True], "b": "text"}
    second.get(["a"])
    first.get(["a", "b"])
    assert (first.num_computed, first.num_reused) == (2, 0)  # its own answers are not reused ones
    assert (second.num_computed, second.num_reused) == (0, 2)


def test_minus_infinity_comes_back():
    store = Store(None)
    store.put({"a": [float("-inf"), False]})
    assert store.get(["a"])["a"][0] == float("-inf")


def test_keys_depend_on_everything():
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1})
    assert len({key_of("a"), key_of("b"), key_of("a", 1), key_of("a", "1")}) == 4


def test_a_file_that_is_no_store(tmp_path):
    path = tmp_path / "answers.sqlite"
    path.write_text("this is text, and long enough to be taken for a header of a data base file " * 4)
    with pytest.raises(UsageError, match="give another folder"):
        Store(path)
