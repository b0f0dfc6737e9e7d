"""A user's mistake, told in one line."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A mistake in how an experiment was called, not in the experiment itself.

    Its message is one line that names the culprit; the `jaxsci` command prints it without a
    traceback and exits with status 2.
    """


class FolderInUse(UsageError):
    """Another process is writing to the folder at this moment."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; nearest: a, b`, or all if they are few."""
    choices = list(choices)
    matches = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    if matches:
        return f"; nearest: {', '.join(matches)}"
    return f"; known: {', '.join(choices)}" if 0 < len(choices) <= 8 else ""
