"""W2 error of a deterministic sampler on the line without sampling noise.

A sampler maps its start z (law p_T) to T(z). The best map onto the data's law p_0 is the monotone rearrangement
T* = F_0⁻¹ ∘ F_T, and where T is non-decreasing too, both pairings follow the quantiles, so that

    W2²(T#p_T, p_0) = ∫ (T(z) - T*(z))² p_T(z) dz = ∫ (T(z(x)) - x)² p_0(x) dx,   z(x) = F_T⁻¹(F_0(x))

(Villani 2003, theorem 2.18). The second form is used: T* jumps between modes, its inverse z(x) and T(z(x)), nearly the
identity, are smooth. The integral is a trapezoidal sum over each component of p_0 in its own normal score,
|s| <= 12, halved until it settles (exponentially fast for analytic maps; only the new points are mapped). Probabilities
are taken from the nearer tail in log space.

Where T is not monotone the pairing is only an upper bound, and the images are sorted instead. How far a numerical T is
from monotone is measured by its running maximum M, which is monotone: ‖M - T‖ in L²(p_T) bounds the difference in W2.

**What limits the digits.** A start z rounded by δ is mapped to a point wrong by δ T'(z), T' = p_T / p_0: large between
well separated modes. `rounding` is the root mean square of that for δ = ε times the starts' root mean square, about
what the first step of any sampler in float64 rounds off: the floor of its error.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import log_ndtr, logsumexp, ndtri_exp

from theory._checks import require, require_finite, require_float64
from theory.path_base import Path
from theory.wasserstein import Law, line_components, score_quantile, wasserstein2_1d, wasserstein2_1d_samples

REACH = 12.0
"""Normal scores covered: all but 4e-33 of each component."""
BATCH = 1024
"""Starts per call of the sampler, always this many, so that it is compiled once."""
EPS = float(np.finfo(float).eps)
Vector = Float[np.ndarray, " n"]
Part = Float[np.ndarray, " k"]
Transport = Callable[[Float[Array, "n 1"]], Float[Array, "n 1"]]
"""A deterministic sampler: starts (n, 1) to end points (n, 1)."""


class TransportError(NamedTuple):
    """W2 (not squared) between a sampler's output and the data, in the unit of x.

    - `value`: W2 itself.
    - `coupling`: the root mean square of T - T*, >= `value`, equal to it for a monotone sampler.
    - `error`: what `value` may be off by: its change at the last halving of the grid, and `backwards` if ignored.
    - `backwards`: distance of T from its running maximum, 0 for a monotone sampler. Ignored (value = coupling) up to
      1e-6 of `coupling` or 1e-8 of the data's root mean square, where sorting weighted points loses more digits.
    - `rounding`: root mean square effect of rounding the starts (module's top).
    - `points`: points mapped.
    """

    value: float
    coupling: float
    error: float
    backwards: float
    rounding: float
    points: int


class _Nodes(NamedTuple):
    """Points x with weights (of p_0), their starts z and images T(z)."""

    x: Vector
    weight: Vector
    start: Vector
    image: Vector


def transport_error(
    transport: Transport, start: Law, data: Law, *, relative: float = 1e-4, most: int = 2**15
) -> TransportError:
    """Exact W2 between the image of the law `start` under `transport` and `data`, both laws on the line, by quadrature.

    **Arguments:**

    - `transport`: starts (1024, 1) to end points (1024, 1), float64; deterministic, each row for itself.
    - `start`: what the starts are distributed as: `path.marginal(data, 1.0)` for the discretisation error alone,
      `path.prior(data)` for all of the sampler's error. `data`: what they should end as.
    - `relative`: the grid is halved until `value` changes by less than this share of it (or than `rounding`), or `most`
      points have been mapped; `error` says where it stopped.

    Raises `ValueError` unless d = 1 with positive variances, or where an image is not finite; `TypeError` unless
    float64.
    """
    inverse, step = score_quantile("start", start), 0.5
    weights, means, stds = line_components("data", data)
    old: _Nodes | None = None
    before = np.inf
    while True:
        nodes = _refined(old, step, transport, inverse, (weights, means, stds))
        result = _summary(nodes, before, (start, data))
        if result.error <= max(relative * result.value, result.rounding) or 2 * len(nodes.x) > most:
            return result
        old, before, step = nodes, result.value, step / 2


def _refined(
    old: _Nodes | None,
    step: float,
    transport: Transport,
    inverse: Callable[[Vector], Vector],
    parts: tuple[Part, Part, Part],
) -> _Nodes:
    """The nodes of the grid of this step: the old ones with half their weight, and the points between them."""
    weights, means, stds = parts
    grid = np.arange(-REACH, REACH + step / 2, step) if old is None else np.arange(-REACH + step, REACH, 2 * step)
    x = (means[:, None] + stds[:, None] * grid).ravel()
    mass = (weights[:, None] * np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)).ravel() * step
    z = inverse(_normal_score(x, *parts))
    new = _Nodes(x, mass, z, _mapped(transport, z))
    if old is None:
        return new
    halved = old._replace(weight=old.weight / 2)
    return _Nodes(*(np.concatenate(pair) for pair in zip(halved, new, strict=True)))


def _normal_score(x: Vector, weights: Part, means: Part, stds: Part) -> Vector:
    """Φ⁻¹(F(x)) of the mixture, from the smaller tail."""
    scores = (x - means[:, None]) / stds[:, None]
    lower, upper = (logsumexp(log_ndtr(sign * scores), axis=0, b=weights[:, None]) for sign in (1.0, -1.0))
    return np.where(lower < upper, ndtri_exp(np.minimum(lower, upper)), -ndtri_exp(np.minimum(lower, upper)))


def _mapped(transport: Transport, starts: Vector) -> Vector:
    """Images of the starts, mapped in batches of one size."""
    padded = np.concatenate([starts, np.full(-len(starts) % BATCH, starts[-1])])
    images = [transport(jnp.asarray(part)[:, None]) for part in padded.reshape(-1, BATCH)]
    require_float64("transport(starts)", images[0])
    require(images[0].shape == (BATCH, 1), "transport(starts)", f"shape {images[0].shape}", f"of shape ({BATCH}, 1)")
    flat = np.concatenate([np.asarray(image)[:, 0] for image in images])[: len(starts)]
    require_finite("transport(starts)", flat)
    return flat


def _summary(nodes: _Nodes, before: float, laws: tuple[Law, Law]) -> TransportError:
    order = np.argsort(nodes.x, kind="stable")
    x, weight, z, image = (a[order] for a in nodes)
    norm = lambda gap: float(np.sqrt(weight @ gap**2))  # noqa: E731
    coupling, backwards = norm(image - x), norm(np.maximum.accumulate(image) - image)
    rounding = EPS * norm(z) * norm(np.exp(_log_density(z, laws[0]) - _log_density(x, laws[1])))
    if backwards <= max(1e-6 * coupling, 1e-8 * norm(x)):
        return TransportError(coupling, coupling, abs(coupling - before) + backwards, backwards, rounding, len(x))
    value = wasserstein2_1d_samples(image, x, x_weights=weight, y_weights=weight)
    return TransportError(value, coupling, abs(value - before), backwards, rounding, len(x))


def _log_density(x: Vector, law: Law) -> Vector:
    weights, means, stds = line_components("law", law)
    scores = (x - means[:, None]) / stds[:, None]
    return logsumexp(-(scores**2) / 2, axis=0, b=(weights / stds)[:, None]) - np.log(2 * np.pi) / 2


def prior_mismatch(path: Path, data: Law) -> float:
    """W2 (not squared) on the line between the path's exact law at t = 1 and the Gaussian prior that samplers start
    from: an error made before the first step, to be reported apart from the discretisation's.

    To theory's accuracy: 1e-9 relative plus about 1e-14 of the spread. Raises `ValueError` unless d = 1.
    """
    return wasserstein2_1d(path.marginal(data, 1.0), path.prior(data))
