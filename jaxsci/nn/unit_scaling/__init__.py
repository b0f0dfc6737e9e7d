"""u-muP: networks whose tensors start with size one and whose learning rate fits every width.

Weights, activations and gradients have root mean square about 1 at the start, because operations
carry factors of their own, forward and backward (`scale_fwd`, `scale_bwd`); so 8-bit numbers need
no loss scaling (`float8_matmul`). The rates of the weights follow from their roles
(`umup_learning_rates`, `umup_adam`), so the best learning rate of a narrow network is that of a
wide one. `PARAMETRISATIONS` has the rules as data, with those of SP and muP.

    from jaxsci.nn import unit_scaling as us

    model = us.Decoder(vocabulary=96, c=64, blocks=2, heads=4, key=key)
    optimiser = us.umup_adam(1.0, us.umup_learning_rates(model))

Layers and functions take whole batches, with leading batch axes: the factor of a weight's gradient
depends on the number of vectors in the batch, which `vmap` would hide (see `tokens` of `Linear`).

Blake et al. 2024, arXiv:2407.17465.
"""

from .float8 import float8_matmul as float8_matmul
from .float8 import float8_supported as float8_supported
from .float8 import quantise as quantise
from .functions import attention as attention
from .functions import cross_entropy as cross_entropy
from .functions import dropout as dropout
from .functions import elementwise as elementwise
from .functions import embedding as embedding
from .functions import gelu as gelu
from .functions import layer_norm as layer_norm
from .functions import linear as linear
from .functions import matmul as matmul
from .functions import mse as mse
from .functions import rms_norm as rms_norm
from .functions import silu as silu
from .functions import silu_glu as silu_glu
from .functions import softmax as softmax
from .layers import AbstractScaledLayer as AbstractScaledLayer
from .layers import Embedding as Embedding
from .layers import LayerNorm as LayerNorm
from .layers import Linear as Linear
from .layers import RMSNorm as RMSNorm
from .optimiser import scale_by_rates as scale_by_rates
from .optimiser import umup_adam as umup_adam
from .optimiser import umup_learning_rates as umup_learning_rates
from .parametrisation import ABC as ABC
from .parametrisation import PARAMETRISATIONS as PARAMETRISATIONS
from .parametrisation import Power as Power
from .parametrisation import depth_rate as depth_rate
from .residual import residual as residual
from .residual import residual_add as residual_add
from .residual import residual_split as residual_split
from .residual import residual_taus as residual_taus
from .scales import constrained as constrained
from .scales import scale_bwd as scale_bwd
from .scales import scale_fwd as scale_fwd
from .transformer import Decoder as Decoder
from .transformer import GatedMLP as GatedMLP
from .transformer import SelfAttention as SelfAttention
from .transformer import rotate as rotate
from .transformer import tensor_scales as tensor_scales
