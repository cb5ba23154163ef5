"""Files that can't be read: one line each, before anything is loaded."""

import subprocess
import sys

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from models.gguf.written import ARCHITECTURES, model_and_file, write

import counterpoint as cp
from counterpoint.errors import ModelError, UnsupportedError
from counterpoint.models.gguf import find

LLAMA = ARCHITECTURES["llama"]


def refused(name, *, match):
    with pytest.raises(ModelError, match=match) as caught:
        cp.load(name)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return model_and_file(LLAMA, tmp_path_factory.mktemp("gguf"), Kind.Q8_0)[1].read_bytes()


@pytest.mark.parametrize("left", [0.999, 0.9, 0.5, 0.1, 0.01, 0.001])
def test_cut_off(left, whole, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(len(whole) * left)])
    refused(path, match="is cut off: get it again")


def test_damaged_headers_are_refused_or_read(whole, tmp_path):
    path, source = tmp_path / "damaged.gguf", np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for at in source.integers(4, 4000, 3):
            data[at] = source.integers(256)
        path.write_bytes(data)
        try:
            cp.load(path)
        except ModelError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("data", [b"", b"GG", b"PK\x03\x04" * 40])
def test_no_gguf(data, tmp_path):
    path = tmp_path / "zip.gguf"
    path.write_bytes(data)
    refused(path, match="is no GGUF file: it begins with")


def test_unknown_architectures(tmp_path):
    tensors = {"token_embd.weight": (np.zeros((280, 64), np.float32), Kind.F32)}
    refused(write(tmp_path / "a.gguf", "plamo", {"block_count": 1}, tensors), match="architecture 'plamo'")
    refused(write(tmp_path / "b.gguf", "clip", {"block_count": 1}, tensors), match="architecture 'clip'")
    t5 = {"block_count": 1, "embedding_length": 64, "attention.head_count": 4, "attention.key_length": 16}
    refused(write(tmp_path / "c.gguf", "t5", t5 | {"feed_forward_length": 8}, tensors), match="not a causal|can't read")


def test_unknown_quantizations(whole, tmp_path):
    path = tmp_path / "a.gguf"
    for kind, match in [(Kind.Q8_1, "type Q8_1"), (250, "type 250, which gguf")]:
        write(path, "llama", {}, {"blk.0.ffn_up.weight": (np.zeros((2, 34), np.uint8), Kind.Q8_0)})
        data = path.read_bytes()
        at = data.index(b"ffn_up.weight") + len(b"ffn_up.weight") + 4 + 2 * 8
        path.write_bytes(data[:at] + int(kind).to_bytes(4, "little") + data[at + 4 :] + bytes(4096))
        refused(path, match=match)


def test_no_tokenizer(tmp_path):
    refused(model_and_file(LLAMA, tmp_path, tokenizer=False)[1], match="has no tokenizer")


def test_parts_that_are_missing(tmp_path):
    path = model_and_file(LLAMA, tmp_path, num_parts=3)[1]
    second = path.with_name("model-00002-of-00003.gguf")
    renamed = second.rename(tmp_path / "other.gguf")
    refused(path, match="part 2 of 3 is missing: put model-00002-of-00003.gguf beside it")
    refused(renamed, match="one of 3 parts")


def test_what_has_no_place_is_refused(tmp_path):
    """Experts in a Llama, a bias that the configuration does not know, a scale: transformers would leave them out."""
    for more, match in [
        ({"llama__expert_count": 8}, "llama.expert_count = 8"),
        ({"llama__attention__clamp_kqv": 8.0}, "llama.attention.clamp_kqv = 8"),
        ({"llama__rope__scaling__type": "other", "llama__rope__scaling__factor": 2.0}, "llama.rope.scaling"),
    ]:
        refused(model_and_file(LLAMA, tmp_path, **more)[1], match=match)
    cp.load(model_and_file(LLAMA, tmp_path, llama__expert_count=0)[1])
    tensors = {"token_embd.weight": (np.zeros((280, 64), np.float32), Kind.F32)}
    fields = LLAMA.fields(LLAMA.build().config)
    refused(write(tmp_path / "few.gguf", "llama", fields, tensors), match="lacks 1[0-9] of the model's weights")
    tensors["blk.0.attn_q.bias"] = (np.zeros(64, np.float32), Kind.F32)
    refused(write(tmp_path / "bias.gguf", "llama", fields, tensors), match="a tensor blk.0.attn_q.bias")


def test_names(tmp_path, monkeypatch):
    refused("./no/such/file.gguf", match="there is no file './no/such/file.gguf'; give the path of a GGUF file")
    refused("file.gguf", match="owner/name/file.gguf")
    for name in ("a.gguf", "b.gguf"):
        write(tmp_path / name, "llama", {}, {"x": (np.zeros(1, np.float32), Kind.F32)})
    refused(tmp_path, match="holds 2 GGUF models; give one")
    refused("owner/name/model.gguf", match="the hub does not give it")
    asked = []

    def download(repository, file, **_):
        asked.append((repository, file))
        return str(tmp_path / "a.gguf")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert find.find("owner/name/in/m-00001-of-00002.gguf") == tmp_path / "a.gguf"
    assert asked == [("owner/name", "in/m-00001-of-00002.gguf"), ("owner/name", "in/m-00002-of-00002.gguf")]


def test_without_the_package(monkeypatch, whole, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(whole)
    for name in list(sys.modules):
        if name.split(".")[0] == "gguf" or name.startswith("counterpoint.models.gguf.") and name != find.__name__:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("counterpoint.models.gguf.load", raising=False)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UnsupportedError, match=r"pip install '.*\[gguf\]'"):
        cp.load(path)


def test_on_the_command_line(tmp_path):
    command = [sys.executable, "-m", "counterpoint", "info", str(tmp_path / "none.gguf")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "there is no file" in done.stderr
