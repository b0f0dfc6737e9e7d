"""Writes the recorded solutions of PINNacle's complex geometries and long times, as
`record_pinnacle.py` does the others.

    pip install scikit-fem==12.0.2 gmsh==4.15.2 meshio
    python tests/oracles/record_pinnacle_more.py [NAME ...] [--published CLONE]

Each on two grids, whose difference is printed:

- poisson_3d_cg: tetrahedra with ten nodes (gmsh), quadratic elements.
- heat_2d_cg: triangles with six nodes, quadratic elements, TR-BDF2 (L-stable, second order).
- ns_2d_cg: Taylor-Hood elements on the step's triangulated grid, Newton's method.
- heat_2d_lt: sine series; gs: Fourier series; an integrating factor, fourth order in time.
"""

import numpy as np
import scipy.fft
import scipy.sparse.linalg as spl
from record_pinnacle import PUBLISHED, main, merge, newton, relative

BIG = [
    (-4, -3),
    (4, -3),
    (-4, 3),
    (4, 3),
    (-4, -9),
    (4, -9),
    (-4, 9),
    (4, 9),
    (0, 0),
    (0, 6),
    (0, -6),
]
SMALL = [(a, b) for a in (-3.2, 3.2) for b in (-6, 0, 6)]
SPHERES = [(0.4, 0.3, 0.6, 0.2), (0.6, 0.7, 0.6, 0.2), (0.2, 0.8, 0.7, 0.1), (0.6, 0.2, 0.3, 0.1)]


def quadratic_mesh(dim: int, build, size: float):
    """A mesh of simplices with nodes at the middles of their sides. `build(occ)` makes the body."""
    import gmsh
    import meshio
    from skfem.io.meshio import from_meshio

    gmsh.initialize()
    gmsh.option.setNumber("General.Verbosity", 1)
    build(gmsh.model.occ)
    gmsh.model.occ.synchronize()
    gmsh.option.setNumber("Mesh.MeshSizeMin", size)
    gmsh.option.setNumber("Mesh.MeshSizeMax", size)
    gmsh.model.mesh.generate(dim)
    gmsh.model.mesh.setOrder(2)
    tags, coordinates, _ = gmsh.model.mesh.getNodes()
    kinds, _, nodes = gmsh.model.mesh.getElements(dim)
    gmsh.finalize()
    order = np.zeros(int(tags.max()) + 1, int)
    order[tags.astype(int)] = np.arange(len(tags))
    points = coordinates.reshape(-1, 3)[:, :dim]
    if dim == 2:
        assert list(kinds) == [9]
        cells = order[nodes[0].astype(int)].reshape(-1, 6)
        return from_meshio(meshio.Mesh(points, [("triangle6", cells)]))
    assert list(kinds) == [11]
    # gmsh numbers the last two middles the other way round than meshio and VTK.
    cells = order[nodes[0].astype(int)].reshape(-1, 10)[:, [0, 1, 2, 3, 4, 5, 6, 7, 9, 8]]
    return from_meshio(meshio.Mesh(points, [("tetra10", cells)]))


def poisson(name):
    import skfem
    from skfem.helpers import dot, grad

    def cube(occ):
        box = occ.addBox(0, 0, 0, 1, 1, 1)
        upper = occ.addBox(0, 0, 0.5, 1, 1, 0.5)
        balls = [(3, occ.addSphere(*ball)) for ball in SPHERES]
        occ.cut([(3, box)], balls, removeTool=False)
        occ.cut([(3, upper)], balls)
        # The reaction jumps at z = 1/2: no tetrahedron may cross it.
        occ.fragment([(3, box)], [(3, upper)])

    def source(x, y, z):
        square = x**2 + y**2 + z**2
        waves = np.sin(np.pi * x), np.sin(10 * np.pi * y), np.sin(5 * np.pi * z)
        first = np.exp(sum(waves)) * (square - 1) / (square + 1)
        return 20 * first + 100 * waves[0] * waves[1] * waves[2]

    def solve(size):
        mesh = quadratic_mesh(3, cube, size)
        basis = skfem.Basis(mesh, skfem.ElementTetP2(), intorder=4)

        @skfem.BilinearForm
        def form(u, v, w):
            return dot(grad(u), grad(v)) + np.where(w.x[2] < 0.5, 64.0, 100.0) * u * v

        load = skfem.LinearForm(lambda v, w: source(*w.x) * v)
        matrix, right = form.assemble(basis).tocsr(), load.assemble(basis)
        scaling = spl.LinearOperator(matrix.shape, lambda r: r / matrix.diagonal())
        u, status = spl.cg(matrix, right, rtol=1e-11, M=scaling)
        assert status == 0
        return basis, u

    fine, u = solve(0.033)
    coarse, u_coarse = solve(0.05)
    points, values = some_nodes(fine, u)
    away = np.all(
        [np.linalg.norm(points - s[:3], axis=1) > s[3] + 0.02 for s in np.array(SPHERES)], 0
    )
    straight = skfem.Basis(skfem.MeshTet1.from_mesh(coarse.mesh), skfem.ElementTetP2())
    return points, values, probed(straight, u_coarse, points, away), None


def some_nodes(basis, u, n=4000):
    """Nodes of a mesh, and the values there."""
    chosen = np.sort(np.random.default_rng(0).choice(len(u), n, replace=False))
    return basis.doflocs[:, chosen].T, u[chosen][:, None]


def probed(straight, u, points, away):
    """Values at points, NaN where sides are curved."""
    found = np.full((len(points), 1), np.nan)
    found[away, 0] = straight.probes(points[away].T) @ u
    return found


def heat_geometry(name):
    import skfem
    from skfem.helpers import dot, grad

    circles = [(*c, 1.0) for c in BIG] + [(*c, 0.4) for c in SMALL]

    def plate(occ):
        rectangle = occ.addRectangle(-8, -12, 0, 16, 24)
        occ.cut([(2, rectangle)], [(2, occ.addDisk(a, b, 0, r, r)) for a, b, r in circles])

    times = np.linspace(0, 3, 31)
    where = np.random.default_rng(0)

    def solve(size, steps):
        """`steps` in each tenth of a unit of time."""
        basis = skfem.Basis(quadratic_mesh(2, plate, size), skfem.ElementTriP2(), intorder=5)
        edges = basis.boundary()
        mass = skfem.BilinearForm(lambda u, v, w: u * v)
        stiff = skfem.BilinearForm(lambda u, v, w: dot(grad(u), grad(v))).assemble(basis)

        @skfem.LinearForm
        def warming(v, w):
            x, y = w.x
            far = [np.hypot(x - a, y - b) for a, b, _ in circles]
            near = [d < r + 0.01 for d, (_, _, r) in zip(far, circles, strict=True)]
            big, small = np.any(near[: len(BIG)], 0), np.any(near[len(BIG) :], 0)
            return np.where(big, 5.0, np.where(small, 1.0, 0.1)) * v

        m, k = mass.assemble(basis), stiff + mass.assemble(edges)
        load = warming.assemble(edges)
        h, gamma = 0.1 / steps, 2 - np.sqrt(2)
        factor = spl.splu((m + gamma / 2 * h * k).tocsc())
        u, found = np.zeros(m.shape[0]), []
        for _ in times[1:]:
            for _ in range(steps):
                middle = factor.solve(m @ u + gamma / 2 * h * (2 * load - k @ u))
                old = (middle - (1 - gamma) ** 2 * u) / (gamma * (2 - gamma))
                u = factor.solve(m @ old + gamma / 2 * h * load)
            found.append(u)
        return basis, np.array(found)

    (fine, u), (coarse, rough) = solve(0.16, 20), solve(0.25, 10)
    straight = skfem.Basis(skfem.MeshTri1.from_mesh(coarse.mesh), skfem.ElementTriP2())
    rows = []
    for i, t in enumerate(times[1:]):
        nodes = where.choice(u.shape[1], 120, replace=False)
        x = fine.doflocs[:, nodes].T
        away = np.all([np.hypot(*(x - c[:2]).T) > c[2] + 0.05 for c in np.array(circles)], 0)
        there = probed(straight, rough[i], x, away)
        rows.append(np.column_stack([x, np.full(120, t), u[i, nodes], there]))
    table = np.concatenate(rows)
    return table[:, :3], table[:, 3:4], table[:, 4:], None


def flow_over_step(n, outlet=None):
    """`outlet`: the pressure at x = 4 as a function of y, in place of 0."""
    import skfem
    from skfem.helpers import div

    mesh = skfem.MeshTri.init_tensor(np.linspace(0, 4, 4 * n + 1), np.linspace(0, 2, 2 * n + 1))
    x, y = mesh.p[:, mesh.t].mean(1)
    mesh = mesh.restrict(np.flatnonzero((x > 2) | (y < 1)))
    velocity = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP2()), intorder=5)
    pressure = velocity.with_element(skfem.ElementTriP1())
    linearised, known = newton(nu=0.01)

    @skfem.LinearForm
    def push(v, w):
        return -np.where(w.x[0] > 4 - 1e-9, outlet(w.x[1]), 0) * v[0]

    pushed = 0 if outlet is None else push.assemble(velocity.boundary())
    b = skfem.BilinearForm(lambda u, q, w: -div(u) * q).assemble(velocity, pressure)
    size = velocity.N
    sol = np.zeros(size + pressure.N)
    boundary = velocity.get_dofs().flatten()
    bx, by = velocity.doflocs[:, boundary]
    # At the outlet v = 0; p = 0 is the natural condition there, as u_x = −v_y = 0.
    along = np.isin(boundary, velocity.get_dofs().all(["u^1"]))
    fixed = boundary[~along | (bx < 4 - 1e-9) | (by < 1e-9) | (by > 2 - 1e-9)]
    sol[boundary] = np.where(along & (bx < 1e-9), 4 * by * (1 - by), 0)
    for _ in range(15):
        old = velocity.interpolate(sol[:size])
        k = skfem.bmat([[linearised.assemble(velocity, old=old), b.T], [b, None]], "csr")
        right = np.append(known.assemble(velocity, old=old) + pushed, np.zeros(pressure.N))
        new = skfem.solve(*skfem.condense(k, right, x=sol, D=fixed))
        change = np.linalg.norm(new - sol) / np.linalg.norm(new)
        sol = new
        if change < 1e-11:
            break

    def probe(points):
        both = (velocity.probes(points.T) @ sol[:size]).reshape(2, -1)
        return np.concatenate([both, (pressure.probes(points.T) @ sol[size:])[None]]).T

    return probe


def step(name):
    points = np.random.default_rng(0).uniform(size=(6000, 2)) * [4, 2]
    points = points[(points[:, 0] > 2) | (points[:, 1] < 1)][:4000]
    coarse, fine = flow_over_step(20), flow_over_step(40)
    return points, fine(points), coarse(points), fine


def step_with_their_outlet(folder):
    """PINNacle's flow and ours with its pressure at the outlet."""
    data = np.loadtxt(folder / "ref/ns_0_obstacle.dat", comments="%")
    end = data[np.isclose(data[:, 0], 4.0)]
    end = end[np.argsort(end[:, 1])]
    inside = (data[:, 0] > 1e-3) & (data[:, 0] < 4 - 1e-3)
    inside &= (data[:, 1] > 1e-3) & (data[:, 1] < np.where(data[:, 0] < 2 + 1e-3, 1, 2) - 1e-3)
    data = data[inside]
    ours = flow_over_step(20, lambda y: np.interp(y, end[:, 1], end[:, 4]))(data[:, :2])
    print(f"ns_2d_cg: PINNacle's against ours with its outlet {relative(data[:, 2:], ours):.1e}")
    chosen = np.random.default_rng(0).choice(len(data), 300, replace=False)
    merge(PUBLISHED, {"ns_2d_cg_their_outlet": np.concatenate([data, ours], 1)[chosen]})


def heat_long(name):
    times = np.linspace(0, 100, 51)

    def solve(n, h):
        """At the times and k/n, k = 1, …, n − 1."""
        k = np.pi * np.arange(1, n)
        half = np.exp(-h / 2 * 0.001 * (k[:, None] ** 2 + k**2))
        x = np.arange(1, n) / n
        start = np.sin(4 * np.pi * x)[:, None] * np.sin(3 * np.pi * x)
        shape = 5 * np.sin(4 * np.pi * x)[:, None] * np.sin(2 * np.pi * x)

        def sines(u):
            return scipy.fft.dstn(u, type=1) / (2 * n)  # its own inverse

        def slope(w, t):
            return sines(shape * (1 + 2 * np.sin(np.pi * t / 4)) * np.sin(sines(w) ** 2))

        w, found, per, done = sines(start), [start], round(2 / h), 0
        for _ in times[1:]:
            for _ in range(per):
                t = done * h
                a = slope(w, t)
                b = slope(half * (w + h / 2 * a), t + h / 2)
                c = slope(half * w + h / 2 * b, t + h / 2)
                d = slope(half**2 * w + h * half * c, t + h)
                w = half**2 * w + h / 6 * (half**2 * a + 2 * half * (b + c) + d)
                done += 1
            found.append(sines(w))
        return np.stack(found)

    fine, coarse = solve(160, 0.02), solve(80, 0.04)
    cells = np.random.default_rng(0).integers(1, 80, size=(51, 80, 2))
    index = np.arange(51)[:, None]
    values = fine[index, 2 * cells[..., 0] - 1, 2 * cells[..., 1] - 1]
    rough = coarse[index, cells[..., 0] - 1, cells[..., 1] - 1]
    t = np.tile(times[:, None, None], (1, 80, 1))
    points = np.concatenate([cells / 80, t], -1).reshape(-1, 3)
    return points, values.reshape(-1, 1), rough.reshape(-1, 1), None


def gray_scott(name):
    times = np.linspace(0, 200, 21)

    def solve(n, h):
        """At the times and −1 + 2k/n, k = 0, …, n − 1."""
        k = np.pi * np.fft.fftfreq(n, 1 / n)[:, None]
        squared = k**2 + (np.pi * np.arange(n // 2 + 1)) ** 2
        half = np.exp(-h / 2 * np.stack([1e-5 * squared + 0.04, 5e-6 * squared + 0.1]))
        x, y = np.meshgrid(*[-1 + 2 * np.arange(n) / n] * 2, indexing="ij")
        u = 1 - np.exp(-80 * ((x + 0.05) ** 2 + (y + 0.02) ** 2))
        v = np.exp(-80 * ((x - 0.05) ** 2 + (y - 0.02) ** 2))
        feed = np.zeros((2, n, n // 2 + 1))
        feed[0, 0, 0] = 0.04 * n * n

        def slope(w):
            u, v = scipy.fft.irfft2(w)
            reaction = scipy.fft.rfft2(u * v * v)
            return feed + np.stack([-reaction, reaction])

        w = scipy.fft.rfft2(np.stack([u, v]))
        found = [np.stack([u, v])]
        for _ in times[1:]:
            for _ in range(round(10 / h)):
                a = slope(w)
                b = slope(half * (w + h / 2 * a))
                c = slope(half * w + h / 2 * b)
                d = slope(half**2 * w + h * half * c)
                w = half**2 * w + h / 6 * (half**2 * a + 2 * half * (b + c) + d)
            found.append(scipy.fft.irfft2(w))
        return np.stack(found)

    fine, coarse = solve(384, 0.5), solve(192, 1.0)
    rng = np.random.default_rng(0)
    # Half of the places are where the pattern grows.
    anywhere = rng.integers(192, size=(21, 100, 2))
    cells = np.concatenate([anywhere, rng.integers(48, 144, size=(21, 100, 2))], 1)
    index = np.arange(21)[:, None]
    values = fine[index, :, 2 * cells[..., 0], 2 * cells[..., 1]].reshape(-1, 2)
    rough = coarse[index, :, cells[..., 0], cells[..., 1]].reshape(-1, 2)
    t = np.tile(times[:, None, None], (1, 200, 1))
    return np.concatenate([cells / 96 - 1, t], -1).reshape(-1, 3), values, rough, None


SOLVERS = {
    "poisson_3d_cg": (poisson, None),
    "heat_2d_cg": (heat_geometry, None),
    "ns_2d_cg": (step, "ns_0_obstacle"),
    "heat_2d_lt": (heat_long, None),
    "gs": (gray_scott, None),
}

if __name__ == "__main__":
    options = main(SOLVERS, __doc__)
    if options.published and "ns_2d_cg" in options.names:
        step_with_their_outlet(options.published)
