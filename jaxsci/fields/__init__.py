"""Implicit neural representations: functions of space with weights.

An image as a network, in ten lines:

```python
import jax, jax.numpy as jnp, optax
from jaxsci.fields import Wire, fit_field, image_coordinates, psnr

x = image_coordinates(32, 32)
image = jnp.sin(8 * x[:, 0]) * (x[:, 1] > 0)
field = Wire(2, "scalar", width=32, key=jax.random.key(0))
fitted = jax.jit(lambda y: fit_field(field, x, y, optax.adam(5e-3), steps=300).losses)(image)
```

- `Siren` (sines), `Wire` (complex or real wavelets), `GaussNet`, `FourierField` (random Fourier
  features), `HashGrid` (multiresolution tables; `HashEncoding` alone), `NeuRBF` (radial bases
  placed by `init_kernels`): all act on one point.
- `ProgressiveField`: complex wavelets and polynomials, of a spectrum in a half-space.
- `SplitField`: a low-pass and a band-pass part; `init_at_singularities`: first-layer wavelets on
  edges; `edge_points` finds these.
- `ModulatedSiren`, `CodedField`: a family of functions, each of them a code; `PolyINR`, whose
  layers multiply by the coordinates and can be scaled and shifted.
- `INSRStepper`: the weights as the state of a PDE's time stepper (`ImplicitMidpointAdvection`,
  `SemiLagrangianAdvection`, `SemiLagrangianFluid`, or a scheme of one's own).
- `fit_field`, `fit_many` (thousands of small fields at once), `field_at`, `weights_matrix`.
- `AVRField`, `render`: impulse responses of rooms by volume rendering of sound; `image_source`
  makes them, `decay_time`, `clarity`, `envelope`, `arrival`, `impulse_losses` compare them.
- `image_coordinates`, `photograph`, `psnr`.
"""

from .acoustic import AVRField as AVRField
from .acoustic import alpha_composite as alpha_composite
from .acoustic import arrival as arrival
from .acoustic import clarity as clarity
from .acoustic import decay_time as decay_time
from .acoustic import energy_decay as energy_decay
from .acoustic import envelope as envelope
from .acoustic import image_source as image_source
from .acoustic import impulse_losses as impulse_losses
from .acoustic import ray_directions as ray_directions
from .acoustic import render as render
from .acoustic import stft as stft
from .fitting import Fitted as Fitted
from .fitting import field_at as field_at
from .fitting import fit_field as fit_field
from .fitting import fit_many as fit_many
from .fitting import image_coordinates as image_coordinates
from .fitting import psnr as psnr
from .fitting import weights_matrix as weights_matrix
from .hashgrid import HashEncoding as HashEncoding
from .hashgrid import HashGrid as HashGrid
from .images import photograph as photograph
from .insr import AbstractScheme as AbstractScheme
from .insr import ImplicitMidpointAdvection as ImplicitMidpointAdvection
from .insr import INSRState as INSRState
from .insr import INSRStepper as INSRStepper
from .insr import SemiLagrangianAdvection as SemiLagrangianAdvection
from .insr import SemiLagrangianFluid as SemiLagrangianFluid
from .insr import Stage as Stage
from .modulated import CodedField as CodedField
from .modulated import ModulatedSiren as ModulatedSiren
from .networks import FourierField as FourierField
from .networks import GaussNet as GaussNet
from .networks import Siren as Siren
from .networks import Wire as Wire
from .poly_inr import PolyINR as PolyINR
from .progressive import ProgressiveField as ProgressiveField
from .rbf import Kernels as Kernels
from .rbf import Located as Located
from .rbf import NeuRBF as NeuRBF
from .rbf import init_kernels as init_kernels
from .split import SplitField as SplitField
from .split import edge_points as edge_points
from .split import init_at_singularities as init_at_singularities
