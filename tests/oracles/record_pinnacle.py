"""Writes the recorded solutions of `jaxsci.pde.benchmarks.pinnacle`, and PINNacle's beside them.

    pip install scikit-fem==12.0.2 gmsh==4.15.2 meshio
    python tests/oracles/record_pinnacle.py [NAME ...] [--published CLONE]

Each solution is computed on two grids; the difference is printed. `jaxsci/pde/benchmarks/pinnacle/
references.npz` holds the finer one. With a clone of github.com/i207M/PINNacle (6f8d69c, MIT
licence), 300 points of its COMSOL solutions, and ours there, go to
`tests/oracles/data/pinnacle.npz`.

- Poisson: triangles with six nodes and curved sides (gmsh), quadratic elements; points are nodes.
- Navier-Stokes: Taylor-Hood elements on a triangulated grid, Newton's method.
- heat_2d_vc: Chebyshev collocation, Crank-Nicolson. burgers_2d: Fourier, fourth order in time.
"""

import argparse
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.linalg

from jaxsci.pde.benchmarks.pinnacle.evolution import burgers_2d_coefficients, heat_modes

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "jaxsci/pde/benchmarks/pinnacle/references.npz"
PUBLISHED = ROOT / "tests/oracles/data/pinnacle.npz"


def holed_square(half: float, circles, size: float):
    """A square without discs, in triangles with six nodes."""
    import gmsh
    import meshio
    from skfem.io.meshio import from_meshio

    gmsh.initialize()
    gmsh.option.setNumber("General.Verbosity", 1)
    occ = gmsh.model.occ
    square = occ.addRectangle(-half, -half, 0, 2 * half, 2 * half)
    discs = [(2, occ.addDisk(a, b, 0, r, r)) for a, b, r in circles]
    occ.cut([(2, square)], discs)
    occ.synchronize()
    gmsh.option.setNumber("Mesh.MeshSizeMin", size)
    gmsh.option.setNumber("Mesh.MeshSizeMax", size)
    gmsh.model.mesh.generate(2)
    gmsh.model.mesh.setOrder(2)
    tags, coordinates, _ = gmsh.model.mesh.getNodes()
    kinds, _, nodes = gmsh.model.mesh.getElements(2)
    gmsh.finalize()
    assert list(kinds) == [9]
    order = np.zeros(int(tags.max()) + 1, int)
    order[tags.astype(int)] = np.arange(len(tags))
    cells = order[nodes[0].astype(int)].reshape(-1, 6)
    points = coordinates.reshape(-1, 3)[:, :2]
    return from_meshio(meshio.Mesh(points, [("triangle6", cells)]))


def solve_poisson(half, circles, outer, inner, reaction, source, size):
    """−Δu + reaction u = source, as (basis, u)."""
    import skfem
    from skfem.helpers import dot, grad

    mesh = holed_square(half, circles, size)
    basis = skfem.Basis(mesh, skfem.ElementTriP2(), intorder=6)
    form = skfem.BilinearForm(lambda u, v, w: dot(grad(u), grad(v)) + reaction * u * v)
    load = skfem.LinearForm(lambda v, w: source(w.x[0], w.x[1]) * v)
    u = basis.zeros()
    x = basis.doflocs
    boundary = basis.get_dofs().flatten()
    on_square = np.max(np.abs(x[:, boundary]), 0) > half - 1e-9
    u[boundary] = np.where(on_square, outer, inner)
    matrix, right = form.assemble(basis), load.assemble(basis)
    return basis, skfem.solve(*skfem.condense(matrix, right, x=u, D=boundary))


def poisson(name):
    if name == "poisson_2d_c":
        circles = [(a, b, 0.1) for a in (0.3, -0.3) for b in (0.3, -0.3)]
        problem, sizes = (0.5, circles, 1.0, 0.0, 0.0, lambda x, y: 0 * x), (0.01, 0.005)
    else:

        def source(x, y):
            return 10 * (17 + x**2 + y**2) * np.sin(np.pi * x) * np.sin(4 * np.pi * y)

        circles = [(0.5, 0.5, 0.2), (0.4, -0.4, 0.4), (-0.2, -0.7, 0.1), (-0.6, 0.5, 0.3)]
        problem, sizes = (1.0, circles, 0.2, 1.0, 64.0, source), (0.02, 0.01)
    (coarse, u_coarse), (fine, u_fine) = (solve_poisson(*problem, size) for size in sizes)
    chosen = np.sort(np.random.default_rng(0).choice(len(u_fine), 4000, replace=False))
    points, values = fine.doflocs[:, chosen].T, u_fine[chosen][:, None]

    def probe(x, basis=fine, u=u_fine):
        """At points inside straight triangles, NaN near circles, where sides are curved."""
        import skfem

        straight = skfem.Basis(skfem.MeshTri1.from_mesh(basis.mesh), skfem.ElementTriP2())
        away = np.all([np.hypot(*(x - c[:2]).T) > c[2] + 0.02 for c in np.array(circles)], 0)
        found = np.full((len(x), 1), np.nan)
        found[away, 0] = straight.probes(x[away].T) @ u
        return found

    return points, values, probe(points, coarse, u_coarse), probe


def newton(nu):
    """The forms of a Newton step for (w·∇)w − ν Δw, around w["old"]."""
    import skfem
    from skfem.helpers import ddot, dot, grad

    @skfem.BilinearForm
    def linearised(u, v, w):
        old = w["old"]
        convection = np.einsum("j...,ij...->i...", old, u.grad)
        convection = convection + np.einsum("j...,ij...->i...", u, old.grad)
        return nu * ddot(grad(u), grad(v)) + dot(convection, v)

    @skfem.LinearForm
    def known(v, w):
        old = w["old"]
        return dot(np.einsum("j...,ij...->i...", old, old.grad), v)

    return linearised, known


def navier_stokes(name):
    import skfem
    from skfem.helpers import div

    def solve(n):
        mesh = skfem.MeshTri.init_tensor(*[np.linspace(0, 1, n + 1)] * 2)
        velocity = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP2()), intorder=5)
        pressure = velocity.with_element(skfem.ElementTriP1())
        linearised, known = newton(nu=0.01)
        b = skfem.BilinearForm(lambda u, q, w: -div(u) * q).assemble(velocity, pressure)
        size = velocity.N
        x = np.zeros(size + pressure.N)
        locations, boundary = velocity.doflocs, velocity.get_dofs().flatten()
        bx, by = locations[:, boundary]
        along_x = np.isin(boundary, velocity.get_dofs().all(["u^1"]))
        x[boundary] = np.where(along_x & (by > 1 - 1e-9), 4 * bx * (1 - bx), 0)
        fixed = np.append(boundary, size + int(np.argmin(pressure.doflocs.sum(0))))
        for _ in range(12):
            old = velocity.interpolate(x[:size])
            k = skfem.bmat([[linearised.assemble(velocity, old=old), b.T], [b, None]], "csr")
            right = np.append(known.assemble(velocity, old=old), np.zeros(pressure.N))
            new = skfem.solve(*skfem.condense(k, right, x=x, D=fixed))
            change = np.linalg.norm(new - x) / np.linalg.norm(new)
            x = new
            if change < 1e-11:
                break

        def probe(points):
            both = (velocity.probes(points.T) @ x[:size]).reshape(2, -1)
            return np.concatenate([both, (pressure.probes(points.T) @ x[size:])[None]]).T

        return probe

    points = np.random.default_rng(0).uniform(size=(3000, 2))
    coarse, fine = solve(48), solve(96)
    return points, fine(points), coarse(points), fine


def chebyshev(n):
    """Points of [0, 1] and the matrix that differentiates there."""
    x = np.cos(np.pi * np.arange(n + 1) / n)
    c = np.where((np.arange(n + 1) % n) == 0, 2.0, 1.0) * (-1.0) ** np.arange(n + 1)
    gaps = x[:, None] - x[None] + np.eye(n + 1)
    matrix = np.outer(c, 1 / c) / gaps
    return (x + 1) / 2, 2 * (matrix - np.diag(matrix.sum(1)))


def heat(name):
    times = np.linspace(0.1, 5, 50)
    rng = np.random.default_rng(0)
    where = rng.uniform(size=(50, 60, 2))

    def solve(n, steps):
        """`steps` in each tenth of a unit of time."""
        x, d = chebyshev(n)
        second = (d @ d)[1:-1, 1:-1]
        inner = x[1:-1]
        xx, yy = np.meshgrid(inner, inner, indexing="ij")
        waves, amplitudes, phases = heat_modes()
        angles = 2 * np.pi * np.einsum("md,dij->mij", waves, np.stack([xx, yy]))
        a = np.exp(np.tensordot(amplitudes, np.cos(angles + phases[:, None, None]), 1))
        eye = np.eye(n - 1)
        operator = a.reshape(-1, 1) * (np.kron(second, eye) + np.kron(eye, second))
        shape = 200 * (np.sin(np.pi * xx) * np.sin(5 * np.pi * yy)).ravel()
        h = 0.1 / steps
        factor = scipy.linalg.lu_factor(np.eye(len(a.ravel())) - h / 2 * operator)
        u, found, t = np.zeros(a.size), [], 0.0
        weights = np.array([_lagrange(x, p) for p in where.reshape(-1)]).reshape(50, 60, 2, n + 1)
        for i in range(len(times)):
            for _ in range(steps):
                drive = h / 2 * (np.sin(np.pi * t) + np.sin(np.pi * (t + h))) * shape
                u = scipy.linalg.lu_solve(factor, u + h / 2 * (operator @ u) + drive)
                t += h
            full = np.pad(u.reshape(n - 1, n - 1), 1)
            found.append(np.einsum("pi,pj,ij->p", weights[i, :, 0], weights[i, :, 1], full))
        return np.stack(found).reshape(-1, 1)

    points = np.concatenate([where, np.tile(times[:, None, None], (1, 60, 1))], -1).reshape(-1, 3)
    return points, solve(60, 10), solve(48, 10), None


def _lagrange(nodes, x):
    """Barycentric weights of Chebyshev points for the value at x."""
    w = (-1.0) ** np.arange(len(nodes))
    w[[0, -1]] /= 2
    gaps = x - nodes
    return w / gaps / np.sum(w / gaps)


def burgers(name):
    times = np.linspace(0, 1, 21)
    rng = np.random.default_rng(0)

    def solve(n, steps):
        """Values on a grid of the unit cell, `steps` in each twentieth of a unit of time."""
        k = 2 * np.pi * np.fft.fftfreq(n, 1 / n)[:, None]
        kr = 2 * np.pi * np.arange(n // 2 + 1)[None]
        keep = (np.abs(k) < 2 * np.pi * n / 3) & (kr < 2 * np.pi * n / 3)
        sines, cosines, mean = burgers_2d_coefficients()
        i, j = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
        v = np.zeros((2, n, n // 2 + 1), complex)
        x = np.arange(n) / n
        phase = i.ravel()[:, None, None] * x[:, None] + j.ravel()[:, None, None] * x
        phase = 2 * np.pi * phase
        w = np.tensordot(sines, np.sin(phase), 1) + np.tensordot(cosines, np.cos(phase), 1)
        v = scipy.fft.rfft2(w + mean[:, None, None])
        h = 0.05 / steps
        half = np.exp(-h / 2 * 0.001 * (k**2 + kr**2))

        def slope(v):
            w, wx, wy = scipy.fft.irfft2(np.stack([v, 1j * k * v, 1j * kr * v]), workers=2)
            return keep * -scipy.fft.rfft2(w[0] * wx + w[1] * wy, workers=2)

        found = [scipy.fft.irfft2(v)]
        for _ in times[1:]:
            for _ in range(steps):
                a = slope(v)
                b = slope(half * (v + h / 2 * a))
                c = slope(half * v + h / 2 * b)
                d = slope(half**2 * v + h * half * c)
                v = half**2 * v + h / 6 * (half**2 * a + 2 * half * (b + c) + d)
            found.append(scipy.fft.irfft2(v))
        return np.stack(found, 0)

    fine, coarse = solve(512, 100), solve(256, 50)
    cells = rng.integers(256, size=(21, 200, 2))
    copies = rng.integers(4, size=(21, 200, 2))
    index = np.arange(21)[:, None]
    values = fine[index, :, 2 * cells[..., 0], 2 * cells[..., 1]].reshape(-1, 2)
    rough = coarse[index, :, cells[..., 0], cells[..., 1]].reshape(-1, 2)
    where = cells / 256 + copies
    points = np.concatenate([where, np.tile(times[:, None, None], (1, 200, 1))], -1).reshape(-1, 3)
    return points, values, rough, None


SOLVERS = {
    "poisson_2d_c": (poisson, "poisson1_cg_data"),
    "poisson_2d_cg": (poisson, "poisson_boltzmann2d"),
    "ns_2d_c": (navier_stokes, "lid_driven_a4"),
    "heat_2d_vc": (heat, None),
    "burgers_2d": (burgers, None),
}


def relative(a, b) -> float:
    fits = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    return float(np.linalg.norm((a - b)[fits]) / np.linalg.norm(b[fits]))


def merge(path: Path, new: dict) -> None:
    old = dict(np.load(path)) if path.exists() else {}
    np.savez_compressed(path, **old | {name: a.astype(np.float32) for name, a in new.items()})


def main(solvers: dict, description: str | None) -> argparse.Namespace:
    """Records the named problems, all of `solvers` by default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", default=list(solvers))
    parser.add_argument("--published", type=Path)
    options = parser.parse_args()
    for name in options.names:
        solver, published = solvers[name]
        points, values, rough, probe = solver(name)
        print(f"{name}: {len(points)} points, coarse against fine {relative(rough, values):.1e}")
        for i in range(values.shape[1]):
            part = relative(rough[:, i : i + 1], values[:, i : i + 1])
            print(f"    component {i}: {part:.1e}")
        merge(TARGET, {f"{name}_x": points, f"{name}_values": values})
        if options.published and published and probe:
            data = np.loadtxt(options.published / f"ref/{published}.dat", comments="%")
            k = values.shape[1]
            lower, upper = points.min(0) + 1e-3, points.max(0) - 1e-3
            inside = np.all((data[:, :2] > lower) & (data[:, :2] < upper), 1)
            data = data[inside]
            ours = probe(data[:, :2])
            print(f"{name}: PINNacle's against ours {relative(data[:, 2 : 2 + k], ours):.1e}")
            fits = np.flatnonzero(np.isfinite(ours).all(1))
            chosen = np.random.default_rng(0).choice(fits, 300, replace=False)
            merge(PUBLISHED, {name: np.concatenate([data, ours], 1)[chosen]})
    return options


if __name__ == "__main__":
    chosen = main(SOLVERS, __doc__)
    if chosen.published:
        path = chosen.published / "ref/burgers1d.dat"
        merge(PUBLISHED, {"burgers_1d": np.loadtxt(path, comments="%")})
