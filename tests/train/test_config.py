import pytest

from counterpoint.errors import UsageError
from counterpoint.train.config import ScheduleConfig, read_config


def test_the_bundled_config_reads(pytestconfig):
    config = read_config(pytestconfig.rootpath / "configs" / "bundled.toml")
    assert config.model.positions == 1024
    assert {s.file for s in config.source} == {"se", "eltec", "novels100", "sentiment", "qa", "define", "tone"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("seed = 3", "seed = 3\nsede = 4"), "unknown `sede` in the file"),
        (("seed = 3", ""), "lacks `seed`"),
        (("seed = 3", "seed = 'a'"), "seed` has to be of type int, but is 'a'"),
        (("width = 32", "width = 33"), "model.width` has to be a multiple of 2 * 2 heads, but is 33"),
        (("share = 0.4", "share = 0"), "share` has to be above 0, but is 0"),
        (("micro_tokens = 128", "micro_tokens = 100"), "multiple of window, but is 100"),
        (("positions = 64", "positions = 32"), "has to fit model.positions, but is 64"),
        (('"Author: {}."', '"Author."'), "fields.author` needs one {}, but is 'Author.'"),
        (('required = ["question"]', 'required = ["qeustion"]'), "but is 'qeustion'"),
        (("[tokenizer]", "[tokenizer"), "is not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_value(config_path, change, named):
    config_path.write_text(config_path.read_text().replace(*change, 1))
    with pytest.raises(UsageError) as caught:
        read_config(config_path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value).removesuffix("\n")


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="can't be read: No such file"):
        read_config(tmp_path / "none.toml")


def test_rates_warm_up_stay_and_fall_to_zero():
    plan = ScheduleConfig(steps=100, warmup=10, decay=0.5)
    assert plan.rate_at(0) == pytest.approx(0.1)
    assert plan.rate_at(9) == plan.rate_at(50) == 1.0
    assert plan.rate_at(75) == pytest.approx(0.5)
    assert plan.rate_at(99) == pytest.approx(0.02)


def test_the_last_steps_read_longer_windows():
    plan = ScheduleConfig(steps=100, long=0.15)
    assert [plan.window_at(s) for s in (0, 84, 85, 99)] == [256, 256, 512, 512]


def test_late_steps_are_the_last_ones():
    assert [ScheduleConfig(steps=100, late=0.1).is_late(s) for s in (0, 89, 90, 99)] == [False, False, True, True]
    assert not ScheduleConfig(steps=100).is_late(99)


def test_the_fingerprint_lets_the_schedule_change_and_nothing_else(config_path):
    config = read_config(config_path)
    text = config_path.read_text()
    config_path.write_text(text.replace("steps = 12", "steps = 99"))
    assert read_config(config_path).fingerprint(with_model=True) == config.fingerprint(with_model=True)
    config_path.write_text(text.replace("width = 32", "width = 64"))
    changed = read_config(config_path)
    assert changed.fingerprint(with_model=True) != config.fingerprint(with_model=True)
    assert changed.fingerprint(with_model=False) == config.fingerprint(with_model=False)
    config_path.write_text(text.replace("vocab = 320", "vocab = 330"))
    assert read_config(config_path).fingerprint(with_model=False) != config.fingerprint(with_model=False)
