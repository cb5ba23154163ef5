"""Ratios by hand, the bytes of a step, tables, and the command in its shortest form."""

import json

import pytest
import torch
from click.testing import CliRunner
from conformance.architectures import ARCHITECTURES
from transformers import GPT2Config, GPT2LMHeadModel

import counterpoint as cp
from counterpoint.bench import measure
from counterpoint.bench.machine import read_bandwidth, step_bytes
from counterpoint.bench.measure import Line
from counterpoint.bench.paired import Paired, run_paired
from counterpoint.bench.table import as_json, as_markdown, as_svg
from counterpoint.bench.texts import rewritings
from counterpoint.bench.ways import Clock, Task, engine_way, transformers_way, untouched
from counterpoint.cli.bench import command


def test_a_ratio_is_the_median_of_the_rounds():
    paired = Paired({"a": (1.0, 8.0, 3.0), "b": (2.0, 2.0, 3.0)})
    assert paired.ratio("a", "b") == 1.0  # of 0.5, 4, 1
    assert paired.spread("a", "b") == (0.5, 4.0)
    assert paired.median("a") == 3.0
    assert paired.best("b") == 2.0


def test_ways_take_turns_and_the_first_round_is_left_out():
    called = []

    def way(name):
        return lambda: called.append(name) or float(len(called))

    paired = run_paired({"a": way("a"), "b": way("b")}, rounds=2)
    assert called == ["a", "b", "a", "b", "a", "b"]
    assert paired.seconds == {"a": (3.0, 5.0), "b": (4.0, 6.0)}
    with pytest.raises(ValueError, match="rounds is 0"):
        run_paired({}, rounds=0)


def test_a_step_reads_all_weights_but_tables_of_which_it_reads_a_row():
    hf = ARCHITECTURES["gpt2"].build()  # its head is a table of its own here
    table, positions = hf.transformer.wte.weight, hf.transformer.wpe.weight
    everything = sum(p.numel() for p in hf.parameters())
    assert step_bytes(cp.Model(hf)) == 4 * (everything - table.numel() - positions.numel())
    hf.lm_head.weight = hf.transformer.wte.weight  # a head that is the table is read whole
    tied = sum(p.numel() for p in hf.parameters())
    assert step_bytes(cp.Model(hf)) == 4 * (tied - positions.numel())


def test_the_bandwidth_is_that_of_a_memory():
    assert 0 < read_bandwidth(repeats=2) < 1e13


def test_ways_write_and_the_clock_sees_each_step():
    model = cp.Model(ARCHITECTURES["gpt2"].model())
    task, clock = Task((5, 6, 7), ((8, 9),), num_tokens=4), Clock()
    assert transformers_way(untouched(model.hf), task, guided=True)() > 0
    assert engine_way(model, [task, task], guided=True, clock=clock)() >= sum(clock.steps_s) > 0
    assert len(clock.steps_s) == len(clock.forward_s) == 4
    assert all(0 < forward < step for forward, step in zip(clock.forward_s, clock.steps_s))
    assert 0 < clock.first_s < clock.total_s


def test_a_forced_text_is_what_is_written():
    model = cp.Model(ARCHITECTURES["gpt2"].model())
    task = Task((5, 6, 7), ((8, 9),), num_tokens=4, text=(9, 9, 3, 4))
    assert measure._completion(model, task, draft_tokens=3).token_ids == task.text


def test_the_rival_is_the_same_model_in_a_memory_of_its_own():
    hf = ARCHITECTURES["gpt2"].model()
    rival, ids = untouched(hf), torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(rival(ids).logits, hf(ids).logits)
    assert rival.lm_head.weight.data_ptr() != hf.lm_head.weight.data_ptr()


def test_real_texts_repeat_their_passages():
    by_name = {one.name: one for one in rewritings()}
    assert len(by_name) == 5
    for one in by_name.values():
        prompt, text = one.pieces(num_tokens=96, vocab_size=50257)
        assert 250 < len(prompt) <= 460 and 64 <= len(text) <= 96
        again = sum(text[i : i + 3] in {prompt[j : j + 3] for j in range(len(prompt))} for i in range(len(text) - 2))
        assert (again < 20) == (one.name == "text that goes on")
    renamed = by_name["code with a renamed variable"]
    assert "cur_line" in renamed.passage and "cur_line" not in renamed.text


def test_drafts_on_real_texts_running_ahead_and_long_contexts_are_measured():
    model = cp.Model(GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=2000, n_positions=1024)))
    lines = measure.rewritten(model, draft_tokens=5, num_tokens=20, rounds=1, aim=0.35)
    assert [line.aim for line in lines[2::3]] == [0.35] * 4 + [None] and lines[-1].aim == 0.35
    ahead = measure.run_ahead(model, Task((5, 6, 7), ((8, 9),), num_tokens=8), draft_tokens=3, rounds=1)
    assert 0 <= ahead[0].value <= 100 and ahead[1].value > 0
    long = measure.long_contexts(model, branches=[1, 2], context_lens=[40], num_tokens=4)
    assert [line.name for line in long[::3]] == ["1 of 40: a step", "2 of 40: a step"]
    assert long[2].value * 2**20 == 2 * 2 * 257 * 32 * 4  # keys and values of 2 slots


def test_drafting_is_measured_with_equal_tokens():
    model = cp.Model(ARCHITECTURES["llama"].model())
    lines = measure.drafted(model, Task((5, 6, 7), ((8, 9),), num_tokens=8), draft_tokens=3, rounds=1)
    assert [line.unit for line in lines] == ["%", "", ""]


def test_tables_say_whether_the_aim_is_reached():
    lines = [Line("slow", 2.0, "", 1.5, 2.5, aim=1.0), Line("quick", 0.5, aim=1.0), Line("time", 12.34, "ms")]
    table = as_markdown(lines)
    assert "| slow | 2.00 | 1.50 to 2.50 | at most 1: NOT reached |" in table.replace("  ", " ")
    assert "at most 1: reached" in table
    assert "12.3 ms" in table
    assert json.loads(json.dumps(as_json(lines)))[0]["high"] == 2.5
    assert as_svg([("a<b", 1.0), ("ours", 2.0)], unit="ms").count("<rect") == 2


def test_the_command(tmp_path):
    options = ["--rounds", "1", "--max-tokens", "3", "--context-tokens", "4", "--batch", "2", "--draft-tokens", "2"]
    result = CliRunner().invoke(command, [*options, "--json", "--svg", str(tmp_path / "chart.svg")])
    assert result.exit_code == 0, result.output
    names = [line["name"] for line in json.loads(result.stdout)["lines"]]
    assert "ours guided / transformers guided" in names
    assert "2 guided requests / one after the other in transformers" in names
    assert "buffers of 2 branches" in names
    assert (tmp_path / "chart.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("option", ["--branches", "--rounds", "--max-tokens"])
def test_a_number_out_of_range_is_told(option):
    result = CliRunner().invoke(command, [option, "0"])
    assert isinstance(result.exception, ValueError)
    assert f"{option} is 0" in str(result.exception)
