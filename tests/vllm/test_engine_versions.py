import ast
from pathlib import Path

import pytest
import torch
from tiny_models import save
from vllm import EngineArgs

from counterpoint.errors import UnsupportedError
from counterpoint.vllm import engine_args, versions
from counterpoint.vllm.config import refuse_unsupported, setting


def test_the_private_parts_that_we_use_are_as_they_were_tested():
    before = torch.Event, torch.cuda.Event, torch.cuda.Stream, torch.Tensor.pin_memory
    changed = versions.changed()
    # vLLM's second runner for CPUs replaces these where it is imported, for every engine of the process.
    assert before == (torch.Event, torch.cuda.Event, torch.cuda.Stream, torch.Tensor.pin_memory)
    assert not changed, f"vLLM changed what counterpoint.vllm relies on; read it and run the stress test: {changed}"


def test_a_changed_or_lost_interface_is_named(monkeypatch):
    monkeypatch.setattr(
        versions,
        "INTERFACES",
        {"vllm.v1.request:Request.__init__": ("0", "0"), "vllm.v1.request:Request.gone": ("1", "1")},
    )
    changed = versions.changed()
    assert set(changed) == set(versions.INTERFACES)
    assert changed["vllm.v1.request:Request.gone"] == "missing"


def test_every_name_of_vllms_that_we_import_is_listed():
    listed = set(versions.INTERFACES) | {f"{m}:{name}" for name, modules in versions.MOVED.items() for m in modules}
    used = set()
    for path in Path(versions.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                used |= {f"{node.module}:{alias.name}" for alias in node.names}
            assert not (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "vllm" for a in node.names)), path
    assert used - listed == set()
    assert {name for name, known in versions.INTERFACES.items() if set(known) == {"missing"}} == set()
    assert all(callable(versions.imported(name)) for name in versions.MOVED)


@pytest.mark.parametrize("found", ["0.31.9", None])
def test_another_version_is_refused(monkeypatch, found):
    monkeypatch.setattr(versions, "installed", lambda: found)
    with pytest.raises(UnsupportedError, match=r"works with 0\.32\.0, 0\.33\.0"):
        versions.require()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llama"), "llama")


def config(folder, **changes):
    plain = {"model": str(folder), "dtype": "float32", "enforce_eager": True, "max_num_seqs": 4}
    return EngineArgs(**{**plain, **engine_args(), **changes}).create_engine_config()


def test_the_ordinary_configuration_is_supported(folder):
    refuse_unsupported(config(folder))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scheduler_cls": None}, "--scheduler-cls counterpoint.vllm.scheduler.GuidedScheduler"),
        ({"worker_cls": "auto"}, "--worker-cls counterpoint.vllm.worker.GuidedWorker"),
        ({"logits_processors": None}, "--logits-processors counterpoint.vllm.check:GuidanceCheck"),
        ({"scheduling_policy": "priority"}, "--scheduling-policy fcfs"),
        ({"max_num_seqs": 1}, "--max-num-seqs is 1"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "speculative"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_at_start(folder, changes, reason):
    with pytest.raises(UnsupportedError, match=reason):
        refuse_unsupported(config(folder, **changes))


def test_settings_of_ours(folder):
    given = config(folder, additional_config={"counterpoint": {"stall_s": 7}})
    assert (setting(given, "stall_s", 30.0), setting(given, "stall_steps", 100)) == (7.0, 100.0)
    assert setting(config(folder), "stall_s", 30.0) == 30.0
