"""u-muP against the authors' package (recorded, float64), against derivatives, and at random
starts."""

import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from jaxsci.nn import unit_scaling as us

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "unit_scaling.npz")


def heads_last(fn):
    """The recorded attention has the axes (batch, heads, n, d)."""

    def wrapped(*inputs):
        return jnp.swapaxes(fn(*(jnp.swapaxes(a, -2, -3) for a in inputs)), -2, -3)

    return wrapped


OPERATIONS = {
    "gelu_free": lambda x: us.gelu(x, constraint=None),
    "gelu_tanh": lambda x: us.gelu(x, approximate=True),
    "silu_input": lambda x: us.silu(x, constraint="input"),
    "readout": lambda x, w, b: us.linear(x, w, b, constraint=None, power=1.0),
    "layer_norm": us.layer_norm,
    "rms_norm": us.rms_norm,
    "embedding": lambda w: us.embedding(jnp.asarray(DATA["embedding/index"]), w),
    "mse": us.mse,
    "residual": lambda x, w: us.residual(lambda y: jnp.tanh(y * w), 0.5)(x),
    "dropout_inference": lambda x: us.dropout(x, 0.3, key=None),
}
for name, constraint in (("to_output_scale", "output"), ("gmean", "gmean"), ("None", None)):
    OPERATIONS[f"matmul_{name}"] = functools.partial(us.matmul, constraint=constraint)
    OPERATIONS[f"linear_{name}"] = functools.partial(us.linear, constraint=constraint)
for mult in (0.25, 1.0, 3.0):
    OPERATIONS |= {
        f"gelu_{mult}": functools.partial(us.gelu, mult=mult),
        f"silu_{mult}": functools.partial(us.silu, mult=mult),
        f"silu_glu_{mult}": functools.partial(us.silu_glu, mult=mult),
        f"softmax_{mult}": functools.partial(us.softmax, mult=mult),
        f"softmax_free_{mult}": functools.partial(us.softmax, mult=mult, axis=0, constraint=None),
        f"cross_entropy_{mult}": functools.partial(
            us.cross_entropy, labels=jnp.asarray(DATA[f"cross_entropy_{mult}/labels"]), mult=mult
        ),
        f"attention_{mult}_False": heads_last(functools.partial(us.attention, mult=mult)),
        f"attention_{mult}_True": heads_last(
            functools.partial(us.attention, mult=mult, causal=True)
        ),
    }


def test_every_recorded_operation_is_compared():
    recorded = {key.split("/")[0] for key in DATA if key.endswith("/out")}
    assert recorded == set(OPERATIONS)


@pytest.fixture(scope="module")
def computed():
    """Output and gradients of every operation, from one program: compiling is what costs."""
    with jax.enable_x64(True):
        recorded = {
            key: jnp.asarray(DATA[key]) for key in DATA if "/in" in key or "/cotangent" in key
        }

        @jax.jit
        def everything(recorded):
            results = {}
            for name, fn in OPERATIONS.items():
                keys = [f"{name}/in{i}" for i in range(3) if f"{name}/in{i}" in recorded]
                out, pullback = jax.vjp(fn, *(recorded[key] for key in keys))
                results[name] = out, pullback(recorded[f"{name}/cotangent"])
            return results

        yield jax.device_get(everything(recorded))


@pytest.mark.parametrize("name", OPERATIONS)
def test_outputs_and_gradients_are_those_of_the_package(computed, name):
    out, gradients = computed[name]
    # Rounding of some ten operations in float64; JAX's attention takes its softmax in float32.
    rtol, atol = (1e-5, 3e-6) if name.startswith("attention") else (1e-12, 1e-13)
    np.testing.assert_allclose(out, DATA[f"{name}/out"], rtol=rtol, atol=atol)
    for i, gradient in enumerate(gradients):
        np.testing.assert_allclose(gradient, DATA[f"{name}/grad{i}"], rtol=rtol, atol=atol)


def test_taus(x64):
    np.testing.assert_allclose(us.residual_taus(4), DATA["taus_4_1.0_1.0"], rtol=1e-14)
    np.testing.assert_allclose(us.residual_taus(6, 0.5, 2.0), DATA["taus_6_0.5_2.0"], rtol=1e-14)
    swept = jax.vmap(lambda r: jnp.stack(us.residual_taus(4, r)))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(swept[1], DATA["taus_4_1.0_1.0"], rtol=1e-14)
    # What they are for: shares of the variance of embedding, attention and feed-forward branches.
    shares = np.array([1.0, 0.0, 0.0])
    for i, tau in enumerate(us.residual_taus(8, 0.7, 1.5)):
        shares[1 + i % 2] += tau**2 * shares.sum()
    ffn = 0.7**2 * 2 / (1 + 1.5**2)
    np.testing.assert_allclose(shares, [1, 1.5**2 * ffn, ffn], rtol=1e-12)


# --- the whole decoder ---------------------------------------------------------------------------

NAMES = {
    "embedding.weight": lambda m: m.embedding.weight,
    "projection.weight": lambda m: m.logits.weight,
}
for block in range(2):
    NAMES |= {
        f"layers.{block}.mhsa.linear_qkv.weight": lambda m, i=block: m.attention[i].qkv.weight,
        f"layers.{block}.mhsa.linear_o.weight": lambda m, i=block: m.attention[i].out.weight,
        f"layers.{block}.mlp.linear_1.weight": lambda m, i=block: m.mlp[i].up.weight,
        f"layers.{block}.mlp.linear_gate.weight": lambda m, i=block: m.mlp[i].gate.weight,
        f"layers.{block}.mlp.linear_2.weight": lambda m, i=block: m.mlp[i].down.weight,
    }


def recorded_decoder():
    model = us.Decoder(11, 8, 2, 2, rotary=False, key=jr.key(0))
    weights = [jnp.asarray(DATA[f"decoder/weight/{name}"]) for name in NAMES]
    return eqx.tree_at(lambda m: [where(m) for where in NAMES.values()], model, weights)


def decoder_loss(model):
    tokens = jnp.asarray(DATA["decoder/tokens"])
    logits = model(tokens)
    return us.cross_entropy(logits[:, :-1], tokens[:, 1:]), logits


def test_decoder_has_the_packages_logits_gradients_and_rates(x64):
    model = recorded_decoder()
    compute = eqx.filter_jit(eqx.filter_value_and_grad(decoder_loss, has_aux=True))
    (loss, logits), gradient = compute(model)
    rates = us.umup_learning_rates(model)
    # JAX's attention takes its softmax in float32: 6e-8 of values of size 1, over two blocks.
    np.testing.assert_allclose(logits, DATA["decoder/logits"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(loss, DATA["decoder/loss"], rtol=1e-6)
    for name, where in NAMES.items():
        expected = DATA[f"decoder/gradient/{name}"]
        np.testing.assert_allclose(where(gradient), expected, rtol=1e-6, atol=2e-6, err_msg=name)
        assert where(rates) == pytest.approx(float(DATA[f"decoder/rate/{name}"]), rel=1e-14)


def test_twenty_steps_of_the_packages_adamw(x64):
    model = recorded_decoder()
    tx = us.umup_adam(0.1, us.umup_learning_rates(model), weight_decay=2.0**-6)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def train(params):
        def body(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(lambda p: decoder_loss(eqx.combine(p, static))[0])(
                params
            )
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, _), losses = jax.lax.scan(body, (params, tx.init(params)), length=20)
        return params, losses

    params, losses = train(params)
    # Adam divides by |g|, which amplifies the float32 rounding of the softmax where g is small.
    np.testing.assert_allclose(losses, DATA["adamw/losses"], rtol=1e-6)
    for name, where in NAMES.items():
        if f"adamw/weight/{name}" in DATA:
            expected = DATA[f"adamw/weight/{name}"]
            np.testing.assert_allclose(where(params), expected, rtol=0, atol=2e-6)


# --- scales --------------------------------------------------------------------------------------


def test_scales_differ_forward_and_backward():
    x = jnp.array([1.0, 2.0])
    for fn, forward, backward in ((us.scale_fwd, 3, 1), (us.scale_bwd, 1, 3)):
        value, tangent = jax.jvp(lambda x, fn=fn: fn(x, 3.0), (x,), (x,))
        np.testing.assert_array_equal(value, forward * x)
        np.testing.assert_array_equal(tangent, backward * x)
        pullback = jax.vmap(jax.grad(lambda x, fn=fn: fn(x, 3.0) ** 2))(x)
        np.testing.assert_array_equal(pullback, 2 * forward * x * backward)
    assert us.scale_fwd(x.astype(jnp.bfloat16), 3.0).dtype == jnp.bfloat16
    # A factor may be traced, as in a sweep of multipliers, and has no derivative.
    swept = jax.vmap(lambda s: us.scale_fwd(x, s))(jnp.arange(3.0))
    np.testing.assert_array_equal(swept, np.arange(3)[:, None] * x)
    assert jax.grad(lambda s: us.scale_fwd(x, s).sum())(2.0) == 0


def test_constraints():
    assert us.constrained(None, 2.0, 8.0) == (2, 8)
    assert us.constrained("output", 2.0, 8.0, 4.0) == (2, 2, 2)
    assert us.constrained("input", 2.0, 8.0) == (8, 8)
    assert us.constrained("gmean", 2.0, 8.0) == pytest.approx((4, 4))


def test_an_activation_gets_the_moments_of_its_values_and_slopes(key):
    x = jr.normal(key, (100_000,))
    # 1e5 draws: moments to about 1/√1e5 = 0.3 %; the bound is some four times that.
    for fn in (jnp.tanh, jnp.sin, jax.nn.softplus):
        y, pullback = jax.vjp(us.elementwise(fn, None), x)
        assert float(y.std()) == pytest.approx(1, abs=0.012)
        assert float(jnp.sqrt(jnp.mean(pullback(jnp.ones_like(x))[0] ** 2))) == pytest.approx(
            1, abs=0.012
        )


def true_loss(model, tokens):
    """The function that the decoder computes, with its own derivative and no scales in it."""

    def linear(layer, x):
        return x @ layer.weight.T / layer.weight.shape[1] ** 0.5

    def norm(x):
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)

    x = model.embedding.weight[tokens]
    branches = [f for pair in zip(model.attention, model.mlp, strict=True) for f in pair]
    for branch, tau in zip(branches, model.taus, strict=True):
        y = norm(x)
        if isinstance(branch, us.SelfAttention):
            y = linear(branch.qkv, y).reshape(*y.shape[:2], 3, 2, 4)
            q, k, v = us.rotate(y[..., 0, :, :]), us.rotate(y[..., 1, :, :]), y[..., 2, :, :]
            logits = jnp.einsum("bihd,bjhd->bhij", q, k) / 4
            causal = jnp.tril(jnp.ones(logits.shape[-2:], bool))
            weights = jax.nn.softmax(jnp.where(causal, logits, -jnp.inf))
            y = jnp.einsum("bhij,bjhd->bihd", weights, v)
            # d = 4, α = 1, seven places.
            y = linear(branch.out, y.reshape(x.shape) * (np.log(7) / 7) ** (-0.5 * 16 / 17))
        else:
            gate = linear(branch.gate, y)
            y = linear(branch.down, linear(branch.up, y) * jax.nn.silu(gate) * 2**0.75)
        x = (tau * y + x) / (1 + tau**2) ** 0.5
    logits = norm(x) @ model.logits.weight.T / 8
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    return losses.mean()


def test_gradients_are_the_true_ones_up_to_a_factor_for_each_weight(x64):
    """What constraints and delayed factors are for: the scales do not bend the direction."""
    tokens = jnp.asarray(DATA["decoder/tokens"])
    model = us.Decoder(11, 8, 1, 2, key=jr.key(0))

    def scaled_loss(model):
        return us.cross_entropy(model(tokens)[:, :-1], tokens[:, 1:])

    compute = eqx.filter_jit(eqx.filter_value_and_grad(scaled_loss))
    value, scaled = compute(model)
    expected, true = eqx.filter_jit(eqx.filter_value_and_grad(true_loss))(model, tokens)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)  # softmax in float32
    for a, b in zip(jax.tree.leaves(scaled), jax.tree.leaves(true), strict=True):
        cosine = jnp.sum(a * b) / jnp.linalg.norm(a) / jnp.linalg.norm(b)
        # The angle is of the size of float32's rounding, its cosine 1 to twice as many digits.
        assert float(cosine) > 1 - 1e-9


@pytest.fixture(scope="module")
def start():
    """A wide decoder on independent tokens: sizes of tensors, weights and their gradients."""
    model = us.Decoder(64, 128, 1, 4, key=jr.key(1))
    tokens = jr.randint(jr.key(2), (8, 33), 0, 64)

    def loss(model, *tap):
        return us.cross_entropy(model(tokens[:, :-1], *tap), tokens[:, 1:])

    @eqx.filter_jit
    def measure(model):
        tensors = us.tensor_scales(lambda tap: loss(model, tap))
        return tensors, eqx.filter_grad(loss)(model)

    tensors, gradient = measure(model)
    return model, tensors, gradient


def test_everything_starts_with_size_one(start):
    model, tensors, gradient = start
    # Half and twice, as the paper's figures show; queries and keys of flat attention have small
    # gradients by the paper's choice of the factor (one for all three), and logits 1/√c.
    for name, (value, slope) in tensors.items():
        if name == "logits":
            assert float(value) == pytest.approx(128**-0.5, rel=0.1)
        else:
            assert 0.5 < value < 2, name
        if not name.endswith((".q", ".k")):
            assert 0.5 < slope < 2, name
    assert float(tensors["logits"][1]) == pytest.approx(1, rel=0.05)
    for path, weight in jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array)):
        assert float(jnp.std(weight)) == pytest.approx(1, rel=0.05), path
    for path, slope in jax.tree_util.tree_leaves_with_path(gradient):
        assert 0.4 < float(jnp.sqrt(jnp.mean(slope**2))) < 2.5, jax.tree_util.keystr(path)


def test_a_batch_that_vmap_hides_is_given_as_tokens(key):
    x, w = jr.normal(key, (6, 5)), jr.normal(jr.fold_in(key, 1), (3, 5))
    seen = jax.grad(lambda w: us.linear(x, w).sum())(w)
    hidden = jax.grad(lambda w: jax.vmap(lambda x: us.linear(x, w, tokens=6))(x).sum())(w)
    np.testing.assert_allclose(hidden, seen, rtol=1e-6)
    blind = jax.grad(lambda w: jax.vmap(lambda x: us.linear(x, w))(x).sum())(w)
    np.testing.assert_allclose(blind, 6**0.5 * seen, rtol=1e-6)


def test_attention_to_a_single_place_keeps_its_size(key):
    """The package's factor is infinite there: log 1 = 0 values are averaged in its model."""
    v = jr.normal(key, (1, 2, 4))
    np.testing.assert_allclose(us.attention(v, v, v, causal=True), v, rtol=1e-6)


def test_attention_masks_and_batches(key):
    q, k, v = jr.normal(key, (3, 2, 3, 5, 2, 4))
    causal = jnp.tril(jnp.ones((1, 5, 5), bool))

    @jax.jit
    def three(q, k, v):
        masked = us.attention(q, k, v, mask=causal)
        one = us.attention(q[1, 2], k[1, 2], v[1, 2], mask=causal)
        return masked, one, us.attention(q, k, v, causal=True)

    masked, one, direct = map(np.asarray, three(q, k, v))
    np.testing.assert_allclose(masked[1, 2], one, rtol=1e-5, atol=1e-6)
    ratio = direct / masked
    np.testing.assert_allclose(ratio, ratio.ravel()[0], rtol=1e-4)  # s alone knows of `causal`


def test_dropout_keeps_the_mean_square(key):
    x = jnp.ones(100_000)
    y = us.dropout(x, 0.36, key=key)
    assert set(np.unique(y).round(5)) == {0, 1.25}
    # Share of zeros to 1.5e-3, one standard deviation of a Bernoulli mean; four of them.
    assert float(jnp.mean(y**2)) == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(us.dropout(x, 0.0, key=key), x)


# --- parametrisations and rates ------------------------------------------------------------------


def test_umup_is_mup_under_another_name():
    """abc-symmetry: hidden and output weights train as muP's; the embedding's rate is new."""
    mup, umup = us.PARAMETRISATIONS["mup"], us.PARAMETRISATIONS["umup"]
    assert mup["hidden"].shifted(us.Power(fan_in=-0.5)) == umup["hidden"]
    assert mup["output"] == umup["output"]
    assert umup["embedding"].rate(1000, 64) == 0.125 and mup["embedding"].rate(1000, 64) == 1


def test_shifted_parametrisations_train_the_same_network(key):
    """(A, B, C) and (A θ, B/θ, C/θ) under Adam, and not under SGD."""
    x, y = jr.normal(key, (2, 32, 4))
    w0 = jr.normal(jr.fold_in(key, 1), (4, 4))

    def path(rule, optimiser):
        a, b, c = (factor(4, 4) for factor in rule)

        def body(carry, _):
            w, state = carry
            out = a * x @ w.T
            grads = jax.grad(lambda w: jnp.mean((jnp.tanh(a * x @ w.T) - y) ** 2))(w)
            updates, state = optimiser.update(grads, state)
            return (w + c * updates, state), out

        w = b * w0
        return jax.lax.scan(body, (w, optimiser.init(w)), length=10)[1]

    rule = us.PARAMETRISATIONS["sp"]["hidden"]
    other = rule.shifted(us.Power(fan_in=-0.5, fan_out=0.25))
    adam = optax.adam(0.1, eps=1e-30)
    # Rounding of float32 through ten steps.
    np.testing.assert_allclose(path(rule, adam), path(other, adam), rtol=1e-3, atol=1e-4)
    assert np.max(np.abs(path(rule, optax.sgd(1.0)) - path(other, optax.sgd(1.0)))) > 0.01


def test_rates_of_every_role(key):
    model = [
        us.Linear(4, 16, "input", use_bias=True, key=key),
        us.Linear(16, 64, depth=4, use_bias=True, key=key),
        us.Linear(16, 2, "output", key=key),
        us.Embedding(100, 16, key=key),
        us.LayerNorm(16, affine=True, depth=4),
        us.RMSNorm(16, affine=True),
        us.RMSNorm(16),
    ]
    rates = us.umup_learning_rates(model)
    assert jax.tree.leaves(rates) == [0.25, 1, 0.125, 0.5, 1, 0.25, 0.5, 0.5, 1]
    assert jax.tree.structure(rates) == jax.tree.structure(eqx.filter(model, eqx.is_inexact_array))
    mixed = {"scaled": us.RMSNorm(3, affine=True), "plain": jnp.ones(2), "static": 3}
    assert us.umup_learning_rates(mixed, others=0.5)["plain"] == 0.5
    with pytest.raises(ValueError, match=r"model\['plain'\].*no role"):
        us.umup_learning_rates(mixed)


def test_layers_scale_their_outputs(key):
    x = jr.normal(key, (1000, 16))
    for kind, size in (("input", 1), ("hidden", 1), ("output", 0.25)):
        layer = us.Linear(16, 200, kind, use_bias=True, key=jr.fold_in(key, 1))
        assert float(jnp.std(layer(x))) == pytest.approx(size, rel=0.1)
    normal = us.LayerNorm(16, affine=True)(3 * x + 2)
    np.testing.assert_allclose(normal.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(-1), 1, rtol=1e-3)
    half = us.Linear(16, 8, use_bias=True, key=key)(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_decay_does_not_know_of_rates_and_follows_its_schedule(key):
    model = {"w": us.Linear(4, 4, use_bias=True, key=key)}
    params = eqx.filter(model, eqx.is_inexact_array)
    rates = us.umup_learning_rates(model)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for decay in (0.25, optax.piecewise_constant_schedule(0.25, {1: 0.0}), jnp.asarray(0.25)):
        tx = us.umup_adam(123.0, rates, weight_decay=decay)
        state = tx.init(params)
        updates, state = tx.update(zeros, state, params)
        np.testing.assert_allclose(updates["w"].weight, -0.25 * params["w"].weight)
        updates, _ = tx.update(zeros, state, params)
        expected = 0.0 if callable(decay) else -0.25
        np.testing.assert_allclose(updates["w"].weight, expected * params["w"].weight)


def test_the_optimiser_is_like_others(key):
    """Extra arguments, one compilation, accumulation, injected rates, dtypes, vmap."""
    model = us.Linear(4, 3, use_bias=True, key=key)
    rates = us.umup_learning_rates(model)
    make = us.umup_adam
    injected = optax.inject_hyperparams(make, static_args=("rates",))(0.5, rates=rates)
    cases = [
        (make(0.5, rates), jnp.bfloat16),
        (optax.MultiSteps(make(0.5, rates), 1), jnp.bfloat16),
    ]
    # In bfloat16 optax would round the injected b2 to 1.
    for tx, dtype in [*cases, (injected, jnp.float32)]:
        params = jax.tree.map(lambda p, d=dtype: p.astype(d), eqx.filter(model, eqx.is_array))

        traced = []

        @jax.jit
        def step(params, state, tx=tx, traced=traced):
            traced.append(tx)
            updates, state = tx.update(params, state, params, value=1.0)
            return updates, optax.apply_updates(params, updates), state

        updates, new, state = step(params, jax.jit(tx.init)(params))
        step(new, state)
        assert len(traced) == 1
        assert updates.weight.dtype == new.weight.dtype == dtype
        # Adam's first step is the sign of the gradient; the weight's factor is 4^(-1/2).
        np.testing.assert_allclose(
            np.asarray(updates.weight, np.float32), -0.25 * np.sign(model.weight), rtol=0.01
        )


# --- 8 bits --------------------------------------------------------------------------------------


def test_quantise_rounds_and_saturates():
    x = jnp.array([0.3, 1.06, 1000.0, -1000.0, 1e-4])
    np.testing.assert_array_equal(
        us.quantise(x, jnp.float8_e4m3fn), jnp.array([0.3125, 1.0, 448.0, -448.0, 0.0])
    )
    np.testing.assert_allclose(
        us.quantise(x, jnp.float8_e5m2), [0.3125, 1.0, 1024.0, -1024.0, 2.0**-14 * 1.75], rtol=0.1
    )
    assert us.quantise(1e9 * x[:1], jnp.float8_e5m2) == 57344


@pytest.mark.parametrize("native", [False, True])
def test_eight_bit_products(key, native, monkeypatch):
    """Forward in E4M3 and backward in E5M2, by rounding first and by 8-bit products."""
    from jaxsci.nn.unit_scaling import float8

    monkeypatch.setattr(float8, "float8_supported", lambda: native)
    precision = "float8" if native else "float8-simulated"
    x, w, g = (
        jr.normal(jr.fold_in(key, i), s) for i, s in enumerate([(2, 3, 5), (4, 5), (2, 3, 4)])
    )
    y, pullback = jax.vjp(lambda x, w: us.float8_matmul(x, w, precision), x, w)
    of_x, of_w = pullback(g)
    x4, w4 = (np.asarray(a.astype(jnp.float8_e4m3fn), np.float64) for a in (x, w))
    g5 = np.asarray(g.astype(jnp.float8_e5m2), np.float64)
    # Sums of a few numbers of at most 4 bits, in float32.
    np.testing.assert_allclose(y, x4 @ w4.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_x, g5 @ w4, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_w, np.einsum("abo,abi->oi", g5, x4), rtol=1e-5, atol=1e-6)


def test_without_8_bit_products_there_is_a_warning(key):
    x, w = jr.normal(key, (2, 5)), jr.normal(key, (4, 5))
    if not us.float8_supported():
        with pytest.warns(UserWarning, match="no 8-bit products"):
            y = us.float8_matmul(x, w)
    else:
        y = us.float8_matmul(x, w)
    np.testing.assert_allclose(y, us.float8_matmul(x, w, "float8-simulated"), rtol=1e-4, atol=1e-5)
    layer = us.Linear(5, 4, precision="float8-simulated", key=key)
    rounded = us.float8_matmul(x, layer.weight, "float8-simulated")
    np.testing.assert_allclose(layer(x), 5**-0.5 * rounded, rtol=1e-6)


def test_what_is_refused(key):
    x, i = jnp.ones((2, 3)), jnp.zeros(2, int)
    for build, error, message in [
        (lambda: us.scale_fwd(i, 2.0), TypeError, "x: expected a floating"),
        (lambda: us.scale_bwd(i, 2.0), TypeError, "x: expected a floating"),
        (lambda: us.constrained("mean", 1.0, 1.0), ValueError, "constraint = 'mean'"),
        (lambda: us.elementwise(jnp.zeros_like), ValueError, "cannot be scaled"),
        (lambda: us.gelu(x, 0.0), ValueError, "mult = 0.0"),
        (lambda: us.silu(x, jnp.ones(())), TypeError, "mult = "),
        (lambda: us.silu_glu(x, x.T), ValueError, "gate: expected"),
        (lambda: us.softmax(x, -1.0), ValueError, "mult = -1"),
        (lambda: us.dropout(x, 1.0, key=None), ValueError, "p = 1"),
        (lambda: us.matmul(x, x), ValueError, "does not follow"),
        (lambda: us.linear(x, x.T), ValueError, "does not act"),
        (lambda: us.linear(x, x, tokens=0), ValueError, "tokens = 0"),
        (lambda: us.embedding(x, x), TypeError, "index: expected integers"),
        (lambda: us.attention(x, x, x), ValueError, "expected query"),
        (lambda: us.cross_entropy(x, jnp.zeros(3, int)), ValueError, "labels"),
        (lambda: us.cross_entropy(x, jnp.zeros(2)), TypeError, "labels: expected integers"),
        (lambda: us.cross_entropy(x[:, :1], i), ValueError, "two classes"),
        (lambda: us.cross_entropy(x, i, reduction="max"), ValueError, "reduction = 'max'"),
        (lambda: us.mse(x, x.T), ValueError, "target: expected shape"),
        (lambda: us.mse(x, x, reduction="max"), ValueError, "reduction = 'max'"),
        (lambda: us.residual(jnp.tanh, 0.0), ValueError, "tau = 0"),
        (lambda: us.residual_split(x, -1.0), ValueError, "tau = -1"),
        (lambda: us.residual_add(x, x, -1.0), ValueError, "tau = -1"),
        (lambda: us.residual_taus(0), ValueError, "n_branches = 0"),
        (lambda: us.residual_taus(3, attn_ratio=2.0), ValueError, "pairs"),
        (lambda: us.residual_taus(2, res=0.0), ValueError, "res = 0"),
        (lambda: us.depth_rate(0), ValueError, "depth = 0"),
        (lambda: us.Linear(0, 1, key=key), ValueError, "fan_in = 0"),
        (lambda: us.Linear(1, 1, "last", key=key), ValueError, "kind = 'last'"),
        (lambda: us.Linear(1, 1, constraint="x", key=key), ValueError, "constraint = 'x'"),
        (lambda: us.Linear(1, 1, precision="float4", key=key), ValueError, "precision = 'float4'"),
        (lambda: us.Embedding(1, 0, key=key), ValueError, "c = 0"),
        (lambda: us.LayerNorm(0), ValueError, "c = 0"),
        (lambda: us.RMSNorm(4)(x), ValueError, "x: expected 4"),
        (lambda: us.LayerNorm(4)(x), ValueError, "x: expected 4"),
        (lambda: us.umup_adam(1.0, {}, weight_decay=-1.0), ValueError, "weight_decay = -1"),
        (lambda: us.scale_by_rates({"a": 1.0}).update(x, None), ValueError, "updates: expected"),
        (lambda: us.quantise(i, jnp.float8_e5m2), TypeError, "x: expected a floating"),
        (lambda: us.quantise(x, jnp.int8), TypeError, "dtype: expected a floating"),
        (lambda: us.float8_matmul(x, x, "float4"), ValueError, "precision = 'float4'"),
        (lambda: us.SelfAttention(6, 4, key=key), ValueError, "heads = 4"),
        (lambda: us.rotate(jnp.ones((2, 1, 3))), ValueError, "even head size"),
        (lambda: us.Decoder(4, 4, 0, 1, key=key), ValueError, "blocks = 0"),
        (
            lambda: us.tensor_scales(lambda tap: (tap("a", x) + tap("a", x)).sum()),
            ValueError,
            "tap 'a' occurs twice",
        ),
    ]:
        with pytest.raises(error, match=message):
            build()
