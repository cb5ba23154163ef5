"""Who may import whom, and that heavy libraries stay in the rooms that need them."""

import ast
from pathlib import Path

import pytest

import counterpoint

SOURCE = Path(counterpoint.__file__).parent
ORDER = [
    "errors", "guide", "presets", "formulas", "guiding", "constraints", "contexts", "wire", "sampling", "models", "vectors", "engine", "watch",
    "batch", "store", "mlflow", "mlflow_code", "transformers", "vllm", "trace", "report", "evaluate", "assignment", "bench", "train", "distillation", "server", "cli",
]  # fmt: skip
MOST_LINES = 350
#: rooms that a room is kept from, though they stand above it
KEPT_FROM = {"server": {"formulas"}}
INTEGRATIONS = {"transformers", "vllm"}
#: rooms that work without torch, so that a mistake on the command line is told at once
LIGHT = {"errors", "guide", "presets", "contexts", "wire"}
HEAVY = {
    "torch", "transformers", "vllm", "fastapi", "uvicorn", "lm_eval", "sklearn", "scipy", "peft", "matplotlib", "jax",
    "numpyro", "ortools",
}  # fmt: skip


def files():
    return [
        path
        for path in sorted(SOURCE.rglob("*.py"))
        if path.parent != SOURCE or path.stem not in ("__init__", "__main__")
    ]


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path, *, only_at_import=False):
    """Modules that a file imports, lazily or not. Imports for type checkers only do not count."""
    tree = ast.parse(path.read_text())
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if only_at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "counterpoint":
                yield from (f"counterpoint.{alias.name}" for alias in node.names)
            else:
                yield node.module
        nodes.extend(ast.iter_child_nodes(node))


def test_every_room_is_in_the_order():
    assert {room_of(path) for path in files()} <= set(ORDER)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_up_only(path):
    room = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "counterpoint" or len(parts) == 1 or parts[1] not in ORDER:
            continue
        assert ORDER.index(parts[1]) <= ORDER.index(room), f"{room} imports {name}"
        assert parts[1] not in KEPT_FROM.get(room, ()), f"{room} imports {name}"
        assert room not in INTEGRATIONS or parts[1] not in INTEGRATIONS - {room}, f"{room} imports {name}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_light_rooms_and_commands_import_nothing_heavy(path):
    if room_of(path) in LIGHT or room_of(path) == "cli":
        heavy = [name for name in imports(path, only_at_import=True) if name.split(".")[0] in HEAVY]
        assert heavy == []


def test_only_its_own_room_touches_a_host_library():
    for path in files():
        if room_of(path) not in ("vllm", "cli", "bench", "evaluate"):
            assert not any(name.split(".")[0] == "vllm" for name in imports(path)), path


def test_guides_and_steps_are_made_into_formulas_in_one_place():
    """Whoever has guides calls `guiding.combined`; nobody else weighs branches."""
    own = {"guided", "combine_log", "combine_prob", "jensen_shannon"}
    for path in files():
        if room_of(path) in ("formulas", "guiding"):
            continue
        tree = ast.parse(path.read_text())
        named = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "formulas"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "counterpoint.formulas":
                named |= {alias.name for alias in node.names}
        assert not own & named, path


def test_that_guidance_can_do_nothing_is_decided_in_one_place():
    """Surfaces choose between a warning and an error; the verdict is made by `guide.no_effect` alone."""
    for path in files():
        if path.name != "guide.py":
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not any(getattr(func, "id", getattr(func, "attr", None)) == "NoEffect" for func in calls), path


def test_fields_of_guidance_are_read_in_one_place():
    """`wire` alone takes them out of a body; servers and batches hand it the whole."""
    own = {"guidance_scale", "cfg_scale", "negative_prompt", "negative_prompt_ids", "negative_messages", "guidance"}
    for path in files():
        if room_of(path) not in ("server", "vllm", "batch", "mlflow"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            taken = node.slice if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) else None
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("get", "pop") and node.args:
                taken = node.args[0]
            assert not (isinstance(taken, ast.Constant) and taken.value in own), (path, taken.value)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_can_be_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES
