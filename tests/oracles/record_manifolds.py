"""Records what geoopt computes on manifolds, and the steps of its optimisers.

    python tests/oracles/record_manifolds.py

needs torch and geoopt; writes data/manifolds.npz. float64 on one thread. The gradients of the
trajectories are written out in NumPy below and in the tests, so that both sides see the same ones.
"""

from importlib.metadata import version
from pathlib import Path

import geoopt
import numpy as np
import torch

CURVATURE = 0.7
STEPS = 40


def ball_points(rng, n, d, low, high):
    """Points of the ball of curvature −0.7, with hyperbolic distances to 0 from low to high."""
    x = rng.normal(size=(n, d))
    radius = np.tanh(np.sqrt(CURVATURE) * np.linspace(low, high, n) / 2) / np.sqrt(CURVATURE)
    return x / np.linalg.norm(x, axis=1, keepdims=True) * radius[:, None]


def lorentz_points(x):
    """The same points on the hyperboloid, in geoopt's radius: ⟨x, x⟩ = −1/0.7."""
    gap = 1 - CURVATURE * np.sum(x**2, 1, keepdims=True)
    return np.concatenate([(2 - gap) / np.sqrt(CURVATURE), 2 * x], 1) / gap


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def maps(name, manifold, x, y, v, u, g):
    """All maps at points x, y with tangent vectors v, u at x and Euclidean gradients g."""
    x, y, v, u, g = (torch.tensor(a) for a in (x, y, v, u, g))
    out = {
        "x": x,
        "y": y,
        "v": v,
        "u": u,
        "g": g,
        "exp": manifold.expmap(x, v),
        "log": manifold.logmap(x, y),
        "dist": manifold.dist(x, y),
        # Without keepdim its inner product in the ball multiplies every point with every other.
        "inner": manifold.inner(x, u, v, keepdim=True)[..., 0],
        "rgrad": manifold.egrad2rgrad(x, g.clone()),
    }
    if not name.startswith("sphere"):  # its transport is a projection, not the parallel one
        out["transport"] = manifold.transp(x, y, v)
    return {f"{name}_{key}": value.detach().numpy() for key, value in out.items()}


def quadratic(x, target):
    """Gradient of Σ cᵢ (xᵢ − aᵢ)²/2 with a ripple; cᵢ from 0.3 to 3."""
    c = np.geomspace(0.3, 3, x.size).reshape(x.shape)
    return c * (x - target) + 0.2 * np.sin(5 * x)


def trajectory(manifold, start, target, make):
    w = geoopt.ManifoldParameter(torch.tensor(start), manifold=manifold)
    optimizer = make([w])
    points = []
    for _ in range(STEPS):
        w.grad = torch.tensor(quadratic(w.detach().numpy(), target))
        optimizer.step()
        points.append(w.detach().numpy().copy())
    return np.array(points)


def sparse_trajectory(manifold, start, target, make, mask):
    """The same with gradients that hold only the rows of the mask."""
    w = geoopt.ManifoldParameter(torch.tensor(start), manifold=manifold)
    optimizer = make([w])
    points = []
    for rows in mask:
        gradient = torch.tensor(quadratic(w.detach().numpy(), target))
        index = torch.tensor(np.flatnonzero(rows))
        w.grad = torch.sparse_coo_tensor(
            index[None], gradient[index], w.shape, check_invariants=True
        )
        optimizer.step()
        points.append(w.detach().numpy().copy())
    return np.array(points)


def main():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    ball = geoopt.PoincareBallExact(c=CURVATURE)
    sphere = geoopt.SphereExact()
    lorentz = geoopt.manifolds.Lorentz(k=1 / CURVATURE)

    x, y = ball_points(rng, 12, 3, 0.1, 6), ball_points(rng, 12, 3, 5, 0.2)
    v, u, g = (rng.normal(size=x.shape) for _ in range(3))
    gap = 1 - CURVATURE * np.sum(x**2, 1, keepdims=True)
    v, u = v * gap, u * gap  # vectors of a length that does not depend on the point
    data = maps("ball", ball, x, y, v, u, g)

    x, y = lorentz_points(x), lorentz_points(y)
    v, u, g = (rng.normal(size=x.shape) for _ in range(3))
    v, u = (lorentz.proju(torch.tensor(x), torch.tensor(a)).numpy() for a in (v, u))
    length = np.sqrt(lorentz.inner(torch.tensor(x), torch.tensor(v), keepdim=True).numpy())
    data |= maps("lorentz", lorentz, x, y, v / length, u, g)

    x, y, v, u, g = (rng.normal(size=(12, 4)) for _ in range(5))
    x, y = unit(x), unit(y)
    v, u = (a - np.sum(x * a, 1, keepdims=True) * x for a in (v, u))
    data |= maps("sphere", sphere, x, y, v, u, g)

    start, target = ball_points(rng, 5, 3, 0.1, 3), ball_points(rng, 5, 3, 2, 0.5)
    s_start, s_target = unit(rng.normal(size=(5, 4))), unit(rng.normal(size=(5, 4)))
    adam = dict(lr=0.05, betas=(0.9, 0.99))
    mask = rng.random((STEPS, 5)) < 0.5

    def radam(**options):
        return lambda p: geoopt.optim.RiemannianAdam(p, **adam, **options)

    def rsgd(lr=0.1, **options):
        return lambda p: geoopt.optim.RiemannianSGD(p, lr=lr, **options)

    data |= {
        "start": start,
        "target": target,
        "sphere_start": s_start,
        "sphere_target": s_target,
        "mask": mask,
        "ball_adam": trajectory(ball, start, target, radam()),
        "ball_adam_retract": trajectory(geoopt.PoincareBall(c=CURVATURE), start, target, radam()),
        "ball_amsgrad": trajectory(ball, start, target, radam(amsgrad=True)),
        "ball_sparse_adam": sparse_trajectory(
            ball, start, target, lambda p: geoopt.optim.SparseRiemannianAdam(p, **adam), mask
        ),
        "euclidean_adam": trajectory(geoopt.Euclidean(1), start, target, radam()),
        "sphere_sgd": trajectory(sphere, s_start, s_target, rsgd()),
        "ball_sgd": trajectory(ball, start, target, rsgd()),
        "ball_momentum": trajectory(ball, start, target, rsgd(0.02, momentum=0.9)),
        "ball_nesterov": trajectory(ball, start, target, rsgd(0.02, momentum=0.9, nesterov=True)),
        "versions": np.array([f"{name} {version(name)}" for name in ("torch", "geoopt")]),
    }
    np.savez_compressed(Path(__file__).parent / "data" / "manifolds.npz", **data)


if __name__ == "__main__":
    main()
