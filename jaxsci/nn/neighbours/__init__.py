"""Neighbour search: which points are near which, in jit and on the host."""

from .search import knn as knn
from .search import radius as radius
from .search import with_capacity as with_capacity
from .verlet import VerletList as VerletList
