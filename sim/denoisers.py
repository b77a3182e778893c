"""The linear optimum, guidance and clipping.

A denoiser is any callable `denoiser(xt, t, cond) -> x0_hat` on one sample. `jax.vmap(denoiser, in_axes=(0, None, 0))`
serves a batch, and then all that depends on t alone is computed once. Those here, in `sim.mixture_denoiser` and in
`sim.empirical` hold their path and data as arrays.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from sim.mixture_denoiser import MixtureDenoiser
from sim.sampler_base import Condition, Denoiser
from theory._checks import is_concrete, require, require_between
from theory.gaussian import Gaussian
from theory.labels import class_prior
from theory.linear import (
    condition_noise_ratio,
    corrupted_moments,
    drawn_moments,
    empirical_moments,
    pooled_moments,
    shared_moments,
)
from theory.mixture import GaussianMixture
from theory.path_base import Path, Time


class LinearDenoiser(eqx.Module):
    """The linear optimum per class: the exact posterior mean for data N(m_c, S_c) given class c, N(m, S) without.

    **Arguments:**

    - `path`: any, as for `MixtureDenoiser`.
    - `means`, `C d`, and `covs`, `C d d`: what each class's optimum takes its data for, e.g. `corrupted_moments` of
      theory. May be singular.
    - `pooled`: the same for the unconditional branch; without it `cond=None` raises.

    Source: Chen et al. 2024 (arXiv:2405.20494), eqs. 15, 25 and the corrected lemma 2 (`theory.linear`).
    """

    optimum: MixtureDenoiser
    has_pooled: bool = eqx.field(static=True)

    def __init__(
        self,
        path: Path,
        means: Float[ArrayLike, "C d"],
        covs: Float[ArrayLike, "C d d"],
        pooled: Gaussian | None = None,
    ) -> None:
        """One component per class, the pooled one last; see the class."""
        m, S = jnp.asarray(means), jnp.asarray(covs)
        self.has_pooled, classes = pooled is not None, m.shape[0]
        if pooled is not None:
            require(pooled.dim == m.shape[1], "pooled", f"dimension {pooled.dim}", f"of dimension {m.shape[1]}")
            m, S = jnp.concatenate([m, pooled.mean[None]]), jnp.concatenate([S, pooled.cov[None]])
        rows = jnp.eye(m.shape[0], dtype=m.dtype)
        self.optimum = MixtureDenoiser(path, GaussianMixture(rows[-1], m, S), rows[:classes])

    @classmethod
    def fit(
        cls,
        path: Path,
        points: Float[ArrayLike, "n *shape"],
        labels: Int[ArrayLike, "..."],
        *,
        noise_std: float = 0.0,
        codes: Float[ArrayLike, "C d_emb"] | None = None,
        shared: bool = False,
        drawn: Float[ArrayLike, "..."] | None = None,
    ) -> "LinearDenoiser":
        """The optimum of the loss over a training set, conditions perturbed; float64.

        **Arguments:**

        - `points`: samples of any shape, at least two per class. `labels`: their classes, 0 ... C - 1.
        - `noise_std` >= 0: per-coordinate standard deviation of the codes' noise, averaged over ("fresh").
        - `codes`: the clean codes, one row per class, default one-hot.
        - `shared`: one pair (W, V) for all classes (`theory.linear.shared_moments`) instead of one per class.
        - `drawn`: the noisy codes as drawn once per point ("fixed"); then `noise_std` must be 0.

        The unconditional branch is the linear optimum on the pooled data. Raises `ValueError` where shapes, labels or
        ranges do not fit, `TypeError` unless float64.
        """
        data = jnp.asarray(points)
        require(data.ndim >= 2 and data.shape[0] >= 2, "points", f"shape {data.shape}", "(n, ...) with n >= 2")
        data, classes = data.reshape(data.shape[0], -1), np.asarray(labels)
        require(classes.shape == data.shape[:1], "labels", f"shape {classes.shape}", "one label per point")
        weights = jnp.asarray(class_prior(classes))
        clean = jnp.eye(weights.size) if codes is None else jnp.asarray(codes)
        require(clean.shape[0] == weights.size, "codes", f"{clean.shape[0]} rows", f"one per class, {weights.size}")
        groups = [np.flatnonzero(classes == c) for c in range(weights.size)]
        parts = [empirical_moments(data[rows]) for rows in groups]
        means, covs = jnp.stack([p.mean for p in parts]), jnp.stack([p.cov for p in parts])
        if drawn is not None:
            require(noise_std == 0, "noise_std", noise_std, "0 where `drawn` holds the noise")
            laws = _drawn_laws(data, jnp.asarray(drawn), clean, groups, shared=shared)
        elif shared:
            moments = shared_moments(weights, means, covs, clean, noise_std)
            laws = [moments.given(code) for code in clean]
        else:
            ratios = [condition_noise_ratio(noise_std, float(jnp.linalg.norm(code))) for code in clean]
            laws = [corrupted_moments(p.mean, p.cov, s) for p, s in zip(parts, ratios, strict=True)]
        pooled = pooled_moments(weights, means, covs)
        return cls(path, jnp.stack([law.mean for law in laws]), jnp.stack([law.cov for law in laws]), pooled)

    def __call__(self, xt: Float[Array, "*shape"], t: Time, cond: Condition = None) -> Float[Array, "*shape"]:
        """x̂0 for one sample; see `MixtureDenoiser`. Raises `ValueError` for `cond=None` without pooled moments."""
        require(cond is not None or self.has_pooled, "cond", None, "a class: there are no pooled moments")
        return self.optimum(xt, t, cond)


def _drawn_laws(data: Array, drawn: Array, clean: Array, groups: list[np.ndarray], *, shared: bool) -> list[Gaussian]:
    """What the optimum under codes as drawn takes each class for."""
    fits = drawn.ndim == 2 and drawn.shape == (data.shape[0], clean.shape[1])
    require(fits, "drawn", f"shape {drawn.shape}", f"of shape ({data.shape[0]}, {clean.shape[1]})")
    if shared:
        moments = drawn_moments(data, drawn)
        return [moments.given(code) for code in clean]
    return [drawn_moments(data[rows], drawn[rows]).given(code) for rows, code in zip(groups, clean, strict=True)]


class Guided(eqx.Module):
    """Classifier-free guidance x̂0 = (1 + w) D(x_t, t, cond) - w D_u(x_t, t, None), in any interval of times.

    Linear in x̂0, hence the same combination of noises and of scores (Ho & Salimans 2021, eq. 6, their w).

    **Arguments:** `conditional` D; `weight` w >= 0; `unconditional` D_u (default: `conditional` called with None);
    `interval` (start, end): guidance acts at times start <= t <= end only, elsewhere x̂0 = D (Kynkäänniemi et al.
    2024, there in noise levels). Raises `ValueError` for a negative weight or an interval that is not one.
    """

    conditional: Denoiser
    weight: Float[ArrayLike, ""]
    unconditional: Denoiser | None = None
    interval: tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]] | None = None

    def __check_init__(self) -> None:
        """Check the weight and the interval."""
        require_between("weight", self.weight, 0.0, float("inf"))
        if self.interval is not None and all(is_concrete(end) for end in self.interval):
            start, end = (float(jnp.asarray(end)) for end in self.interval)
            require(0 <= start <= end <= 1, "interval", self.interval, "(start, end) with 0 <= start <= end <= 1")

    def __call__(self, xt: Float[Array, "*shape"], t: Time, cond: Any = None) -> Float[Array, "*shape"]:
        """x̂0 for one sample, in the type of `xt`."""
        w = jnp.asarray(self.weight, xt.dtype)
        if self.interval is not None:
            start, end = self.interval
            w = jnp.where((t >= jnp.asarray(start)) & (t <= jnp.asarray(end)), w, 0)
        without = self.conditional if self.unconditional is None else self.unconditional
        return (1 + w) * self.conditional(xt, t, cond) - w * without(xt, t, None)


class Clipped(eqx.Module):
    """Another denoiser with every entry of x̂0 held within [low, high], e.g. the pixels' range; off unless asked for.

    **Arguments:** `denoiser`; `low` < high, in the unit of x. Raises `ValueError` otherwise. Clipping makes an exact
    denoiser inexact wherever it acts.
    """

    denoiser: Denoiser
    low: Float[ArrayLike, ""]
    high: Float[ArrayLike, ""]

    def __check_init__(self) -> None:
        """Check the range."""
        if is_concrete(self.low) and is_concrete(self.high):
            require(
                float(jnp.asarray(self.low)) < float(jnp.asarray(self.high)),
                "low, high",
                (self.low, self.high),
                "two numbers, low < high",
            )

    def __call__(self, xt: Float[Array, "*shape"], t: Time, cond: Any = None) -> Float[Array, "*shape"]:
        """x̂0 for one sample, clipped."""
        x0_hat = self.denoiser(xt, t, cond)
        return jnp.clip(x0_hat, jnp.asarray(self.low, x0_hat.dtype), jnp.asarray(self.high, x0_hat.dtype))
