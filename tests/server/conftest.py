import contextlib
import socket
import threading
from dataclasses import dataclass

import openai
import pytest
import torch
import uvicorn
from patience import PATIENCE_S, Gate, http, wait_for
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from counterpoint.engine import Engine
from counterpoint.models.model import Model
from counterpoint.server import service as service_room
from counterpoint.server.app import create_app
from counterpoint.server.limits import Limits
from counterpoint.server.service import Service

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(template):
    """Bytes as tokens, and ChatML's marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", "<|end|>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=template)


def make_model(*, template=CHATML, context_len=512, name="tiny"):
    """A random Llama with decided opinions."""
    tokenizer = make_tokenizer(template)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context_len, initializer_range=0.4, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    return Model(LlamaForCausalLM(config), tokenizer, name=name)


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    base: str
    service: Service

    def post(self, path="/v1/completions", **body):
        return http.post(self.base + path, json=body)

    def complete(self, prompt="Hello there", **body):
        answer = self.post(prompt=prompt, **{"max_tokens": 8, "temperature": 0, "ignore_eos": True} | body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait_idle(self):
        worker = self.service.worker
        wait_for(lambda: not (worker.num_rows or worker.num_jobs), lambda: "rows are still in use")


@contextlib.contextmanager
def run_app(app):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=5,
            timeout_keep_alive=PATIENCE_S,  # no connection closes while its client has nothing to ask
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started or not thread.is_alive())
        assert server.started
        try:
            yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.service)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)


@contextlib.contextmanager
def serving(model, *, limits=None, **options):
    with run_app(create_app(model, limits=limits or Limits(), **options)) as running:
        yield running


def client_of(running, key="none"):
    """The official client, which does not try again by itself."""
    return openai.OpenAI(base_url=running.base + "/v1", api_key=key, max_retries=0, timeout=PATIENCE_S)


@pytest.fixture
def gate(monkeypatch):
    """Servers that a test starts take the steps that the gate lets through; at the test's end, all."""
    gate = Gate()

    class HeldEngine(Engine):
        def step(self):
            gate.pass_through()
            return super().step()

    monkeypatch.setattr(service_room, "Engine", HeldEngine)
    yield gate
    gate.open()


@pytest.fixture(scope="session")
def model():
    return make_model()


@pytest.fixture(scope="session")
def server(model):
    with serving(model) as running:
        yield running


@pytest.fixture
def client(server):
    with client_of(server) as made:
        yield made
