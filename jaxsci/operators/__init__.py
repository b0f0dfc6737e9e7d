"""Neural operators: learned maps between functions, at any resolution.

An operator is called as `op(u, *, cond=None, out=None, key=None)` with one function `"c *grid"`;
batches are made by `jax.vmap`. Here are the Fourier neural operator `FNO` and its Tucker form
`TFNO`.
"""

from jaxsci.operators.fno import FNO, TFNO, FNOBlock

__all__ = ["FNO", "TFNO", "FNOBlock"]
