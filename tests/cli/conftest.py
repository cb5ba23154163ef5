import io
import re
import sys

import pytest

from counterpoint.cli import main


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny chat model as a folder of transformers."""
    from server.conftest import make_model

    model, where = make_model(), tmp_path_factory.mktemp("models") / "main"
    model.hf.save_pretrained(where)
    model.tokenizer.save_pretrained(where)
    return where


@pytest.fixture
def mistake(run, folder, tmp_path, monkeypatch):
    """Run a command that is wrong, in a folder where nothing is; its one line, which begins with the program's name.

    Files go by the names that `named` has for them, and the model is the tiny one unless the command names one.
    """

    def mistake(arguments, message, named, *, has_model=True):
        monkeypatch.chdir(tmp_path)
        model = ["--model", folder] if has_model and "--model" not in arguments else []
        status, _, err = run(*[named.get(one, one) for one in arguments], *model)
        assert status == 2 and len(err.splitlines()) == 1 and re.search(message, err), err

    return mistake


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command line in this process: (status, standard output, standard error)."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return exit.value.code, captured.out, captured.err

    return run
