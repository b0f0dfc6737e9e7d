"""Layers that all models share.

Transforms between grids and coefficients (`Fourier`, `Cosine`; `TensorBasis` of `FourierAxis` and
`ChebyshevAxis`, with exact derivatives, products and norms), the spectral convolution on top of
them, pointwise maps of channels, coordinates and embeddings as features; convolutions padded axis
by axis, norms, attention, and the one `UNet` made of them; `FlaxModel`, which makes any Flax module
an Equinox one. Layers act on one example, channels first (`"c *grid"`); batches are made by
`jax.vmap`.

`Graph` and its layouts `Coo` and `Table`, `radius` and `knn` to make them from positions, and
message passing on them; features of nodes are rows (`"n c"`). `Graphormer`: attention among all
nodes of a directed graph.
"""

from . import unit_scaling as unit_scaling
from .afno import AFNO as AFNO
from .attention import AttentionGate as AttentionGate
from .attention import GridAttention as GridAttention
from .attention import MultiHeadAttention as MultiHeadAttention
from .buffer import Buffer as Buffer
from .conv import Conv as Conv
from .conv import MaxPool as MaxPool
from .conv import MeanPool as MeanPool
from .conv import NearestConv as NearestConv
from .conv import Padding as Padding
from .conv import StridedConv as StridedConv
from .conv import TransposedConv as TransposedConv
from .conv import pad_grid as pad_grid
from .conv import padding_modes as padding_modes
from .embeddings import AbstractEmbedding as AbstractEmbedding
from .embeddings import ClassEmbedding as ClassEmbedding
from .embeddings import FiLM as FiLM
from .embeddings import FourierFeatures as FourierFeatures
from .embeddings import GridEmbedding as GridEmbedding
from .embeddings import ParameterEmbedding as ParameterEmbedding
from .embeddings import SinusoidalEmbedding as SinusoidalEmbedding
from .embeddings import SumEmbedding as SumEmbedding
from .embeddings import TimeEmbedding as TimeEmbedding
from .embeddings import append_coordinates as append_coordinates
from .flax_model import FlaxModel as FlaxModel
from .graph import AbstractLayout as AbstractLayout
from .graph import Box as Box
from .graph import Budget as Budget
from .graph import Coo as Coo
from .graph import Graph as Graph
from .graph import Reduction as Reduction
from .graph import Table as Table
from .graph import bucket as bucket
from .graph import displacement as displacement
from .graph import grid_layout as grid_layout
from .graph import pack as pack
from .graph import pad as pad
from .graph import take_rows as take_rows
from .graphormer import Graphormer as Graphormer
from .graphormer import GraphormerLayer as GraphormerLayer
from .initial import stacked as stacked
from .message_passing import EdgeLinear as EdgeLinear
from .message_passing import EdgeMLP as EdgeMLP
from .message_passing import EncodeProcessDecode as EncodeProcessDecode
from .message_passing import GATv2Conv as GATv2Conv
from .message_passing import InteractionNetwork as InteractionNetwork
from .message_passing import Message as Message
from .message_passing import MessagePassing as MessagePassing
from .message_passing import ResidualUpdate as ResidualUpdate
from .message_passing import RowLinear as RowLinear
from .message_passing import RowMLP as RowMLP
from .mlp import ChannelLinear as ChannelLinear
from .mlp import ChannelMLP as ChannelMLP
from .mlp import mix_channels as mix_channels
from .neighbours import VerletList as VerletList
from .neighbours import knn as knn
from .neighbours import radius as radius
from .neighbours import with_capacity as with_capacity
from .norms import AdaGroupNorm as AdaGroupNorm
from .norms import GroupNorm as GroupNorm
from .norms import InstanceNorm as InstanceNorm
from .norms import LayerNorm as LayerNorm
from .norms import PerPoint as PerPoint
from .norms import RMSNorm as RMSNorm
from .norms import channel_norm as channel_norm
from .norms import group_norm as group_norm
from .norms import rms_normalise as rms_normalise
from .spectral_conv import AbstractMixing as AbstractMixing
from .spectral_conv import CPMixing as CPMixing
from .spectral_conv import DenseMixing as DenseMixing
from .spectral_conv import DiagonalMixing as DiagonalMixing
from .spectral_conv import SpectralConv as SpectralConv
from .spectral_conv import TuckerMixing as TuckerMixing
from .tensor_basis import AbstractAxis as AbstractAxis
from .tensor_basis import ChebyshevAxis as ChebyshevAxis
from .tensor_basis import FourierAxis as FourierAxis
from .tensor_basis import TensorBasis as TensorBasis
from .transforms import AbstractTransform as AbstractTransform
from .transforms import Cosine as Cosine
from .transforms import Fourier as Fourier
from .transforms import wavenumbers as wavenumbers
from .unet import ConvBlock as ConvBlock
from .unet import ResidualBlock as ResidualBlock
from .unet import UNet as UNet
