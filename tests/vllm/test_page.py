import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
specification = importlib.util.spec_from_file_location("vllm_page", ROOT / "scripts" / "vllm_page.py")
vllm_page = importlib.util.module_from_spec(specification)
specification.loader.exec_module(vllm_page)


def test_the_page_shows_the_results_that_are_recorded():
    page = vllm_page.PAGE.read_text()
    assert page == vllm_page.written(page), "run .venv/bin/python scripts/vllm_page.py"


def test_the_recorded_random_load_shows_no_fault():
    rows = [json.loads(line) for line in (vllm_page.RESULTS / "vllm_stress.jsonl").read_text().splitlines()]
    for device, least in (("cpu", 20), ("NVIDIA H200", 13)):
        for runner in ("first", "second"):
            own = [row for row in rows if (row["device"], row["runner"]) == (device, runner)]
            assert len({row["configuration"] for row in own}) >= least
            assert sum(row["counts"]["preempted_groups"] for row in own)
    assert sum(row["different"] + row["lost"] + row["counts"]["stalls"] for row in rows) == 0


def test_a_line_of_the_random_load_is_one_device_release_runner_seed_and_length():
    first = json.loads((vllm_page.RESULTS / "vllm_stress.jsonl").read_text().splitlines()[0])
    changes = [{}, {"configuration": 9}, {"device": "G"}, {"vllm": "0"}, {"runner": "r"}, {"seed": 8}, {"requests": 5}]
    lines = vllm_page.load([{**first, **change} for change in changes]).splitlines()[2:]
    assert len(lines) == 2 + 6
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:6] == ["device", "vLLM", "runner", "seed", "configurations", "requests of each"]
    assert cells[2][4:7] == ["2", "2,000", "4,000"]
    assert {tuple(line[:6]) for line in cells[3:]} >= {
        ("G", "0.32.0", "first", "3", "1", "2,000"),
        ("CPU", "0.32.0", "first", "3", "1", "5"),
    }


def test_tables_of_seconds():
    runs = {
        "vLLM": {"1": [[1.0, 2.0], [1.0, 4.0]], "2": [[1.0, 2.0], [1.0, 2.0]]},
        "vLLM, guided": {"1": [[2.0, 3.0], [1.0, 2.0]], "2": [[4.0, 8.0], [4.0, 8.0]]},
    }
    setting = {"prompt": 3, "negative": 5, "tokens": 10, "shared": True, "sizes": [1, 2], "runs": runs}
    result = {
        "command": "c", "machine": {"processor": "p"}, "commit": "abc", "took_s": 9, "parameters": 1e8, "dtype": "float32",
        "eager": True, "sizes": [1, 2], "environment": {"A": "1"}, "arms": {}, "settings": [setting],
    }  # fmt: skip
    text = vllm_page.throughput(result)
    assert "- *10 new, a shared negative*: prompts of 3 tokens; negatives, one for all requests, with 5; 10 new" in text
    assert text.endswith("- The aim at 1 is 1.2: *10 new, a shared negative* 1.00, reached.") and "at 16" not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| 10 new")]
    assert [row[1:] for row in rows] == [
        ["5.0", "10.0 |"],
        ["5.0", "2.5 |"],
        ["1.00 (0.50 to 1.50)", "4.00 (4.00 to 4.00) |"],
        ["1.50", "4.00 |"],
        ["0.67", "4.00 |"],
        ["1.00", " |"],
    ]

    result["machine"] |= {"gpu": "G", "torch": "1"}
    result["arms"] = {
        "vllm": {"versions": {}, "threads": 1, "load at the start": 0, "runner": "first", "CUDA graphs": "FULL"}
    }
    on_gpu = vllm_page.throughput(result, settings=False)
    assert "p; G, its torch 1; the vllm arm (first runner, CUDA graphs FULL)" in on_gpu
    assert "aim" not in on_gpu and "- *10 new" not in on_gpu and "| 10 new" in on_gpu  # aims were set for a CPU
