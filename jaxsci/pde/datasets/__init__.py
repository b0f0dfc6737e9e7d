"""Data made by others, fetched into the cache, checked, and read without their libraries."""

from .neuralop import FetchError as FetchError
from .neuralop import neuralop_darcy as neuralop_darcy
from .torch_file import read_torch_file as read_torch_file
