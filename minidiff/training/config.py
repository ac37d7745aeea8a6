"""What decides a run: one frozen dataclass, read from TOML or JSON and checked on the way.

Every mistake is an InputError that names the key, the value, and what is allowed.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from minidiff.data import names as data_names
from minidiff.diffusion import objectives, schedules, time_draws
from minidiff.diffusion.denoiser import PREDICTIONS
from minidiff.diffusion.schedules import SCHEDULES, Schedule
from minidiff.errors import InputError
from minidiff.optim import DECAYS
from minidiff.unet import UNetConfig

Allowed = tuple[str, Callable[[Any], bool]]


def _at_least(low: float) -> Allowed:
    return f"{low} or more", lambda v: v >= low


def _between(low: float, high: float) -> Allowed:
    return f"from {low} to {high}", lambda v: low <= v <= high


def _one_of(*names: str) -> Allowed:
    return f"one of: {', '.join(names)}", lambda v: v in names


def _option(default: Any, allowed: Allowed) -> Any:
    return field(default=default, metadata={"allowed": allowed})


POSITIVE: Allowed = "more than 0", lambda v: v > 0


@dataclass(frozen=True)
class ScheduleConfig:
    """A noise schedule: its name, and those of its options that are not its own defaults.

    The options are those of the functions in `schedules`; which ones a schedule has is checked
    where its name is.
    """

    name: str = _option("cosine", _one_of(*SCHEDULES))
    scale: str | None = None
    beta: float | None = None
    beta_1: float | None = None
    beta_T: float | None = None
    beta_max: float | None = None
    s: float | None = None
    start: float | None = None
    end: float | None = None
    tau: float | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        known = [name for name in inspect.signature(SCHEDULES[self.name]).parameters if name != "T"]
        for name in self.options:
            if name not in known:
                raise InputError(
                    f"{self.name!r} has no option {name!r}; its options are {', '.join(known)}"
                )

    @property
    def options(self) -> dict[str, Any]:
        """The options that are given."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[1:]}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the network learns to predict, and how much each time t counts.

    `target` is what it predicts: the noise eps, the clean image x0, or v (Salimans & Ho 2022).
    `weight` is "uniform", as in L_simple (Ho et al. 2020, eq. 14), or "min_snr", which cuts the
    weight of times with an SNR above `gamma` (Hang et al. 2023). `times` is how a batch's t are
    drawn, see `time_draws`; every t is equally likely in all of them.
    """

    target: str = _option("eps", _one_of(*PREDICTIONS))
    weight: str = _option("uniform", _one_of("uniform", "min_snr"))
    gamma: float = _option(5.0, POSITIVE)
    times: str = _option("uniform", _one_of(*time_draws.NAMES))

    def __post_init__(self) -> None:
        _check_fields(self)

    def weights(self, schedule: Schedule, t: np.ndarray) -> np.ndarray | None:
        """The weight of the loss of each image (N,) at the times t (N,); None where all are 1."""
        if self.weight == "uniform":
            return None
        return objectives.min_snr_weight(schedule, t, gamma=self.gamma, target=self.target)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run: the same config and backend give the same bits.

    Steps are counted from 1. `schedule` and `T` are the forward process, `unet` the network,
    `objective` what it learns, `p_uncond` how often a row's class is dropped so that guidance has
    an unconditional model.
    The learning rate rises from 0 to `lr` over `warmup` steps; over those that are left it stays
    there (`lr_decay` "constant"), or falls to 0 along a cosine.

    Raises
    ------
    InputError
        If a value has another type than its field or is out of range.
    """

    unet: UNetConfig
    data: str = _option("digits", _one_of(*data_names()))
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    T: int = _option(1000, _between(1, 100_000))
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    steps: int = _option(1000, _between(1, 10**9))
    batch_size: int = _option(64, _between(1, 10**6))
    optimizer: str = _option("adam", _one_of("adam", "adamw"))
    lr: float = _option(1e-3, POSITIVE)
    warmup: int = _option(0, _at_least(0))
    lr_decay: str = _option("constant", _one_of(*DECAYS))
    weight_decay: float = _option(0.0, _at_least(0))
    grad_clip: float = _option(1.0, POSITIVE)
    ema_decay: float = _option(0.999, ("from 0 to below 1", lambda v: 0 <= v < 1))
    p_uncond: float = _option(0.2, _between(0, 1))
    seed: int = _option(0, _between(0, 2**63 - 1))
    log_every: int = _option(1, _at_least(1))
    checkpoint_every: int = _option(200, _at_least(1))
    sample_every: int = _option(200, _at_least(1))

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.weight_decay and self.optimizer != "adamw":
            raise InputError(
                f"weight_decay is {self.weight_decay!r}, but optimizer = {self.optimizer!r} has "
                "none; set optimizer to 'adamw' or weight_decay to 0"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The config with these values; `unet` is a mapping (or already a UNetConfig).

        `schedule` and `objective` are mappings too; a schedule without options may be its name.
        """
        return _build(cls, values, prefix="")

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON and TOML have them: `from_dict` undoes it."""
        schedule = {"name": self.schedule.name} | self.schedule.options
        values = dataclasses.asdict(self) | {"schedule": schedule}
        return json.loads(json.dumps(values))

    def make_schedule(self) -> Schedule:
        """The forward process."""
        return schedules.make(self.schedule.name, self.T, **self.schedule.options)

    def replace(self, **changes: Any) -> TrainConfig:
        """The same config but for `changes`."""
        return dataclasses.replace(self, **changes)


def recipes() -> tuple[str, ...]:
    """The names of the recipes that come with the package."""
    files = (resources.files("minidiff.training") / "recipes").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def read(source: str, settings: Iterable[str] = ()) -> TrainConfig:
    """The config of a recipe of the package or of a TOML file, with `settings` changed.

    Parameters
    ----------
    source : the name of a recipe, such as "digits8", or the path of a file that ends in .toml
    settings : changes such as "lr=2e-3", "unet.multipliers=[1, 2]" or "schedule.beta_T=0.03",
        values as in TOML
    """
    if source in recipes():
        text = (resources.files("minidiff.training") / "recipes" / f"{source}.toml").read_bytes()
    elif source.endswith(".toml"):
        text = Path(source).read_bytes()
    else:
        raise InputError(
            f"there is no recipe {source!r}; choose one of: {', '.join(recipes())}, "
            "or give the path of a .toml file"
        )
    try:
        values = tomllib.loads(text.decode("utf-8-sig"))  # as editors on Windows may begin it
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is no valid TOML: {error}") from error
    for setting in settings:
        _set(values, setting)
    try:
        return TrainConfig.from_dict(values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _set(values: dict[str, Any], setting: str) -> None:
    """Change `values` as "table.key=value" says."""
    key, equals, text = (part.strip() for part in setting.partition("="))
    if not (key and equals and text):
        raise InputError(f"cannot read the setting {setting!r}; write key=value, as lr=0.002")
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        read = {}
    value = read["value"] if len(read) == 1 else text  # names need no quotes on the command line
    *tables, name = key.split(".")
    for table in tables:
        if table == "schedule" and isinstance(values.get(table), str):
            values[table] = {"name": values[table]}
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise InputError(f"cannot set {key}: {table} is a value and not a table")
    values[name] = value


def _build(cls: type, values: Any, prefix: str) -> Any:
    """`cls` from a mapping of its fields, checked for unknown and missing keys and for types."""
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".") or "the config"
        raise InputError(f"{name} is {values!r}; it must be a table of settings")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise InputError(f"unknown setting {prefix}{key}; known are: {', '.join(fields)}")
    for key, f in fields.items():
        optional = (f.default, f.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if key not in values and not optional:
            raise InputError(f"the setting {prefix}{key} is missing")
    hints = typing.get_type_hints(cls)
    converted = {k: _convert(prefix + k, v, hints[k]) for k, v in values.items()}
    try:
        return cls(**converted)
    except InputError as error:
        raise InputError(str(error) if not prefix else f"[{prefix[:-1]}] {error}") from error


def _check_fields(config: Any) -> None:
    """Give the fields of a config their types, and check their ranges."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = _convert(f.name, getattr(config, f.name), hints[f.name])
        object.__setattr__(config, f.name, value)
        text, holds = f.metadata.get("allowed", ("", lambda v: True))
        if not holds(value):
            raise InputError(f"{f.name} is {value!r}; it must be {text}")


def _convert(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`; nothing is lost: 1 becomes 1.0, a list a tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is ScheduleConfig and isinstance(value, str):
        return _build(hint, {"name": value}, prefix=f"{key}.")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _build(hint, value, prefix=f"{key}.")
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (a for a in arguments if a is not type(None))
        return _convert(key, value, hint)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(key, v, arguments[0]) for v in value)
    if hint is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not (origin or hint):
        raise InputError(f"{key} is {value!r}; it must be {_NAMES.get(origin or hint, hint)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key} is {value!r}; it must be finite")
    return value


_NAMES: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    tuple: "a list of integers",
}
