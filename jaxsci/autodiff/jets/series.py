"""Truncated power series and the recurrences by which functions act on them.

A value that depends on t is x(t) = x_0 + x_1 t + … + x_K t^K. A coefficient that is zero for
structural reasons is `None`, and costs nothing.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

Coefficient = Shaped[Array, "..."] | None
Coefficients = tuple[Coefficient, ...]


class Series(eqx.Module):
    """x(t) = primal + Σ_k coefficients[k−1] t^k.

    With `support`, x is a vector and its coefficients are zero but at these positions; they then
    hold the entries there alone. A one-hot direction in a million dimensions stays one number until
    it meets a matrix, of which it takes one column.
    """

    primal: Array
    coefficients: Coefficients
    support: Int[Array, " s"] | None = None

    @property
    def active(self) -> bool:
        """Whether anything but the value itself may differ from zero."""
        return any(c is not None for c in self.coefficients)

    def dense(self) -> "Series":
        """The same series with all entries of its coefficients."""
        if self.support is None:
            return self
        zero = jnp.zeros_like(self.primal)
        support = self.support
        return Series(
            self.primal,
            tuple(None if c is None else zero.at[support].set(c) for c in self.coefficients),
        )

    def filled(self) -> "Series":
        """The same series, dense and with zeros in place of `None`."""
        full = self.dense()
        zero = jnp.zeros_like(self.primal)
        return Series(self.primal, tuple(zero if c is None else c for c in full.coefficients))


def constant(primal: Array, order: int) -> Series:
    """The series of a value that does not depend on t."""
    return Series(primal, (None,) * order)


def total(terms: list[Array]) -> Coefficient:
    """The sum, `None` of nothing."""
    if not terms:
        return None
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def cauchy(product: Callable[[Array, Array], Array], a: Series, b: Series, k: int) -> Coefficient:
    """Σ_{i+j=k} product(a_i, b_j)."""
    left, right = (a.primal, *a.coefficients), (b.primal, *b.coefficients)
    terms = []
    for i in range(k + 1):
        x, y = left[i], right[k - i]
        if x is not None and y is not None:
            terms.append(product(x, y))
    return total(terms)


def multiply(a: Series, b: Series) -> Series:
    """The product a b."""
    return bilinear(jnp.multiply, a, b)


def bilinear(product: Callable[[Array, Array], Array], a: Series, b: Series) -> Series:
    """product(a, b), for a product that is linear in each."""
    order = len(a.coefficients)
    return Series(
        product(a.primal, b.primal), tuple(cauchy(product, a, b, k) for k in range(1, order + 1))
    )


def square(a: Series) -> Series:
    """a², with half of the products."""
    whole = (a.primal, *a.coefficients)
    out = []
    for k in range(1, len(whole)):
        terms = []
        for i in range((k + 1) // 2):
            x, y = whole[i], whole[k - i]
            if x is not None and y is not None:
                terms.append(2 * x * y)
        middle = whole[k // 2] if k % 2 == 0 else None
        if middle is not None:
            terms.append(middle * middle)
        out.append(total(terms))
    return Series(a.primal * a.primal, tuple(out))


def divide(a: Series, b: Series) -> Series:
    """The quotient a / b:  y_k = (a_k − Σ_{j=1}^k b_j y_{k−j}) / b_0."""
    result: list[Coefficient] = [a.primal / b.primal]
    for k, a_k in enumerate(a.coefficients, 1):
        terms = [] if a_k is None else [a_k]
        for j in range(1, k + 1):
            b_j, y = b.coefficients[j - 1], result[k - j]
            if b_j is not None and y is not None:
                terms.append(-b_j * y)
        top = total(terms)
        result.append(None if top is None else top / b.primal)
    assert result[0] is not None
    return Series(result[0], tuple(result[1:]))


def integrate(primal: Array, x: Series, rate: Callable[[list[Coefficient], int], Coefficient]):
    """The series of y with y' = h(t) x'(t) and y_0 = primal:

        k y_k = Σ_{j=1}^k j x_j h_{k−j}.

    `rate(y, i)` gives h_i from y_0, …, y_i.
    """
    y: list[Coefficient] = [primal]
    h: list[Coefficient] = []
    for k in range(1, len(x.coefficients) + 1):
        h.append(rate(y, k - 1))
        y.append(_step(x, h, k))
    return Series(primal, tuple(y[1:]))


def _step(x: Series, h: list[Coefficient], k: int) -> Coefficient:
    terms = []
    for j in range(1, k + 1):
        x_j, h_j = x.coefficients[j - 1], h[k - j]
        if x_j is not None and h_j is not None:
            terms.append(x_j * h_j if j == k else (j / k) * x_j * h_j)
    return total(terms)


def _squared(y: list[Coefficient], i: int) -> Coefficient:
    """(y²)_i."""
    terms = []
    for j in range(i + 1):
        a, b = y[j], y[i - j]
        if a is not None and b is not None:
            terms.append(a * b)
    return total(terms)


def exp(x: Series, base: float = 1.0) -> Series:
    """From y' = base · y x' from y_0 = eˣ (2ˣ for base = ln 2)."""
    primal = jnp.exp(x.primal) if base == 1.0 else jnp.exp2(x.primal)

    def rate(y: list[Coefficient], i: int) -> Coefficient:
        y_i = y[i]
        return y_i if base == 1.0 or y_i is None else base * y_i

    return integrate(primal, x, rate)


def log(x: Series) -> Series:
    """From x y' = x'."""
    y: list[Coefficient] = [jnp.log(x.primal)]
    return Series(jnp.log(x.primal), _log_coefficients(x.primal, x, y))


def log1p(x: Series) -> Series:
    """(1 + x) y' = x'."""
    y: list[Coefficient] = [jnp.log1p(x.primal)]
    return Series(jnp.log1p(x.primal), _log_coefficients(1 + x.primal, x, y))


def _log_coefficients(x0: Array, x: Series, y: list[Coefficient]) -> Coefficients:
    for k, x_k in enumerate(x.coefficients, 1):
        terms = [] if x_k is None else [x_k]
        for j in range(1, k):
            y_j, x_rest = y[j], x.coefficients[k - j - 1]
            if y_j is not None and x_rest is not None:
                terms.append((-j / k) * y_j * x_rest)
        top = total(terms)
        y.append(None if top is None else top / x0)
    return tuple(y[1:])


def tanh(x: Series) -> Series:
    """From y' = (1 − y²) x'."""

    def rate(y: list[Coefficient], i: int) -> Coefficient:
        squared = _squared(y, i)
        if i == 0:
            return 1 - y[0] * y[0]  # type: ignore[operator]
        return None if squared is None else -squared

    return integrate(jnp.tanh(x.primal), x, rate)


def tan(x: Series) -> Series:
    """From y' = (1 + y²) x'."""

    def rate(y: list[Coefficient], i: int) -> Coefficient:
        squared = _squared(y, i)
        return 1 + squared if i == 0 and squared is not None else squared

    return integrate(jnp.tan(x.primal), x, rate)


def logistic(x: Series, primal: Array) -> Series:
    """From y' = (y − y²) x'."""

    def rate(y: list[Coefficient], i: int) -> Coefficient:
        squared, y_i = _squared(y, i), y[i]
        if squared is None:
            return y_i
        return -squared if y_i is None else y_i - squared

    return integrate(primal, x, rate)


def sine_cosine(x: Series, sign: int) -> tuple[Series, Series]:
    """From s' = c x', c' = sign · s x': sine and cosine for −1, their hyperbolic kin for +1."""
    trigonometric = sign < 0
    s: list[Coefficient] = [jnp.sin(x.primal) if trigonometric else jnp.sinh(x.primal)]
    c: list[Coefficient] = [jnp.cos(x.primal) if trigonometric else jnp.cosh(x.primal)]
    for k in range(1, len(x.coefficients) + 1):
        new_s, new_c = _step(x, c, k), _step(x, s, k)
        s.append(new_s)
        c.append(new_c if new_c is None or sign > 0 else -new_c)
    assert s[0] is not None and c[0] is not None
    return Series(s[0], tuple(s[1:])), Series(c[0], tuple(c[1:]))


def power(x: Series, exponent: float, primal: Array) -> Series:
    """x^a for a fixed real a:  k x_0 y_k = Σ_{j=1}^k (a j − (k − j)) x_j y_{k−j}."""
    y: list[Coefficient] = [primal]
    for k in range(1, len(x.coefficients) + 1):
        terms = []
        for j in range(1, k + 1):
            x_j, y_rest = x.coefficients[j - 1], y[k - j]
            if x_j is not None and y_rest is not None:
                terms.append(((exponent * j - (k - j)) / k) * x_j * y_rest)
        top = total(terms)
        y.append(None if top is None else top / x.primal)
    return Series(primal, tuple(y[1:]))


def integer_power(x: Series, exponent: int) -> Series:
    """xⁿ by repeated squaring, right also where x = 0."""
    if exponent == 0:
        return constant(jnp.ones_like(x.primal), len(x.coefficients))
    if exponent < 0:
        one = constant(jnp.ones_like(x.primal), len(x.coefficients))
        return divide(one, integer_power(x, -exponent))
    if exponent == 1:
        return x
    half = square(integer_power(x, exponent // 2))
    return multiply(half, x) if exponent % 2 else half
