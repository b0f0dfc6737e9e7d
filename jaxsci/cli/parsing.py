"""From words on a command line to the options of a command; a mistake becomes one line."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, TypeVar

import tyro

from jaxsci.experiment import UsageError, field_names, nearest

T = TypeVar("T")

_CONFIG = "--config."


def parse(kind: type[T], words: Sequence[str], *, prog: str, config: object = None) -> T:
    """The options of a command, from its words.

    **Arguments:**

    - `kind`: a dataclass of options, which may have a field `config`.
    - `words`: the command line after the command.
    - `prog`: the command's name in the help text.
    - `config`: the configuration that the field `config` starts from.

    **Raises:**

    - `UsageError` for an unknown option, with the nearest ones, or a value that cannot be taken.
    - `SystemExit` after printing the help that was asked for.
    """
    _refuse_unknown(kind, words, prog, config)
    words = _with_python_bools(words, config)
    pairs_off = (tyro.conf.FlagCreatePairsOff,)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message), _wide(words):
            if config is None:
                return tyro.cli(kind, args=words, prog=prog, config=pairs_off, use_underscores=True)
            # `--config.float64 True` takes a value as every field does, `--resume` takes none.
            options = dataclasses.make_dataclass(
                "Options",
                [("config", Annotated[type(config), tyro.conf.FlagConversionOff], config)],
                bases=(kind,),
                frozen=True,
            )
            options.__doc__ = kind.__doc__
            return tyro.cli(options, args=words, prog=prog, config=pairs_off, use_underscores=True)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(message.getvalue(), prog)) from None


def without_config(words: Sequence[str]) -> list[str]:
    """The words that do not belong to a `--config.FIELD`: what says which file to look into."""
    kept: list[str] = []
    skipping = False
    for word in words:
        if word.startswith("--"):
            skipping = word.startswith(_CONFIG)
        if not skipping:
            kept.append(word)
    return kept


def config_lists(
    words: Sequence[str], kind: type, prog: str, config: object
) -> dict[str, list[list[str]]]:
    """The lists of a sweep: for each field, the words that set it to one entry after the other.

    `--config.rate 1e-3,3e-3` has two entries; those of a field that takes several values are
    written `--config.widths 4 5,6 7`.

    **Arguments:**

    - `words`: the command line after the command.
    - `kind`, `prog`, `config`: as for `parse`.

    **Raises:**

    - `UsageError` for an unknown field, one that is given twice, or an empty entry.
    """
    _refuse_unknown(kind, words, prog, config)
    given: dict[str, list[str]] = {}
    current: list[str] = []
    for word in words:
        if word.startswith(_CONFIG):
            name, has_value, value = word.removeprefix(_CONFIG).partition("=")
            name = name.replace("-", "_")
            if name in given:
                raise UsageError(f"{prog}: --config.{name} is given twice")
            current = given[name] = [value] if has_value else []
        elif word.startswith("--"):
            current = []
        else:
            current.append(word)
    return {name: _entries(name, values, prog, config) for name, values in given.items()}


def _entries(name: str, values: list[str], prog: str, config: object) -> list[list[str]]:
    option = _CONFIG + name
    if not values:
        return [[option]]  # Which the parser will miss the value of.
    text = " ".join(values)
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entries):
        raise UsageError(f"{prog}: {option} {text}: an entry of the list is empty")
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, tuple):
        return [[option, *entry.split()] for entry in entries]
    if len(values) > 1:
        raise UsageError(
            f"{prog}: {option} {text}: a list is written with commas and no spaces, as in "
            f"{option} {','.join(text.replace(',', ' ').split())}"
        )
    return [[f"{option}={entry}"] for entry in entries]


def _with_python_bools(words: Sequence[str], config: object) -> list[str]:
    """`--config.float64 false` as Python writes it, where the field is a bool."""
    fields: list[str] = []
    for name in field_names(config) if config is not None else ():
        value: object = config
        for part in name.split("."):
            value = getattr(value, part)
        if isinstance(value, bool):
            fields.append(_CONFIG + name)
    changed, previous = [], ""
    for word in words:
        option, equals, value = word.partition("=")
        if previous in fields and word in ("true", "false"):
            word = word.capitalize()
        elif equals and option.replace("-", "_").replace("__", "--", 1) in fields:
            word = f"{option}={value.capitalize() if value in ('true', 'false') else value}"
        changed.append(word)
        previous = word.replace("-", "_").replace("__", "--", 1)
    return changed


def is_help(words: Sequence[str]) -> bool:
    """Whether the help text is asked for."""
    return "-h" in words or "--help" in words


def _refuse_unknown(kind: type, words: Sequence[str], prog: str, config: object) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    fields = field_names(config) if config is not None else []
    known = {f"--{name}" for name in names} | {f"{_CONFIG}{name}" for name in fields}
    for word in words:
        if word == "--":
            return
        option = word.split("=", 1)[0].replace("-", "_").replace("__", "--", 1)
        if not word.startswith("--") or option in known or word == "--help":
            continue
        if option == "--config":
            raise UsageError(f"{prog}: a field is set by --config.FIELD VALUE, not by --config")
        if config is not None and option.startswith(_CONFIG):
            field = option.removeprefix(_CONFIG)
            raise UsageError(
                f"{prog}: the configuration has no field {field!r}" + nearest(field, fields)
            )
        options = sorted(known - {f"{_CONFIG}{name}" for name in fields})
        raise UsageError(f"{prog}: no option {word.split('=', 1)[0]}" + nearest(option, options))


@contextlib.contextmanager
def _wide(words: Sequence[str]) -> Iterator[None]:
    """Keeps tyro from breaking a message into lines of the terminal's width."""
    if is_help(words):
        yield
        return
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _one_line(box: str, prog: str) -> str:
    """What tyro says in a box, as one line: the text between the title and the first rule."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    rows = [row.strip(" │") for row in plain.strip("\n").splitlines()[1:]]
    if rows and not rows[0].strip("-"):
        del rows[0]  # Where the terminal has no box characters, a rule follows the title.
    said = itertools.takewhile(lambda row: row.strip("─-╰╯"), rows)
    text = " ".join(" ".join(said).split())
    text = re.sub(r"^Error parsing config: ", "--config.", text)
    text = re.sub(r"^Error parsing (\S+): ", r"\1: ", text)
    text = re.sub(
        r"invalid literal for int\(\) with base 10: (.*)", r"expected an integer, got \1", text
    )
    text = re.sub(r"could not convert string to float: (.*)", r"expected a number, got \1", text)
    text = text.replace("Could not find valid parse for arguments:", "values of a wrong kind,")
    text = re.sub(r"^invalid choice (.*) for argument '(.*)'\. Expected", r"\2: \1 is not", text)
    text = re.sub(r"^Missing from .*?: +(\S+).*", r"\1 is missing", text)
    return f"{prog}: {text or 'cannot be parsed'}"
