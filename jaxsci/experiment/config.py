"""What an experiment can be told: a frozen dataclass whose fields check themselves."""

import dataclasses
import math
import numbers
import types
import typing
from typing import Any


@dataclasses.dataclass(frozen=True)
class Between:
    """The closed range `lo <= value <= hi` of a configuration field.

    Written into the field's type: `width: Annotated[int, Between(1, 4096)] = 32`. It applies to
    every entry of a tuple, and NaN lies in no range.

    **Arguments:**

    - `lo`, `hi`: the ends, which belong to the range; `None` leaves that side open.
    """

    lo: float | None
    hi: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.lo is None or value >= self.lo)
            and (self.hi is None or value <= self.hi)
            and (not math.isnan(value))
        )

    def __str__(self) -> str:
        if self.hi is None:
            return "any value" if self.lo is None else f"at least {self.lo}"
        return f"at most {self.hi}" if self.lo is None else f"between {self.lo} and {self.hi}"


@dataclasses.dataclass(frozen=True)
class Above:
    """The open range `value > lo` of a configuration field, as for a learning rate.

    `rate: Annotated[float, Above(0)] = 1e-3`. Infinity and NaN do not belong to it.

    **Arguments:**

    - `lo`: the end, which does not belong to the range.
    """

    lo: float

    def __contains__(self, value: float) -> bool:
        return math.isfinite(value) and value > self.lo

    def __str__(self) -> str:
        return f"above {self.lo}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of an experiment's configuration: a frozen dataclass that is checked when it is made.

    A subclass adds its fields, each with a default and a docstring below it, which
    `jaxsci run SLUG --help` shows:

        @dataclasses.dataclass(frozen=True)
        class Config(experiment.Config):
            width: Annotated[int, Between(1, 4096)] = 32
            \"\"\"Channels of every layer.\"\"\"

    A field's type may be `bool`, `int`, `float`, `str`, a `Literal`, a tuple of these, `None` or
    another dataclass; `Between` and `Above` narrow a number. A subclass that has a `__post_init__`
    of its own calls `super().__post_init__()` first.

    **Raises:**

    - `TypeError` if a value is of the wrong kind, `ValueError` if it is out of range; both name
      the field, what came, and what was expected.
    """

    float64: bool = False
    """Compute with 64-bit floats; the runner turns them on before anything is traced."""

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(instance: Any, prefix: str = "") -> None:
    """Checks the fields of a dataclass instance, and of the dataclasses inside it.

    **Arguments:**

    - `instance`: the dataclass instance.
    - `prefix`: what to write before the field's name in a message, as in `optimizer.`.

    **Raises:**

    - `TypeError` or `ValueError` as `Config` does.
    """
    hints = typing.get_type_hints(type(instance), include_extras=True)
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        name = prefix + field.name
        _check(name, value, hints[field.name])
        if dataclasses.is_dataclass(value):
            check_fields(value, name + ".")


def field_names(instance: Any, prefix: str = "") -> list[str]:
    """The names of all fields, with those of an inner dataclass written `outer.inner`."""
    names = []
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            names += field_names(value, f"{prefix}{field.name}.")
        else:
            names.append(prefix + field.name)
    return names


def _check(name: str, value: Any, hint: Any) -> None:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        _check(name, value, args[0])
        for mark in args[1:]:
            if isinstance(mark, Between | Above):
                _check_range(name, value, mark)
    elif origin is typing.Literal:
        if value not in args:
            choices = ", ".join(repr(arg) for arg in args)
            raise ValueError(f"{name} = {value!r}: expected one of {choices}")
    elif origin is tuple:
        if not isinstance(value, tuple):
            raise TypeError(f"{name} = {value!r}: expected a tuple, got {type(value).__name__}")
        if len(args) == 2 and args[1] is Ellipsis:
            args = (args[0],) * len(value)
        if len(args) != len(value):
            raise ValueError(f"{name} = {value!r}: expected {len(args)} entries, got {len(value)}")
        for entry, inner in zip(value, args, strict=True):
            _check(name, entry, inner)
    elif origin in (typing.Union, types.UnionType):
        _check_union(name, value, args)
    elif hint in _KINDS:
        expected, accepted = _KINDS[hint]
        # A bool is an int to Python; to a reader of `width = True` it is a mistake.
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            raise TypeError(f"{name} = {value!r}: expected {expected}, got {type(value).__name__}")


def _check_union(name: str, value: Any, arms: tuple[Any, ...]) -> None:
    problem: TypeError | ValueError | None = None
    for arm in arms:
        if arm is types.NoneType and value is not None:
            continue
        try:
            _check(name, value, arm)
            return
        except (TypeError, ValueError) as error:
            # A value of the right kind and out of range tells more than one of the wrong kind.
            if problem is None or isinstance(error, ValueError):
                problem = error
    if problem is not None:
        raise problem


def _check_range(name: str, value: Any, mark: Between | Above) -> None:
    for entry in value if isinstance(value, tuple) else (value,):
        if entry is not None and entry not in mark:
            raise ValueError(f"{name} = {value!r}: expected a value {mark}")


_KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("True or False", (bool,)),
    int: ("an integer", (numbers.Integral,)),
    float: ("a number", (numbers.Real,)),
    str: ("text", (str,)),
    types.NoneType: ("None", (types.NoneType,)),
}
