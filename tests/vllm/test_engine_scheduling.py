"""The same tokens under any schedule: random load in small engines, compiled, bfloat16; and a stall on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from engines import idle, scheduler_of, started
from stateless import Draw, Job, Stateless, differences, replay
from tiny_models import save, tokenizer
from vllm import SamplingParams
from vllm.platforms import current_platform

from counterpoint.guide import Guide
from counterpoint.vllm import extra_args

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # the second runner's kernels on a CPU, which takes its time
STRESS = Path(__file__).resolve().parents[2] / "scripts" / "stress_vllm.py"
RANKS = current_platform.device_count() if current_platform.is_cuda() else os.cpu_count() or 1
PROMPT, NEGATIVE = tokenizer()("Once upon a time")["input_ids"], tokenizer()("Never, said the fox")["input_ids"]
PARAMS = SamplingParams(temperature=0.0, max_tokens=24, extra_args=extra_args(Guide(scale=3.0), NEGATIVE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llama"), "llama")


# Small caches with preemption: gpt2 without, llama with prefix caching; qwen3 with few tokens a step.
@pytest.mark.parametrize("number", [4, 3, 6])
def test_random_load_is_the_loop(number):
    requests = 20 if INTERPRETED else 60
    command = [sys.executable, str(STRESS), "--seed", "0", "--configuration", str(number), "--requests", str(requests)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    row = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"configuration"')))
    assert done.returncode == 0, row
    assert row["equal"] + row["tie"] + row["aborted"] + row["refused"] == requests
    assert row["tie"] <= 1
    assert row["counts"]["held_steps"]


def test_compiled_is_the_loop(folder):
    with started(folder, enforce_eager=False) as llm:
        (output,) = llm.generate([{"prompt_token_ids": PROMPT}], PARAMS, use_tqdm=False)
    ids = list(output.outputs[0].token_ids)
    assert len(ids) == 24
    assert differences(Stateless(folder).guided(Job(PROMPT, [NEGATIVE], [-2.0]), ids[:-1]), ids) == []


def test_bfloat16_keeps_the_laws_that_need_no_oracle(folder):
    def ids(llm, prompt, args=None):
        params = SamplingParams(temperature=0.0, max_tokens=24, extra_args=args)
        return llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs[0].token_ids

    with started(folder, dtype="bfloat16") as llm:
        for scale in (-1.0, 3.0, 20.0):
            assert ids(llm, PROMPT, extra_args(Guide(scale=scale), PROMPT)) == ids(llm, PROMPT)
        assert ids(llm, PROMPT, extra_args(Guide(scale=0.0), NEGATIVE)) == ids(llm, NEGATIVE)


@pytest.mark.skipif(RANKS < 2, reason="two ranks need two cores, or two GPUs")
def test_tensor_parallel_ranks_agree_with_the_loop(folder, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    args = extra_args(Guide(scale=2.0), NEGATIVE)
    draws = [Draw(), Draw(1.0, seed=7)]
    params = [
        SamplingParams(temperature=draw.temperature, seed=draw.seed, max_tokens=24, extra_args=args) for draw in draws
    ]
    with started(folder, tensor_parallel_size=2, max_num_batched_tokens=16, max_num_seqs=3) as llm:
        outputs = llm.generate([{"prompt_token_ids": PROMPT}] * 2, params, use_tqdm=False)
        assert scheduler_of(llm).metrics.counts.held_steps
    model = Stateless(folder)
    for output, draw in zip(outputs, draws, strict=True):
        ids = output.outputs[0].token_ids
        assert replay(model.guided(Job(PROMPT, [NEGATIVE], [-1.0]), ids[:-1]), ids, draw, len(PROMPT)) == []


def test_a_stall_is_reported_and_fails_the_request_alone(folder, caplog_vllm):
    """A branch is taken out of the queue, as no event of vLLM does."""
    ours = {"counterpoint": {"stall_s": 0.2, "stall_steps": 20}}
    with started(folder, additional_config=ours) as llm:
        engine, scheduler = llm.llm_engine, scheduler_of(llm)
        engine.add_request("lost", {"prompt_token_ids": PROMPT}, PARAMS)
        engine.add_request("other", {"prompt_token_ids": PROMPT}, PARAMS)
        group = next(iter(scheduler.groups))
        scheduler.waiting.remove(scheduler.requests[group.members[1]])
        outputs = {}
        for _ in range(100_000):
            outputs |= {output.request_id: output.outputs[0] for output in engine.step() if output.finished}
            if not scheduler.requests:
                break
        assert outputs["lost"].finish_reason == "error"
        assert "did not move" in outputs["lost"].stop_reason
        assert list(outputs["lost"].token_ids) == []
        assert len(outputs["other"].token_ids) == 24
        assert scheduler.metrics.counts.stalls == 1
        assert idle(llm)
    state = next(record.getMessage() for record in caplog_vllm if "does not move" in record.getMessage())
    assert "'status': 'WAITING'" in state
    assert "'free_blocks'" in state


@pytest.fixture
def caplog_vllm():
    """vLLM's loggers don't propagate; its records, nevertheless."""
    import logging

    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("vllm").addHandler(handler)
    yield records
    logging.getLogger("vllm").removeHandler(handler)
