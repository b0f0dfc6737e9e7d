"""Graphs with static shapes: layouts of edges, features on them, padding and packing."""

from .box import Box as Box
from .box import displacement as displacement
from .graph import Budget as Budget
from .graph import Graph as Graph
from .graph import bucket as bucket
from .graph import grid_layout as grid_layout
from .graph import pack as pack
from .graph import pad as pad
from .layout import AbstractLayout as AbstractLayout
from .layout import Coo as Coo
from .layout import Reduction as Reduction
from .layout import Table as Table
from .layout import take_rows as take_rows
