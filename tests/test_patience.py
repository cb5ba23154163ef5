"""No test counts on the clock: a machine may be ten times slower or quicker than another, and may stop for seconds."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
#: what waits, and what keeps others waiting
OWN = ("patience.py", "slowly.py")
CLIENTS = {
    "httpx": {"get", "post", "put", "delete", "head", "options", "request", "stream", "Client", "AsyncClient"},
    "openai": {"OpenAI", "AsyncOpenAI"},
}
WAITING = {"wait", "join", "communicate", "result"}


def mistakes(source):
    """Lines of a test that measure time, or wait for less than they have to."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield node.lineno, "import time, so that its use is seen"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
            # Time of the processor passes only while the test itself computes.
            if node.attr not in ("process_time", "time_ns", "strftime"):
                yield node.lineno, f"time.{node.attr}: wait for an event with patience.wait_for"
        if not isinstance(node, ast.Call):
            continue
        timeouts = [keyword.value for keyword in node.keywords if keyword.arg == "timeout"]
        if isinstance(node.func, ast.Attribute):
            of, name = getattr(node.func.value, "id", None), node.func.attr
            if name in CLIENTS.get(of, ()) and not timeouts:
                yield node.lineno, f"{of}.{name} gives up after seconds; use patience.http, or timeout=PATIENCE_S"
            if name in WAITING:
                timeouts += [
                    one for one in node.args if isinstance(one, ast.Constant) and type(one.value) in (int, float)
                ]
        for one in timeouts:
            if "PATIENCE_S" not in {name.id for name in ast.walk(one) if isinstance(name, ast.Name)}:
                yield node.lineno, "a limit of time of its own; give PATIENCE_S"


def test_tests_wait_for_events():
    found = [
        f"{path.relative_to(TESTS)}:{line}: {what}"
        for path in sorted(TESTS.rglob("*.py"))
        if path.relative_to(TESTS).parts[0] not in (*OWN, "vllm")
        for line, what in mistakes(path.read_text())
    ]
    assert not found, "\n".join(found)


def test_what_counts_on_the_clock_is_seen():
    for wrong in (
        "from time import sleep", "time.sleep(1)", "began = time.monotonic()", "httpx.get(url)", "httpx.Client(base_url=b)",
        "openai.OpenAI(api_key=key)", "process.wait(30)", "subprocess.run(command, timeout=60)", "thread.join(0.5)",
    ):  # fmt: skip
        assert list(mistakes(wrong)), wrong
    for right in (
        "wait_for(lambda: done)", "http.get(url)", "httpx.get(url, timeout=PATIENCE_S)", "process.wait(PATIENCE_S)", "thread.join()",
        "time.process_time()", "' '.join(words)", "page.launch(timeout=1000 * PATIENCE_S)",
    ):  # fmt: skip
        assert not list(mistakes(right)), right
