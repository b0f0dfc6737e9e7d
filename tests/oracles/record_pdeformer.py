"""Records graphs and outputs of PDEformer-1's published code (MindSpore) with random weights.

    python tests/oracles/record_pdeformer.py path/to/mindscience/MindFlow/applications/pdeformer1d

needs mindspore 2.10 and omegaconf; writes data/pdeformer.npz. The code is that of the MindSpore
mirror of July 2025 (`mindspore-ai/mindscience`). Its package initialisers import more than is
used here and may be emptied.
"""

import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from omegaconf import OmegaConf

ROOT = Path(sys.argv[1])
sys.path.insert(0, str(ROOT))
from src.cell.pdeformer.pdeformer import PDEformer  # noqa: E402
from src.data.pde_dag import DAG_NODE_TYPES, PDENodesCollector  # noqa: E402

SMALL = OmegaConf.create(
    {
        "model": {
            "graphormer": {
                "num_node_type": 128,
                "num_in_degree": 32,
                "num_out_degree": 32,
                "num_spatial": 5,
                "num_encoder_layers": 2,
                "embed_dim": 8,
                "ffn_embed_dim": 6,
                "num_heads": 2,
                "pre_layernorm": True,
            },
            "scalar_encoder": {"dim_hidden": 5, "num_layers": 3},
            "function_encoder": {
                "type": "weighted_deepset",
                "deepset_point_fn": "poly_inr",
                "num_branches": 2,
                "dim_hidden": 4,
                "num_layers": 6,
            },
            "inr": {
                "type": "poly_inr",
                "num_layers": 4,
                "dim_hidden": 7,
                "dim_in": 2,
                "dim_out": 1,
                "poly_inr": {"enable_affine": False, "enable_shift": True, "enable_scale": True},
            },
            "hypernet": {"hyper_dim_hidden": 5, "hyper_num_layers": 3, "share_hypernet": False},
        },
        "data": {
            "pde_dag": {
                "max_n_scalar_nodes": 22,
                "max_n_function_nodes": 3,
                "disconn_attn_bias": "-inf",
            }
        },
    }
)
ARRAYS = ("node_type", "node_scalar", "node_function", "in_degree", "out_degree")


def burgers(x):
    """u_t + (u²/2 − 0.1 u_x)_x + s(x) = 0: the example of the code's documentation and a source."""
    pde = PDENodesCollector()
    u = pde.new_uf()
    pde.set_ic(u, x, np.sin(np.pi * x))
    flux = pde.sum(pde.new_coef(0.5) * pde.square(u), -(pde.new_coef(0.1) * pde.dx(u)))
    pde.sum_eq0(pde.dt(u), pde.dx(flux), pde.new_coef_field(x, np.cos(2 * np.pi * x)))
    return pde


def chain(x):
    """Fifteen derivatives one after another: a path longer than the table."""
    pde = PDENodesCollector()
    u = pde.new_uf()
    pde.set_ic(u, x, np.sin(np.pi * x))
    term = u
    for _ in range(8):
        term = pde.dx(term)
    pde.sum_eq0(pde.dt(u), term)
    return pde


def main():
    ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
    ms.set_seed(0)
    rng = np.random.default_rng(0)
    saved = {"kinds": np.array(DAG_NODE_TYPES)}
    x = np.linspace(-1, 1, 16, endpoint=False)
    for name, make in (("burgers", burgers), ("chain", chain)):
        dag = make(x).gen_dag(SMALL)
        for field in (*ARRAYS, "attn_bias", "spatial_pos"):
            saved[f"{name}_{field}"] = getattr(dag, field)
        saved[f"{name}_names"] = np.array(list(dag._dag.nodes))
    model = PDEformer(SMALL.model, compute_dtype=ms.float32)
    for parameter in model.get_parameters():
        value = rng.normal(size=parameter.shape).astype(np.float32) * 0.5
        parameter.set_data(ms.Tensor(value))
        saved[f"weight_{parameter.name}"] = value
    model.set_train(False)
    dag = burgers(x).gen_dag(SMALL)
    points = rng.uniform(-1, 1, (1, 9, 2)).astype(np.float32)
    inputs = [ms.Tensor(getattr(dag, a)[None]) for a in (*ARRAYS, "attn_bias", "spatial_pos")]
    saved["points"] = points[0]
    saved["codes"] = model.pde_encoder(*inputs).asnumpy()[:3, 0]
    saved["out"] = model(*inputs, ms.Tensor(points)).asnumpy()[0, :, 0]
    for size in ("S", "M", "L", "XL"):
        config = OmegaConf.load(ROOT / "configs" / "pretrain" / f"pdeformer-{size}.yaml")
        large = PDEformer(config.model, compute_dtype=ms.float32)
        saved[f"parameters_{size}"] = sum(int(np.prod(p.shape)) for p in large.get_parameters())
    np.savez_compressed(Path(__file__).parent / "data" / "pdeformer.npz", **saved)


if __name__ == "__main__":
    main()
