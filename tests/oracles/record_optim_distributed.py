"""Records steps of PyTorch's PowerSGD hook (DistributedDataParallel, two processes over gloo).

    python tests/oracles/record_optim_distributed.py

needs torch; writes data/optim_distributed.npz. float64. The gradient of worker w is
c (θ − t_w), with targets t_w that differ, written out in the test as well. The hook's random start
is replaced by fixed numbers, which are recorded.
"""

import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

WORLD, STEPS, PLAIN, RATE = 2, 24, 2, 0.3
SHAPES = {"first": (12, 10), "second": (12, 10), "kernel": (8, 3, 3, 3), "bias": (12,)}


def targets(worker):
    rng = np.random.default_rng(worker)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def curvature(shape):
    return np.linspace(0.2, 1.5, int(np.prod(shape))).reshape(shape)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, shape in SHAPES.items():
            self.register_parameter(name, torch.nn.Parameter(torch.ones(shape).double()))

    def forward(self, target):
        return sum(
            (torch.tensor(curvature(p.shape)) * (p - target[name]) ** 2).sum() / 2
            for name, p in self.named_parameters()
        )


def start(m, rank):
    return np.cos(np.arange(m * rank) ** 1.3).reshape(m, rank)


def worker(index, options, out):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29671")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=index, world_size=WORLD)
    model = DistributedDataParallel(Model())
    state = powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=PLAIN, **options)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    torch.randn = lambda k, m, r, **kw: torch.tensor(start(m, r)).expand(k, m, r)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    target = {name: torch.tensor(t) for name, t in targets(index).items()}
    points, errors = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(target).backward()
        optimizer.step()
        errors.append(state.error_dict[0].norm() if state.error_dict else 0.0)
        points.append(np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]))
    if index == 0:
        np.savez(out, points=points[1::2], errors=errors)
    dist.barrier()
    dist.destroy_process_group()


def main():
    folder = Path(__file__).parent / "data"
    data = {"versions": np.array([f"torch {torch.__version__}"])}
    cases = {
        "rank1": dict(matrix_approximation_rank=1),
        "rank3": dict(matrix_approximation_rank=3),
        "rank2_no_feedback": dict(
            matrix_approximation_rank=2, use_error_feedback=False, warm_start=True
        ),
    }
    for name, options in cases.items():
        out = str(folder / "part.npz")
        mp.spawn(worker, (dict(min_compression_rate=1, **options), out), nprocs=WORLD)
        part = np.load(out)
        data[name], data[f"{name}_errors"] = part["points"], part["errors"]
        os.remove(out)
    np.savez_compressed(folder / "optim_distributed.npz", **data)


if __name__ == "__main__":
    main()
