"""Configs: recipes and files come in, mistakes are named with what is allowed."""

import dataclasses
import inspect
import json
import math

import pytest

from minidiff.diffusion.schedules import SCHEDULES, make
from minidiff.errors import InputError
from minidiff.training import TrainConfig, read, recipes
from minidiff.training.config import ScheduleConfig
from minidiff.unet import UNetConfig
from tests.training.tiny import TINY, tiny


def test_every_recipe_can_be_read():
    assert "digits8" in recipes()
    for name in recipes():
        assert isinstance(read(name), TrainConfig)


def test_types_are_as_declared(tmp_path):
    config = tiny(tmp_path)
    assert config.unet == UNetConfig(
        image_size=8, channels=4, multipliers=(1,), blocks=1, groups=2, dropout=0.1, num_classes=10
    )
    assert (config.lr, config.T, config.steps) == (0.01, 20, 12)
    assert type(config.unet.multipliers) is tuple and hash(config)


def test_json_and_back(tmp_path):
    config = tiny(tmp_path, schedule="linear", optimizer="adamw", weight_decay=0.1)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_settings_change_values(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(TINY)
    config = read(
        str(path),
        ["lr=1", " schedule = linear", "unet.multipliers=[1, 2]", 'optimizer="adamw"', "seed = 3"],
    )
    assert (config.lr, type(config.lr)) == (1.0, float)
    assert (config.schedule.name, config.optimizer, config.seed) == ("linear", "adamw", 3)
    assert config.unet.multipliers == (1, 2)


def test_options_of_a_schedule(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(TINY)
    config = read(str(path), ["schedule=linear", "schedule.beta_T=0.3", "schedule.scale=none"])
    assert config.schedule.options == {"beta_T": 0.3, "scale": "none"}
    assert config.make_schedule().beta[-1] == 0.3
    assert config.make_schedule().T == config.T == 20
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert read(str(path), ["schedule.s=0.1"]).schedule.name == "cosine"  # as without options

    path.write_text(TINY + '\n[schedule]\nname = "constant"\nbeta = 0.2\n')
    config = read(str(path))
    assert config.make_schedule().beta[7] == make("constant", 20, beta=0.2).beta[7]
    assert read(str(path), ["schedule=cosine"]).schedule.options == {}


def test_every_option_of_every_schedule_can_be_set():
    known = {f.name for f in dataclasses.fields(ScheduleConfig)} - {"name"}
    options = {o for make in SCHEDULES.values() for o in inspect.signature(make).parameters}
    assert known == options - {"T"}


def test_a_config_of_older_runs_can_be_read(tmp_path):
    """It had the schedule's name alone, and no objective."""
    old = {k: v for k, v in tiny(tmp_path).to_dict().items() if k != "objective"}
    assert TrainConfig.from_dict(old | {"schedule": "cosine"}) == tiny(tmp_path)


def test_it_is_frozen(tmp_path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny(tmp_path).lr = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0}, "lr is 0.0; it must be more than 0"),
        ({"lr": -1e-3}, "lr is -0.001"),
        ({"lr": "1e-3"}, "lr is '1e-3'; it must be a number"),
        ({"lr": float("nan")}, "finite"),
        ({"lr": float("inf")}, "finite"),
        ({"lr": True}, "lr is True"),
        ({"steps": 0}, "steps is 0; it must be from 1 to"),
        ({"steps": 1.5}, "steps is 1.5; it must be an integer"),
        ({"steps": True}, "an integer"),
        ({"steps": None}, "an integer"),
        ({"T": 0}, "T is 0"),
        ({"T": 10**9}, "T is 1000000000"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 10**19}, "from 1 to 1000000"),
        ({"warmup": -1}, "0 or more"),
        ({"ema_decay": 1}, "from 0 to below 1"),
        ({"p_uncond": 1.1}, "from 0 to 1"),
        ({"grad_clip": 0}, "more than 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"data": "mnist2"}, "one of: digits"),
        ({"schedule": "quick"}, "[schedule] name is 'quick'; it must be one of: linear"),
        ({"schedule": {"name": "quick"}}, "[schedule] name is 'quick'"),
        ({"schedule": {"beta_T": 0.03}}, "'cosine' has no option 'beta_T'; its options are s, "),
        ({"schedule": {"name": "linear", "beta_T": "x"}}, "schedule.beta_T is 'x'"),
        ({"schedule": {"name": "linear", "slope": 1}}, "unknown setting schedule.slope"),
        ({"schedule": 3}, "schedule is 3; it must be a table"),
        ({"objective": {"target": "y"}}, "[objective] target is 'y'; it must be one of: eps,"),
        ({"objective": {"weight": "snr"}}, "one of: uniform, min_snr"),
        ({"objective": {"times": "odd"}}, "one of: uniform, stratified, cyclic"),
        ({"objective": {"gamma": 0}}, "[objective] gamma is 0.0; it must be more than 0"),
        ({"objective": {"gamma": math.nan}}, "finite"),
        ({"objective": "v"}, "objective is 'v'; it must be a table"),
        ({"optimizer": "sgd"}, "one of: adam, adamw"),
        ({"weight_decay": 0.1}, "set optimizer to 'adamw'"),
        ({"log_every": 0}, "1 or more"),
        ({"checkpoint_every": 0}, "1 or more"),
        ({"sample_every": -5}, "1 or more"),
        ({"unet": None}, "table"),
        ({"unet": 3}, "table"),
        ({"unet": {}}, "unet.image_size is missing"),
        ({"unet": {"image_size": 8, "nosuch": 1}}, "unknown setting unet.nosuch; known are: image"),
        ({"unet": {"image_size": "8"}}, "unet.image_size is '8'; it must be an integer"),
        ({"unet": {"image_size": 8, "multipliers": 2}}, "unet.multipliers is 2"),
        ({"unet": {"image_size": 8, "multipliers": [1, "2"]}}, "unet.multipliers is '2'"),
        ({"unet": {"image_size": 7}}, "divisible"),
        ({"unet": {"image_size": 8, "groups": 5}}, "groups"),
        ({"unet": {"image_size": 8, "blocks": 10**400}}, "1e+09 are allowed; use fewer"),
        ({"unet": {"image_size": 8, "channels": 10**9, "groups": 1}}, "use fewer channels"),
        ({"unet": {"image_size": 8, "multipliers": [1, 10**9]}}, "use fewer channels"),
        ({"nosuch": 1}, "unknown setting nosuch; known are: unet, data"),
    ],
)
def test_a_bad_value_is_named(tmp_path, change, message):
    values = tiny(tmp_path).to_dict() | change
    with pytest.raises(InputError) as error:
        TrainConfig.from_dict(values)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_constructor_checks_as_well(tmp_path):
    with pytest.raises(InputError, match=r"lr is 0\.0"):
        tiny(tmp_path).replace(lr=0)
    with pytest.raises(InputError, match="steps is 'x'"):
        TrainConfig(unet=UNetConfig(image_size=8), steps="x")


@pytest.mark.parametrize("settings", [["lr"], ["=3"], ["lr="], ["lr.x=3"], ["unet=3"], ["a.b=1"]])
def test_a_bad_setting_is_an_error(settings):
    with pytest.raises(InputError):
        read("digits8", settings)


def test_a_setting_is_one_value():
    with pytest.raises(InputError, match=r"lr is '1\\nsteps = 3'; it must be a number"):
        read("digits8", ["lr=1\nsteps = 3"])


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TINY.encode())
    assert read(str(path)) == tiny(tmp_path)


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(InputError, match=r"'digit'.*digits8.*\.toml"):
        read("digit")


@pytest.mark.parametrize(
    "content", [b"lr = ", b"\xff\xfe", b"lr = 1\nlr = 2", b"a = " + b"[" * 10**5]
)
def test_broken_toml_names_the_file(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.toml is no valid TOML"):
        read(str(path))
