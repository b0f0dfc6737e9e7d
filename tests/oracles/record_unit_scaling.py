"""Records outputs and gradients of the authors' package for u-muP, `unit-scaling`.

    python tests/oracles/record_unit_scaling.py

needs torch and unit-scaling 0.3.5; writes data/unit_scaling.npz. Everything runs in float64; the
package's RMSNorm would take its mean square in float32, which is replaced here. For each operation:
inputs `NAME/in0`, …, the cotangent `NAME/cotangent` of the output `NAME/out`, and the gradients
`NAME/grad0`, …. The decoder is recorded with its weights, gradients, learning-rate factors, and
losses and some weights after 20 steps of AdamW.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import unit_scaling as uu
import unit_scaling.functional as U
from unit_scaling.core.functional import transformer_residual_scaling_rule
from unit_scaling.optim import lr_scale_func_adam

DATA = {}
DRAW = np.random.default_rng(0)


def normal(*shape):
    return torch.tensor(DRAW.standard_normal(shape), requires_grad=True)


def record(name, fn, *inputs):
    out = fn(*inputs)
    cotangent = torch.tensor(DRAW.standard_normal(tuple(out.shape)))
    gradients = torch.autograd.grad(out, inputs, cotangent)
    for i, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        DATA[f"{name}/in{i}"], DATA[f"{name}/grad{i}"] = x.detach().numpy(), gradient.numpy()
    DATA[f"{name}/out"], DATA[f"{name}/cotangent"] = out.detach().numpy(), cotangent.numpy()


def rms(x, dims=None, keepdim=False, eps=0.0):
    """The package's function of this name without its cast to float32."""
    return (x.pow(2).mean(dims, keepdim=keepdim) + eps).sqrt()


U.rms = rms


def operations():
    for mult in (0.25, 1.0, 3.0):
        record(f"gelu_{mult}", lambda x, mult=mult: U.gelu(x, mult), normal(3, 5))
        record(f"silu_{mult}", lambda x, mult=mult: U.silu(x, mult), normal(3, 5))
        record(
            f"silu_glu_{mult}", lambda x, g, mult=mult: U.silu_glu(x, g, mult), normal(7), normal(7)
        )
        record(f"softmax_{mult}", lambda x, mult=mult: U.softmax(x, -1, mult=mult), normal(3, 5))
        record(
            f"softmax_free_{mult}",
            lambda x, mult=mult: U.softmax(x, 0, mult=mult, constraint=None),
            normal(3, 5),
        )
        for causal in (False, True):
            record(
                f"attention_{mult}_{causal}",
                lambda q, k, v, mult=mult, causal=causal: U.scaled_dot_product_attention(
                    q, k, v, is_causal=causal, mult=mult
                ),
                *(normal(2, 3, 6, 4) for _ in range(3)),
            )
        labels = torch.tensor(DRAW.integers(0, 5, 4))
        DATA[f"cross_entropy_{mult}/labels"] = labels.numpy()
        record(
            f"cross_entropy_{mult}",
            lambda x, mult=mult, labels=labels: U.cross_entropy(x, labels, mult=mult),
            normal(4, 5),
        )
    record("gelu_free", lambda x: U.gelu(x, constraint=None), normal(3, 5))
    record("gelu_tanh", lambda x: U.gelu(x, approximate="tanh"), normal(3, 5))
    record("silu_input", lambda x: U.silu(x, constraint="to_grad_input_scale"), normal(3, 5))
    for constraint in ("to_output_scale", "gmean", None):
        record(
            f"matmul_{constraint}",
            lambda a, b, constraint=constraint: U.matmul(a, b, constraint=constraint),
            normal(2, 3, 5),
            normal(2, 5, 7),
        )
        record(
            f"linear_{constraint}",
            lambda x, w, b, constraint=constraint: U.linear(x, w, b, constraint=constraint),
            normal(2, 3, 5),
            normal(7, 5),
            normal(7),
        )
    record("readout", U.linear_readout, normal(2, 3, 5), normal(7, 5), normal(7))
    record("layer_norm", lambda x, w, b: U.layer_norm(x, (5,), w, b), *LN())
    record("rms_norm", lambda x, w: U.rms_norm(x, (5,), w), *LN()[:2])
    index = torch.tensor(DRAW.integers(0, 6, (2, 4)))
    DATA["embedding/index"] = index.numpy()
    record("embedding", lambda w: U.embedding(index, w), normal(6, 3))
    record("mse", U.mse_loss, normal(3, 4), normal(3, 4))
    record(
        "residual",
        lambda x, w: U.residual_apply(lambda y: torch.tanh(y * w), x, tau=0.5),
        normal(3, 4),
        normal(4),
    )
    record("dropout_inference", lambda x: U.dropout(x, 0.3, training=False), normal(3, 4))


def LN():
    return normal(2, 3, 5), normal(5), normal(5)


def taus():
    for n, res, ratio in ((4, 1.0, 1.0), (6, 0.5, 2.0)):
        rule = transformer_residual_scaling_rule(res, ratio)
        DATA[f"taus_{n}_{res}_{ratio}"] = np.array([rule(i, n) for i in range(n)])


def decoder():
    """Two blocks of width 8 with two heads, 11 tokens; loss as in the package's own model."""
    torch.manual_seed(0)
    model = uu.TransformerDecoder(hidden_size=8, vocab_size=11, layers=2, heads=2).double()
    tokens = torch.tensor(DRAW.integers(0, 11, (3, 7)))
    DATA["decoder/tokens"] = tokens.numpy()

    def loss():
        logits = model(tokens)
        return logits, U.cross_entropy(logits[:, :-1].flatten(end_dim=-2), tokens[:, 1:].flatten())

    logits, value = loss()
    value.backward()
    DATA["decoder/logits"], DATA["decoder/loss"] = logits.detach().numpy(), value.item()
    for name, parameter in model.named_parameters():
        DATA[f"decoder/weight/{name}"] = parameter.detach().numpy().copy()
        DATA[f"decoder/gradient/{name}"] = parameter.grad.numpy().copy()
        DATA[f"decoder/rate/{name}"] = lr_scale_func_adam(parameter)

    optimiser, losses = uu.optim.AdamW(model.parameters(), lr=0.1, weight_decay=2**-6), []
    for _ in range(20):
        optimiser.zero_grad()
        value = loss()[1]
        value.backward()
        optimiser.step()
        losses.append(value.item())
    DATA["adamw/losses"] = np.array(losses)
    for name in ("embedding.weight", "layers.0.mlp.linear_2.weight", "projection.weight"):
        DATA[f"adamw/weight/{name}"] = model.get_parameter(name).detach().numpy().copy()


def main():
    operations()
    taus()
    decoder()
    DATA["versions"] = np.array([f"{n} {version(n)}" for n in ("torch", "unit-scaling")])
    np.savez_compressed(Path(__file__).parent / "data" / "unit_scaling.npz", **DATA)


if __name__ == "__main__":
    main()
