"""`counterpoint info`: kernels and caches, and freeing what is left of other versions."""

import json

import pytest

from counterpoint.models.kernels import build, kept


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "steps"))
    return build.cache_folder()


def test_info_tells_kernels_and_caches(run, cache):
    status, out, _ = run("info", "--json")
    facts = json.loads(out)
    assert status == 0 and facts["kernel_few_rows"].startswith(("used", "not used: "))
    assert facts["recorded_steps"] == "yes" or not build.has_compiler()
    assert str(cache) in facts["kept_kernels"]


def test_info_tells_why_steps_are_not_recorded(run, cache):
    facts = json.loads(run("info", "--no-compile", "--json")[1])
    assert facts["recorded_steps"] == "no: compile is False, or it has adapters"


def test_prune_frees_what_nothing_will_use_again(run, cache, tmp_path):
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "step.bin").write_bytes(b"x" * 3_000_000)
    (cache / "kernels-0123456789abcdef.so").write_bytes(b"x" * 1_000_000)
    (cache / "other.txt").write_text("not ours to remove")
    build.current().write_bytes(b"the one in use")
    assert [one.name for one in kept.caches()] == ["kernels", "compiled steps of torch"]
    assert run("info", "--prune") == (0, "4.0 MB are free now\n", "")
    assert sorted(path.name for path in cache.iterdir()) == sorted([build.current().name, "other.txt"])
    assert not (tmp_path / "steps").exists() and run("info", "--prune")[1] == "0.0 MB are free now\n"
