"""Our networks in APEBench, beside its own: error of rollouts on its data, by its metric.

    python -m venv peer && peer/bin/pip install apebench==0.1.1
    peer/bin/pip install lineax diffrax optimistix flax orbax-checkpoint grain tyro interpax \\
        platformdirs scikit-fem scikit-image scikit-learn && peer/bin/pip install --no-deps -e .
    peer/bin/python scripts/bench/apebench_table.py [--steps 10000] [--seeds 1] [--scenario diff_ks]

(An environment of its own: apebench wants an older exponax than jaxsci.) Four of its default
scenarios in one dimension, 160 points, 50 trajectories of 50 steps, Adam with warm-up and cosine
decay, one-step training; its networks in the sizes of its paper, about 32 thousand weights, and
ours in the nearest. All are trained by APEBench's own trainer. The error is APEBench's mean
nRMSE, and of its first 100 steps the geometric mean over time; the median over seeds.
A line is `scenario, network, weights, error at step 1, geometric mean, seconds to train and test`;
lines are appended to `--out`, and what stands there is not run again.
"""

import argparse
import json
import time
from pathlib import Path

import apebench
import equinox as eqx
import jax
import numpy as np
from apebench.components import architecture_dict

from jaxsci.nn import UNet
from jaxsci.operators import FNO, MPPDE, MPPDEPoints
from jaxsci.pde import Grid

SCENARIOS = ("diff_adv", "diff_burgers", "diff_kdv", "diff_ks")
THEIRS = (
    "Conv;34;10;relu",
    "Res;26;8;relu",
    "UNet;12;2;relu",
    "Dil;2;32;2;relu",
    "FNO;12;18;4;gelu",
)
OURS = ("jaxsci-fno;12;18;4;gelu", "jaxsci-unet;12;2;relu", "jaxsci-mppde;32;4;swish")


def points_of(n: int) -> MPPDEPoints:
    return MPPDEPoints.of_grid(Grid(0.0, 1.0, n, periodic=True))


class OneStep(eqx.Module):
    """An MP-PDE solver of bundles of one frame as a map from frame to frame.

    The graph is made anew at the call: APEBench's trainer wants to train every array.
    """

    solver: MPPDE

    def __call__(self, u):
        solver = eqx.tree_at(
            lambda m: m.points, self.solver, points_of(u.shape[-1]), is_leaf=lambda x: x is None
        )
        return solver.predict(u[None])[0]


def fno(config, n_dims, n_points, channels, activation, key):
    modes, width, depth = map(int, config.split(";")[1:4])
    # pdequinox keeps the modes 0 … m − 1 too, and lifts and projects by single affine maps.
    return FNO(
        n_dims, channels, channels, width=width, modes=modes, depth=depth, lifting=None,
        projection=None, activation=activation, key=key,
    )  # fmt: skip


def unet(config, n_dims, n_points, channels, activation, key):
    width, levels = map(int, config.split(";")[1:3])
    widths = tuple(width * 2**level for level in range(levels + 1))
    return UNet(n_dims, channels, channels, widths=widths, padding="wrap", key=key)


def mppde(config, n_dims, n_points, channels, activation, key):
    hidden, layers = map(int, config.split(";")[1:3])
    # Time is counted in steps, so that the network's outputs are of order one.
    solver = MPPDE(
        points_of(n_points),
        time_window=1,
        dt=1.0,
        hidden=hidden,
        layers=layers,
        c=channels,
        key=key,
    )
    return OneStep(eqx.tree_at(lambda m: m.points, solver, None))


architecture_dict |= {"jaxsci-fno": fno, "jaxsci-unet": unet, "jaxsci-mppde": mppde}


def measure(name: str, network: str, steps: int, seeds: int) -> dict:
    scenario = apebench.scenarios.scenario_dict[name](
        optim_config=f"adam;{steps};warmup_cosine;0.0;1e-3;{steps // 5}",
        test_temporal_horizon=100,
    )
    begin = time.perf_counter()
    _, _, _, metrics, *_ = scenario.run_raw(network_config=network, num_seeds=seeds)
    errors = np.asarray(metrics["mean_nRMSE"])
    weights = scenario.get_network(network, jax.random.key(0))
    arrays = jax.tree.leaves(eqx.filter(weights, eqx.is_inexact_array))
    return dict(
        scenario=name, network=network, weights=sum(a.size for a in arrays), steps=steps,
        seeds=seeds, first=float(np.median(errors[:, 0])),
        mean=float(np.median(np.exp(np.mean(np.log(errors), axis=1)))),
        seconds=round(time.perf_counter() - begin, 1),
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000, help="updates; APEBench's are 10000")
    parser.add_argument("--seeds", type=int, default=1, help="networks, trained side by side")
    parser.add_argument("--scenario", nargs="+", default=SCENARIOS)
    parser.add_argument("--network", nargs="+", default=THEIRS + OURS)
    parser.add_argument("--out", type=Path, default=Path("apebench.jsonl"))
    args = parser.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(r["scenario"], r["network"]) for r in map(json.loads, lines)}
    for name in args.scenario:
        for network in args.network:
            if (name, network) in done:
                continue
            result = measure(name, network, args.steps, args.seeds)
            print(json.dumps(result), flush=True)
            with args.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
