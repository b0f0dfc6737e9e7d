"""Finite element spaces on triangulations: what is linear algebra on coefficients, as JAX arrays.

    u_h = Σᵢ Uᵢ ψᵢ,    M_ij = ∫ ψᵢ ψⱼ,    K_ij = ∫ ∇ψᵢ·∇ψⱼ,    ‖u_h‖² = Uᵀ M U,    ‖∇u_h‖² = Uᵀ K U

A function of the space is the array of its coefficients (dofs), "n", or of several components as
rows, "n c" (vector-valued P1 and P2). [scikit-fem](https://pypi.org/project/scikit-fem/) makes
meshes, bases and matrices on the host; any of its triangulations will do (`skfem.MeshTri`, also
read from a file). `square`, `l_shape` and `triangulation` make some.

    from jaxsci.pde import fem

    space = fem.FunctionSpace(fem.l_shape(8), degree=2)
    u = space.interpolate(lambda x: x[0] * x[1])
    energy = space.inner(u, u, order=1)  # ∫ u² + |∇u|²
    finer = space.refined()
    v = fem.prolongation(space, finer) @ u  # the same function
"""

from .meshes import l_shape as l_shape
from .meshes import square as square
from .meshes import triangulation as triangulation
from .spaces import FunctionSpace as FunctionSpace
from .spaces import Tags as Tags
from .spaces import prolongation as prolongation
from .spaces import solve_poisson as solve_poisson
