"""How the kernels are built: without a compiler, with one that fails, and for processors that know less than this one."""

import platform

import pytest
from conformance.architectures import ARCHITECTURES

from counterpoint.engine import scores
from counterpoint.errors import CompileWarning
from counterpoint.models.kernels import blocks, build, choice, few_queries, few_rows, products
from counterpoint.models.model import Model

CACHED = (
    *(build.loaded, few_rows.is_available, products._kernel, few_queries.is_available, few_queries._kernels),
    *(blocks.is_available, blocks._kernels, choice.is_available, choice._calls, scores.is_available),
)


@pytest.fixture
def nothing_loaded():
    for cached in CACHED:
        cached.cache_clear()
    yield
    for cached in CACHED:
        cached.cache_clear()


@pytest.mark.skipif(not build.has_compiler() or platform.machine() != "x86_64", reason="no C compiler for x86-64")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_right_without_newer_instructions(nothing_loaded, monkeypatch, tmp_path, processor):
    own = [flag if flag != "-march=native" else f"-march={processor}" for flag in build.FLAGS]
    monkeypatch.setattr(build, "FLAGS", own)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert few_rows.is_available() and few_queries.is_available() and blocks.is_available()
    assert scores.is_available()
    assert len(list((tmp_path / "counterpoint").iterdir())) == 1


def test_without_a_compiler_there_is_no_kernel(nothing_loaded, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not few_rows.is_available()


@pytest.mark.parametrize("platform_name, said", [("linux", "there is no C compiler"), ("darwin", "this is darwin")])
def test_what_is_lost_is_said_once(monkeypatch, platform_name, said):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(build.sys, "platform", platform_name)
    build.warn_where_missing.cache_clear()
    with pytest.warns(CompileWarning, match=said) as seen:
        for _ in range(2):
            Model(ARCHITECTURES["llama"].build().eval())
    assert len(seen) == 1
    Model(ARCHITECTURES["llama"].build().eval(), compile=False)
    build.warn_where_missing.cache_clear()


def test_a_compiler_that_fails_leaves_no_kernel_and_nothing_behind(nothing_loaded, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    build._warn.cache_clear()
    with pytest.warns(
        CompileWarning, match=r"the C compiler failed on our kernels .*steps of few rows 2 to 4 times"
    ) as seen:
        assert not few_rows.is_available() and not few_queries.is_available() and not blocks.is_available()
    assert len(seen) == 1
    assert list((tmp_path / "counterpoint").iterdir()) == []


def test_a_folder_that_others_can_write_is_not_used(nothing_loaded, monkeypatch, tmp_path):
    (tmp_path / "counterpoint").mkdir()
    (tmp_path / "counterpoint").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(CompileWarning, match="can be written by others"):
        assert not few_rows.is_available()


def test_a_kernel_that_is_wrong_here_is_not_used_and_told():
    with pytest.warns(CompileWarning, match="test_kernel_builds gives other results than torch"):
        assert not build.checked(lambda: False)()
