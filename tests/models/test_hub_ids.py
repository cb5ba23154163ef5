"""Hub ids where there is no network: told at once, and taken from the hub's cache where they are in it."""

import socket

import huggingface_hub
import pytest
from huggingface_hub import constants
from transformers import AutoConfig

import counterpoint as cp
from counterpoint.errors import ModelError
from counterpoint.models.hub import is_hub_reachable


@pytest.fixture
def online(monkeypatch):
    """As if the hub was not told to be offline, and no proxy stood before it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("name", ["gpt2-that-is-not-there", "nobody/nothing"])
def test_an_id_without_a_network_is_one_line_and_no_retry(online, monkeypatch, name):
    def refuse(*_, **__):
        raise OSError("no route")

    asked = []
    whole = AutoConfig.from_pretrained
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(
        AutoConfig, "from_pretrained", lambda *a, **k: asked.append(k["local_files_only"]) or whole(*a, **k)
    )
    with pytest.raises(ModelError, match="the hub can't be reached, and its cache does not have it") as caught:
        cp.load(name)
    assert asked == [True] and caught.value.param == "model" and "\n" not in str(caught.value)


def test_a_hub_that_answers_is_asked(online, monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert is_hub_reachable()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody listens, and nobody else can
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert not is_hub_reachable()
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    assert is_hub_reachable()  # only the hub's client can tell what lies behind a proxy


def test_a_gguf_file_of_the_hub_is_not_asked_for_again_and_again(online, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    asked = []
    whole = huggingface_hub.hf_hub_download
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *a, **k: asked.append(k["local_files_only"]) or whole(*a, **k)
    )
    with pytest.raises(ModelError, match="the hub does not give it: it can't be reached, and its cache") as caught:
        cp.load("nobody/nothing/file.gguf")
    assert asked == [True] and "\n" not in str(caught.value)
