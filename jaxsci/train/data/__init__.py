"""Data for training: sources on the device, and pipelines from files on the host."""

from .files import AbstractTrajectories as AbstractTrajectories
from .files import Windows as Windows
from .files import pipeline as pipeline
from .host import HostData as HostData
from .images import digits as digits
from .pdebench import PDEBench as PDEBench
from .pdebench import PDEBenchDarcy as PDEBenchDarcy
from .sources import AbstractSource as AbstractSource
from .sources import ArraySource as ArraySource
from .sources import OnlineSource as OnlineSource
from .sources import WithProgress as WithProgress
from .the_well import TheWell as TheWell
