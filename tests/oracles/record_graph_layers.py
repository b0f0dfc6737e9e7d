"""Records layers of PyTorch Geometric and integral transforms of neuraloperator, with weights.

    pip install torch neuraloperator==2.0.0 torch_geometric
    python tests/oracles/record_graph_layers.py

writes `data/graph_layers.npz`, versions inside.
"""

from pathlib import Path

import neuralop
import numpy as np
import torch
import torch_geometric
from neuralop.layers.integral_transform import IntegralTransform
from neuralop.layers.neighbor_search import native_neighbor_search
from torch_geometric.nn import GATv2Conv

DATA = Path(__file__).parent / "data"


def attention(arrays: dict[str, np.ndarray]) -> None:
    """A bipartite graph with edge features; two heads, side by side and averaged."""
    n_src, n_dst, n_edges = 6, 5, 14
    edges = torch.stack([torch.randint(n_src, (n_edges,)), torch.randint(n_dst - 1, (n_edges,))])
    src, dst, edge = torch.randn(n_src, 3), torch.randn(n_dst, 4), torch.randn(n_edges, 2)
    arrays |= {
        "gat/senders": edges[0].numpy(),
        "gat/receivers": edges[1].numpy(),
        "gat/src": src.numpy(),
        "gat/dst": dst.numpy(),
        "gat/edge": edge.numpy(),
    }
    for concat in (True, False):
        layer = GATv2Conv(
            (3, 4), 5, heads=2, edge_dim=2, concat=concat, add_self_loops=False, negative_slope=0.1
        )
        layer.bias.data += torch.randn_like(layer.bias)
        name = f"gat/{'concat' if concat else 'mean'}"
        with torch.no_grad():
            arrays[f"{name}/out"] = layer((src, dst), edges, edge).numpy()
        for key, value in layer.state_dict().items():
            arrays[f"{name}/state/{key}"] = value.numpy()


def integrals(arrays: dict[str, np.ndarray]) -> None:
    """All four kinds of kernel integral, over scattered points within a radius."""
    y, x, f, radius = torch.rand(20, 2), torch.rand(12, 2), torch.randn(20, 3), 0.35
    neighbours = native_neighbor_search(y, x, torch.tensor(radius))
    weights = torch.rand(20)
    arrays |= {
        "gno/y": y.numpy(),
        "gno/x": x.numpy(),
        "gno/f": f.numpy(),
        "gno/radius": np.array(radius),
        "gno/index": neighbours["neighbors_index"].numpy(),
        "gno/splits": neighbours["neighbors_row_splits"].numpy(),
        "gno/weights": weights.numpy(),
    }
    for kind in ("linear_kernelonly", "linear", "nonlinear_kernelonly", "nonlinear"):
        c_in = 4 + (3 if kind.startswith("nonlinear") else 0)
        for reduction in ("sum", "mean"):
            layer = IntegralTransform(
                channel_mlp_layers=[c_in, 8, 8, 3],
                transform_type=kind,
                reduction=reduction,
                use_torch_scatter=False,
            )
            name = f"gno/{kind}/{reduction}"
            with torch.no_grad():
                # With f, "linear_kernelonly" computes "linear"; both are recorded.
                arrays[f"{name}/out"] = layer(y, neighbours, x=x, f_y=f).numpy()
                if kind == "linear_kernelonly":
                    arrays[f"{name}/out_without_f"] = layer(y, neighbours, x=x).numpy()
            for key, value in layer.state_dict().items():
                arrays[f"{name}/state/{key}"] = value.numpy()
        # One weight a point, as its documentation says, is refused; one an edge is taken.
        with torch.no_grad():
            try:
                layer(y, neighbours, x=x, f_y=f[None], weights=weights)
                arrays[f"gno/{kind}/refused"] = np.array("")
            except RuntimeError as error:
                arrays[f"gno/{kind}/refused"] = np.array(str(error))
            by_edge = weights[neighbours["neighbors_index"]]
            if kind != "linear_kernelonly":
                out = layer(y, neighbours, x=x, f_y=f[None], weights=by_edge)
                arrays[f"gno/{kind}/weighted"] = out[0].numpy()


def main() -> None:
    torch.manual_seed(0)
    versions = [
        f"neuraloperator {neuralop.__version__}",
        f"torch_geometric {torch_geometric.__version__}",
        torch.__version__,
    ]
    arrays = {"versions": np.array(versions)}
    attention(arrays)
    integrals(arrays)
    np.savez_compressed(DATA / "graph_layers.npz", **arrays)


if __name__ == "__main__":
    main()
