"""Writes the recorded solutions of PINNacle's coefficients that jump and of its driven flow, as
`record_pinnacle.py` does the others.

    pip install scikit-fem==12.0.2
    python tests/oracles/record_pinnacle_rest.py [NAME ...] --published DATA

DATA holds PINNacle's `ref/*.dat` as arrays, as the folder examples/PINNacle_data of
github.com/ITMO-NSS-team/torch_DE_solver (4693eea, MIT licence) does. The coefficients are
PINNacle's, and written too. Samples of its solutions, and ours there, go to
`tests/oracles/data/pinnacle.npz`. Each is solved on two grids, whose difference is printed:

- poisson_2d_ms: quadratic elements on squares.
- wave_2d_cg: differences of fourth order in place and time, on the pattern's grid refined.
- ns_2d_lt: Taylor-Hood elements, BDF2 with convection extrapolated. t = 0 is left out, for the
  pressure jumps there.
"""

import argparse
from pathlib import Path

import numpy as np
import scipy.interpolate
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from record_pinnacle import PUBLISHED, TARGET, merge, relative


def some(rows: int, n: int, seed: int = 0):
    return np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))


def poisson_squares(table, n, interfaces=True):
    """A function that probes −∇·(a ∇u) = f, or −Δu = f/a, with n elements on a square's side."""
    import skfem
    from skfem.helpers import dot, grad

    basis = skfem.Basis(
        skfem.MeshQuad.init_tensor(*[np.linspace(-10, 10, 5 * n + 1)] * 2), skfem.ElementQuad2()
    )

    def squares(w):
        scaled = (np.clip(w.x, -10 + 1e-9, 10 - 1e-9) + 10) / 4
        i, j = scaled.astype(int)
        a, constant, wave = table[:, i, j]
        return a, constant + wave * np.prod(np.sin(np.pi * (scaled % 1)), 0)

    def weight(w):
        return squares(w)[0] if interfaces else 1.0

    stiff = skfem.BilinearForm(lambda u, v, w: weight(w) * dot(grad(u), grad(v))).assemble(basis)
    edge = skfem.BilinearForm(lambda u, v, w: weight(w) * u * v).assemble(basis.boundary())
    load = skfem.LinearForm(
        lambda v, w: squares(w)[1] * v / (1 if interfaces else squares(w)[0])
    ).assemble(basis)
    u = spl.spsolve((stiff + edge).tocsc(), load)
    return lambda points: (basis.probes(points.T) @ u)[:, None]


def poisson(folder):
    a = np.load(folder / "poisson_a_coef.npy").astype(float)
    f = np.load(folder / "poisson_f_coef.npy").astype(float).reshape(5, 5, 2, 2)
    table = np.stack([a, f[..., 0, 0], f[..., 1, 1]])
    coarse, fine = poisson_squares(table, 24), poisson_squares(table, 48)
    points = np.random.default_rng(0).uniform(-10, 10, (4000, 2))
    data = np.load(folder / "poisson_manyarea.npy").astype(float)
    data = data[np.all(np.abs(data[:, :2]) < 10 - 1e-6, 1)]
    data = data[some(len(data), 300)]
    smooth = poisson_squares(table, 24, interfaces=False)(data[:, :2])
    ours = fine(data[:, :2])
    print(f"    PINNacle's against ours {relative(data[:, 2:], ours):.1e}")
    print(f"    −Δu = f/a against it {relative(smooth, ours):.2f}")
    merge(PUBLISHED, {"poisson_2d_ms": np.concatenate([data, ours, smooth], 1)})
    merge(TARGET, {"poisson_2d_ms_coefficients": table})
    return points, fine(points), coarse(points)


def waves(table, n, t1=5.0):
    """Frames at t = 0, 0.1, … of u_tt = c Δu on (n + 1)² points, by differences of fourth order in
    place, and u(t + h) − 2u + u(t − h) = h² Lu + h⁴/12 L²u with L = c Δ. 1/c, which is a density,
    is averaged around each point with the weight of a piecewise linear function."""
    side, h = np.linspace(-1, 1, n + 1, retstep=True)
    known = np.linspace(-1, 1, 256)
    x, y = np.meshgrid(side, side, indexing="ij")
    c = scipy.interpolate.RegularGridInterpolator((known, known), table)
    density, nodes = np.zeros_like(x), (np.arange(-8, 9) / 8)[np.abs(np.arange(-8, 9)) < 8]
    for a in nodes:
        for b in nodes:
            # Beyond a side is its mirror.
            inside = [
                np.where(np.abs(z) > 1, 2 * np.sign(z) - z, z) for z in (x + a * h, y + b * h)
            ]
            density += (1 - abs(a)) * (1 - abs(b)) / 64 / c(tuple(inside))
    c = 1 / (density * 12 * h**2)

    def speed_up(u):
        out = -60 * u
        for axis in (0, 1):
            # The slope on the sides is 0, so that they are mirrors.
            wide = np.moveaxis(np.pad(u, [(2, 2) if k == axis else (0, 0) for k in (0, 1)],
                                      "reflect"), axis, 0)  # fmt: skip
            second = 16 * (wide[1:-3] + wide[3:-1]) - wide[:-4] - wide[4:]
            out += np.moveaxis(second, 0, axis)
        return c * out

    per = int(np.ceil(0.1 / (0.6 * h / np.sqrt(12))))
    dt = 0.1 / per

    def force(u):
        first = speed_up(u)
        return dt**2 * first + dt**4 / 12 * speed_up(first)

    u = np.exp(-((x + 0.5) ** 2 + y**2) / 0.18)
    frames, before, now = [u], u, u + force(u) / 2
    for i in range(1, round(10 * t1) * per + 1):
        if i % per == 0:
            frames.append(now)
        before, now = now, 2 * now - before + force(now)
    return np.stack(frames)


def conservative_waves(table, n):
    """The same of u_tt = ∇·(c ∇u), by differences of second order."""
    side, h = np.linspace(-1, 1, n + 1, retstep=True)
    known = np.linspace(-1, 1, 256)
    c = scipy.interpolate.RegularGridInterpolator((known, known), table)
    middle = (side[1:] + side[:-1]) / 2
    across, along = (
        c(tuple(np.meshgrid(*places, indexing="ij"))) for places in ((middle, side), (side, middle))
    )

    def force(u):
        # No flux through the sides, whose cells are halves.
        gx, gy = across * np.diff(u, axis=0), along * np.diff(u, axis=1)
        gx = np.concatenate([-gx[:1], gx, -gx[-1:]])
        gy = np.concatenate([-gy[:, :1], gy, -gy[:, -1:]], 1)
        return (np.diff(gx, axis=0) + np.diff(gy, axis=1)) / h**2

    per = int(np.ceil(0.1 / (0.6 * h / np.sqrt(12))))
    dt = 0.1 / per
    x, y = np.meshgrid(side, side, indexing="ij")
    u = np.exp(-((x + 0.5) ** 2 + y**2) / 0.18)
    frames, before, now = [u], u, u + dt**2 / 2 * force(u)
    for i in range(1, 25 * per + 1):
        if i % per == 0:
            frames.append(now)
        before, now = now, 2 * now - before + dt**2 * force(now)
    return np.stack(frames)


def wave(folder):
    table = np.load(folder / "darcy_2d_coef_256.npy")[:, 2].reshape(256, 256).T.astype(float)
    coarse, fine = waves(table, 255), waves(table, 510)
    rng = np.random.default_rng(0)
    frame, i, j = np.repeat(np.arange(51), 80), *rng.integers(256, size=(2, 51 * 80))
    points = np.stack([-1 + 2 * i / 255, -1 + 2 * j / 255, frame / 10], 1)
    data = np.load(folder / "wave_darcy.npy").astype(float)
    chosen, times = some(len(data), 60), np.array([1, 2, 5, 10, 25])
    place = data[chosen, :2]
    theirs = data[chosen][:, 2 + 5 * times]
    both = []
    for frames in (fine, conservative_waves(table, 255)):
        side = np.linspace(-1, 1, frames.shape[1])
        splines = [scipy.interpolate.RectBivariateSpline(side, side, frames[k]) for k in times]
        both.append(np.stack([s(*place.T, grid=False) for s in splines], 1))
        print(f"    PINNacle's against ours {relative(theirs, both[-1]):.2f}")
    merge(PUBLISHED, {"wave_2d_cg": np.stack([theirs, *both])})
    merge(TARGET, {"wave_2d_cg_coefficient": table})
    return points, fine[frame, 2 * i, 2 * j][:, None], coarse[frame, i, j][:, None]


def samplers(basis):
    """Matrices from coefficients to the values, and the slopes if there are, at quadrature
    points."""
    rows = np.arange(basis.dx.size).reshape(basis.dx.shape)
    columns, parts = [], []
    for i in range(basis.Nbfun):
        f = basis.basis[i][0]
        columns.append(np.repeat(basis.element_dofs[i], rows.shape[1]))
        parts.append([np.broadcast_to(v, rows.shape).ravel() for v in (f.value, *f.grad)])
    index = np.tile(rows.ravel(), basis.Nbfun), np.concatenate(columns)
    size = basis.dx.size, basis.N
    return [sp.csr_matrix((np.concatenate(p), index), size) for p in zip(*parts, strict=True)]


def driven_flow(n, h, t1=5.0):
    """A function that probes (u, v, p) at t = 0.1, 0.2, …, on 2n by n squares in two triangles."""
    import skfem

    mesh = skfem.MeshTri.init_tensor(np.linspace(0, 2, 2 * n + 1), np.linspace(0, 1, n + 1))
    velocity = skfem.Basis(mesh, skfem.ElementTriP2(), intorder=5)
    pressure = velocity.with_element(skfem.ElementTriP1())
    value, dx, dy = samplers(velocity)
    weights, size, total = velocity.dx.ravel(), velocity.N, 2 * velocity.N + pressure.N
    area = sp.diags(weights)
    mass = value.T @ area @ value
    stiff = dx.T @ area @ dx + dy.T @ area @ dy
    bx, by = (-samplers(pressure)[0].T @ area @ d for d in (dx, dy))
    x, y = velocity.doflocs
    inlet, outlet = x < 1e-9, x > 2 - 1e-9
    wall = (y < 1e-9) | (y > 1 - 1e-9)
    known = np.concatenate([wall | inlet, wall | inlet | outlet, np.zeros(pressure.N, bool)])
    profile = np.where(inlet, np.sin(np.pi * y), 0)
    shape = value.T @ (weights * np.sin(np.pi * (value @ x)) * np.sin(np.pi * (value @ y)))

    def push(w, t):
        """The force less convection, in both directions."""
        u, v = w[:size], w[size : 2 * size]
        along_x, along_y = weights * (value @ u), weights * (value @ v)
        parts = [-value.T @ (along_x * (dx @ c) + along_y * (dy @ c)) for c in (u, v)]
        return np.concatenate([parts[0], parts[1] - np.sin(np.pi * t) * shape])

    def system(c):
        a = c / h * mass + stiff / 100
        k = sp.bmat([[a, None, bx.T], [None, a, by.T], [bx, by, None]], "csc")
        return spl.splu(k[~known][:, ~known].tocsc()), k[~known][:, known]

    def solve(parts, right, t):
        factor, rest = parts
        new = np.zeros(total)
        new[:size] = profile * sum(np.sin(k * np.pi * t) for k in (1, 3, 5))
        full = np.append(right, np.zeros(pressure.N))
        new[~known] = factor.solve(full[~known] - rest @ new[known])
        return new

    both = sp.block_diag([mass, mass]).tocsr()
    before = np.zeros(total)
    old_push = push(before, 0.0)
    now = solve(system(1.0), both @ before[: 2 * size] / h + old_push, h)
    parts, frames, per = system(1.5), [], round(0.1 / h)
    for i in range(1, round(t1 / h) + 1):
        if i % per == 0:
            frames.append(now)
        new_push = push(now, i * h)
        memory = both @ (2 * now - before / 2)[: 2 * size] / h
        before, now = now, solve(parts, memory + 2 * new_push - old_push, (i + 1) * h)
        old_push = new_push

    def probe(points):
        at, at_p = velocity.probes(points.T), pressure.probes(points.T)
        found = [[at @ f[:size], at @ f[size : 2 * size], at_p @ f[2 * size :]] for f in frames]
        return np.moveaxis(np.array(found), 1, 2)

    return probe


def flow(folder):
    coarse, fine = driven_flow(24, 0.0025), driven_flow(40, 0.00125)
    place = np.random.default_rng(0).uniform(size=(50, 80, 2)) * [2, 1]
    times = np.broadcast_to(np.arange(1, 51)[:, None, None] / 10, (50, 80, 1))
    points = np.concatenate([place, times], -1).reshape(-1, 3)
    index = np.arange(50)[:, None], np.arange(4000).reshape(50, 80)
    values, rough = (f(place.reshape(-1, 2))[index].reshape(-1, 3) for f in (fine, coarse))
    data = np.load(folder / "ns_long.npy").astype(float)
    data = data[np.all((data[:, :2] > 1e-6) & (data[:, :2] < [2 - 1e-6, 1 - 1e-6]), 1)]
    data = data[some(len(data), 40)[::2]]
    theirs = data[:, 5:].reshape(-1, 50, 3).transpose(1, 0, 2)
    ours = fine(data[:, :2])
    for i, name in enumerate("uvp"):
        print(f"    PINNacle's {name} against ours {relative(theirs[..., i], ours[..., i]):.2f}")
    merge(PUBLISHED, {"ns_2d_lt": np.stack([theirs, ours]), "ns_2d_lt_places": data[:, :2]})
    return points, values, rough


def bodies(folder):
    """What splines through PINNacle's solutions have at points of two problems that
    `record_pinnacle_more.py` solves."""
    kept = {}
    for name, file, dim in (("poisson_3d_cg", "poisson_3d", 3), ("heat_2d_cg", "heat_complex", 2)):
        with np.load(TARGET) as known:
            x, ours = known[f"{name}_x"].astype(float), known[f"{name}_values"].astype(float)
        data = np.load(folder / f"{file}.npy").astype(float)
        chosen = some(len(x), 600)
        x, ours = x[chosen], ours[chosen, 0]
        frames = np.rint(10 * x[:, 2]).astype(int) if dim == 2 else np.zeros(len(x), int)
        theirs = np.zeros(len(x))
        for i in np.unique(frames):
            now = frames == i
            spline = scipy.interpolate.RBFInterpolator(
                data[:, :dim], data[:, dim + i], neighbors=50, kernel="cubic"
            )
            theirs[now] = spline(x[now, :dim])
        print(f"{name}: PINNacle's against ours {relative(theirs[:, None], ours[:, None]):.1e}")
        kept[name] = np.column_stack([chosen, theirs])
        if dim == 3:
            small = np.array([[0.2, 0.8, 0.7], [0.6, 0.2, 0.3]])
            apart = np.linalg.norm(data[:, None, :3] - small, axis=2).min(1)
            kept["poisson_3d_cg_nodes_in_small_balls"] = data[apart < 0.08, :3]
    merge(PUBLISHED, kept)


SOLVERS = {"poisson_2d_ms": poisson, "wave_2d_cg": wave, "ns_2d_lt": flow}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*SOLVERS, "bodies"])
    parser.add_argument("--published", type=Path, required=True)
    options = parser.parse_args()
    for name in options.names:
        if name == "bodies":
            bodies(options.published)
            continue
        points, values, rough = SOLVERS[name](options.published)
        print(f"{name}: {len(points)} points, coarse against fine {relative(rough, values):.1e}")
        for i in range(values.shape[1]):
            part = relative(rough[:, i : i + 1], values[:, i : i + 1])
            print(f"    component {i}: {part:.1e}", flush=True)
        merge(TARGET, {f"{name}_x": points, f"{name}_values": values})
