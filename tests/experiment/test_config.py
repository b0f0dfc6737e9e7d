"""Configurations refuse wrong kinds and values out of range, and name the field."""

import dataclasses
from typing import Annotated, Literal

import numpy as np
import pytest

from jaxsci.experiment import Above, Between, Config, field_names


@dataclasses.dataclass(frozen=True)
class Optimizer:
    rate: Annotated[float, Above(0)] = 1e-3
    decay: Annotated[float, Between(0, 1)] | None = None


@dataclasses.dataclass(frozen=True)
class Example(Config):
    width: Annotated[int, Between(1, 4096)] = 32
    modes: Annotated[tuple[int, ...], Between(1, 64)] = (12, 12)
    box: tuple[float, float] = (0.0, 1.0)
    kind: Literal["fno", "tfno"] = "fno"
    name: str = "a"
    depth: Annotated[int, Between(1)] = 4
    shift: Annotated[float, Between(None, 0)] = -1.0
    optimizer: Optimizer = Optimizer()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"width": 1},
        {"width": 4096},
        {"width": np.int64(3)},
        {"modes": (1, 2, 3)},
        {"modes": ()},
        {"kind": "tfno"},
        {"depth": 10**9},
        {"box": (0, 2)},
        {"float64": True},
        {"optimizer": Optimizer(decay=1)},
    ],
)
def test_good_values_are_taken(change):
    config = Example(**change)
    for name, value in change.items():
        assert getattr(config, name) == value


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"width": 0}, ValueError, "width = 0: expected a value between 1 and 4096"),
        ({"width": 4097}, ValueError, "width = 4097: expected a value between 1 and 4096"),
        ({"width": 2.0}, TypeError, "width = 2.0: expected an integer, got float"),
        ({"width": True}, TypeError, "width = True: expected an integer, got bool"),
        ({"width": "3"}, TypeError, "width = '3': expected an integer, got str"),
        ({"modes": (12, 65)}, ValueError, "modes = (12, 65): expected a value between 1 and 64"),
        ({"modes": 12}, TypeError, "modes = 12: expected a tuple, got int"),
        ({"modes": (1, "a")}, TypeError, "modes = 'a': expected an integer, got str"),
        ({"box": (0.0,)}, ValueError, "box = (0.0,): expected 2 entries, got 1"),
        ({"kind": "cno"}, ValueError, "kind = 'cno': expected one of 'fno', 'tfno'"),
        ({"name": 3}, TypeError, "name = 3: expected text, got int"),
        ({"depth": 0}, ValueError, "depth = 0: expected a value at least 1"),
        ({"shift": 0.5}, ValueError, "shift = 0.5: expected a value at most 0"),
        ({"float64": 1}, TypeError, "float64 = 1: expected True or False, got int"),
    ],
)
def test_bad_values_name_the_field(change, error, message):
    with pytest.raises(error) as caught:
        Example(**change)
    assert str(caught.value) == message


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_inner_dataclass_is_checked_with_its_path(rate):
    with pytest.raises(ValueError, match=r"optimizer\.rate = .*: expected a value above 0"):
        Example(optimizer=Optimizer(rate=rate))


def test_optional_value_out_of_range():
    with pytest.raises(ValueError, match=r"optimizer\.decay = 2: expected a value between 0 and 1"):
        Example(optimizer=Optimizer(decay=2))
    with pytest.raises(TypeError, match=r"optimizer\.decay = 'x': expected a number, got str"):
        Example(optimizer=Optimizer(decay="x"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("mark", [Between(0, 1), Between(None, 1), Between(0), Between(None)])
def test_nan_is_in_no_range(mark):
    assert float("nan") not in mark


def test_replace_checks_again():
    with pytest.raises(ValueError, match="width"):
        dataclasses.replace(Example(), width=-1)


def test_field_names_reach_into_inner_dataclasses():
    names = field_names(Example())
    assert "optimizer.rate" in names and "float64" in names and "optimizer" not in names
