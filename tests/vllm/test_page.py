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
    assert len(rows) >= 20
    assert sum(row["requests"] for row in rows) >= 2000
    assert sum(row["different"] + row["lost"] + row["counts"]["stalls"] for row in rows) == 0


def test_a_table_of_seconds():
    seconds = {"vLLM": {"1": [2.0, 4.0], "2": [2.0, 2.0]}, "vLLM, guided": {"1": [3.0, 2.0], "2": [8.0, 8.0]}}
    result = {
        "command": "c", "machine": {"processor": "p"}, "commit": "abc", "took_s": 9, "parameters": 1e8, "dtype": "float32",
        "prompt": 3, "tokens": 10, "eager": True, "sizes": [1, 2], "arms": {}, "seconds": seconds,
    }  # fmt: skip
    rows = [line.split(" | ")[1:] for line in vllm_page.throughput(result).splitlines()[4:]]
    assert rows == [
        ["5.0", "10.0 |"],
        ["5.0", "2.5 |"],
        ["1.00 (0.50 to 1.50)", "4.00 (4.00 to 4.00) |"],
        ["1.00", " |"],
    ]
