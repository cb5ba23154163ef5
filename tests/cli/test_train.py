import pytest


@pytest.mark.parametrize("name", ["no-such.toml"])
def test_a_missing_config_is_one_line(run, tmp_path, name):
    status, _, err = run("train", tmp_path / name, "--data", tmp_path, "--out", tmp_path / "out")
    assert status == 2 and err.count("\n") == 1 and name in err
    assert not (tmp_path / "out").exists()
