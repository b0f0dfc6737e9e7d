"""Data for training: sources on the device and pipelines from files."""

from .host import HostData as HostData
from .sources import AbstractSource as AbstractSource
from .sources import ArraySource as ArraySource
from .sources import OnlineSource as OnlineSource
