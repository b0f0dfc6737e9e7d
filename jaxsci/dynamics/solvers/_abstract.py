"""`AbstractVar`, which type checkers take for a class variable and not for an argument."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar as AbstractVar
