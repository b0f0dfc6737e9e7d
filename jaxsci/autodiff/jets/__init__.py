"""Taylor-mode differentiation: truncated power series through any JAX function."""

from .interpreter import OneHot as OneHot
from .interpreter import jet as jet
from .interpreter import mixed_jet as mixed_jet
