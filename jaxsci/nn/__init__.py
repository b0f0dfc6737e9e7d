"""Layers that all models share.

Transforms between grids and coefficients (`Fourier`, `Cosine`), the spectral convolution on top of
them, pointwise maps of channels, coordinates and embeddings as features. Layers act on one example,
channels first (`"c *grid"`); batches are made by `jax.vmap`.
"""

from .buffer import Buffer as Buffer
from .embeddings import append_coordinates as append_coordinates
from .mlp import ChannelLinear as ChannelLinear
from .mlp import ChannelMLP as ChannelMLP
from .mlp import mix_channels as mix_channels
from .spectral_conv import AbstractMixing as AbstractMixing
from .spectral_conv import CPMixing as CPMixing
from .spectral_conv import DenseMixing as DenseMixing
from .spectral_conv import DiagonalMixing as DiagonalMixing
from .spectral_conv import SpectralConv as SpectralConv
from .spectral_conv import TuckerMixing as TuckerMixing
from .transforms import AbstractTransform as AbstractTransform
from .transforms import Cosine as Cosine
from .transforms import Fourier as Fourier
from .transforms import wavenumbers as wavenumbers
