"""Layers that all models share.

Transforms between grids and coefficients (`Fourier`, `Cosine`), the spectral convolution on top of
them, pointwise maps of channels, coordinates and embeddings as features. Layers act on one example,
channels first (`"c *grid"`); batches are made by `jax.vmap`.
"""

from jaxsci.nn.embeddings import append_coordinates
from jaxsci.nn.mlp import ChannelLinear, ChannelMLP, mix_channels
from jaxsci.nn.spectral_conv import (
    AbstractMixing,
    CPMixing,
    DenseMixing,
    DiagonalMixing,
    SpectralConv,
    TuckerMixing,
)
from jaxsci.nn.transforms import AbstractTransform, Cosine, Fourier, wavenumbers

__all__ = [
    "AbstractMixing",
    "AbstractTransform",
    "CPMixing",
    "ChannelLinear",
    "ChannelMLP",
    "Cosine",
    "DenseMixing",
    "DiagonalMixing",
    "Fourier",
    "SpectralConv",
    "TuckerMixing",
    "append_coordinates",
    "mix_channels",
    "wavenumbers",
]
