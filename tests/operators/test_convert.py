"""`from_neuralop`: weights moved over from neuraloperator give neuraloperator's outputs."""

import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.nn import Fourier, SpectralConv
from jaxsci.operators import from_neuralop
from jaxsci.pde import read_torch_file

DATA = Path(__file__).parent.parent / "oracles" / "data"


@pytest.fixture(scope="module")
def recorded():
    with np.load(DATA / "neuralop_fno.npz") as file:
        return dict(file)


def case(recorded, name):
    prefix = f"{name}/state/"
    state = {k.removeprefix(prefix): v for k, v in recorded.items() if k.startswith(prefix)}
    n = sum(1 for k in recorded if re.fullmatch(rf"{name}/x\d", k))
    return state, [(recorded[f"{name}/x{i}"], recorded[f"{name}/y{i}"]) for i in range(n)]


@pytest.mark.parametrize(
    "name",
    ["1d", "2d", "2d_odd_modes", "2d_plain", "2d_identity", "2d_tucker", "2d_cp", "3d"],
)
def test_outputs_agree_with_neuralop(recorded, name):
    state, examples = case(recorded, name)
    model = eqx.filter_jit(from_neuralop(state))
    for x, y in examples:
        # Both compute in float32 with sums of some hundred terms: 1e-5 of the largest value.
        np.testing.assert_allclose(model(x), y, atol=1e-5 * np.abs(y).max(), rtol=0)


def test_the_meaning_of_modes(recorded):
    state, _ = case(recorded, "2d")
    # n_modes = (6, 4) keeps 6 wavenumbers on the first axis and 4/2 + 1 on the last.
    assert from_neuralop(state).modes == (3, 3)


def test_odd_axes_are_right_here_and_wrong_there(recorded):
    # All weights 1: the layer must return a function of few modes. neuraloperator 2.0.0 does so on
    # 12 × 13 points, not on 11 × 13; ours does on both (rounding of float32: 1e-6).
    layer = SpectralConv(Fourier((3, 3)), 1, 1, key=jax.random.key(0))
    ones = jnp.zeros_like(layer.mixing.weight).at[0].set(1)
    layer = eqx.tree_at(lambda m: m.mixing.weight, layer, ones)
    for n in (12, 11):
        x = recorded[f"identity/x{n}"]
        np.testing.assert_allclose(layer(x), x, atol=1e-6)
    np.testing.assert_allclose(recorded["identity/y12"], recorded["identity/x12"], atol=1e-6)
    assert np.abs(recorded["identity/y11"] - recorded["identity/x11"]).max() > 0.1


def test_a_checkpoint_is_read_without_pytorch(recorded):
    state = read_torch_file(DATA / "neuralop_state.pt")
    _, [(x, y)] = case(recorded, "2d_plain")
    np.testing.assert_allclose(from_neuralop(state)(x), y, atol=1e-5 * np.abs(y).max(), rtol=0)


def test_converted_model_trains(recorded):
    state, [(x, _), *_] = case(recorded, "2d")
    grads = eqx.filter_grad(lambda m: (m(x) ** 2).sum())(from_neuralop(state))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_bad_states(recorded):
    state, _ = case(recorded, "2d")
    with pytest.raises(ValueError, match=r"convs\.0"):
        from_neuralop({})
    with pytest.raises(ValueError, match=r"lifting\.fcs"):
        from_neuralop({k: v for k, v in state.items() if not k.startswith("lifting")})
    with pytest.raises(ValueError, match=r"not supported: fno_blocks\.norm\.0\.weight"):
        from_neuralop(state | {"fno_blocks.norm.0.weight": np.ones(4)})
    with pytest.raises(ValueError, match=r"expected a weight 'fno_blocks\.convs\.1\.bias'"):
        from_neuralop({k: v for k, v in state.items() if k != "fno_blocks.convs.1.bias"})
