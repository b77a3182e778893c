"""Samplers: from noise to data along any path x_t = A_t x0 + S_t ε, with any denoiser x̂ = D(x_t, t, cond).

Write A, S for the gains at the later (noisier) time t, a, s for those at the earlier time, x̂ = D(x_t, t, cond) for the
estimate of E[x0 | x_t, cond], ε̂ = (x_t - A x̂)/S; all of it per frequency, in the path's basis. With the variance
q = S² - (A/a)² s² of the forward step and c² = stochasticity² s² q / S²:

    Ancestral          a x̂ + √(s² - c²) ε̂ + noise        variance of the noise:
        "small"        c²                                 DDIM at stochasticity 0, DDPM's β̃_t at 1
        "large"        stochasticity² q                   DDPM's β_t; none in the last step unless `noisy_end`
        "exact"        c² + (a - A √(s²-c²)/S)² Var       the true one for Gaussian data: Var = D S²/(A² D + S²)
    Euler, Heun        dx/dt = (S'/S)(x - A x̂) + A' x̂                                            probability flow
    SigmaHeun          Heun's rule in σ = S/A for y = x/A: dy/dσ = ε̂                              (EDM's sampler)
    DPMSolverPP2M      (s/S) x - a (e^{-h} - 1) [x̂ + (h / 2h_prev)(x̂ - x̂_prev)], h = step of log(A/S)
    ReverseSDE         dx = [f x - g² score] dt + g dw, f = A'/A, g² = (S²)' - 2 f S²           Euler-Maruyama
    Adaptive           the probability flow by Dormand-Prince 8(7) (diffrax), a reference

The last step never adds noise and asks the denoiser only at its later time, since at t = 0 nothing is left to denoise:
Heun's rules and DPM-Solver end with their first-order step. Where a path does not start clean (EDM) one more step
denoises from the last time to x0.

`sim.sampling.sample` runs them.

Sources: Ho et al. 2020 (ancestral), Song et al. 2021 (DDIM, eq. 12; probability flow and reverse SDE, eqs. 6, 13 of
"Score-based generative modeling"), Bao et al. 2022 (exact variance), Karras et al. 2022 (algorithm 1), Lu et al. 2022
(DPM-Solver++, algorithm 2).
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from sim.sampler_base import Move, Point, Sampler, ddim_step, point
from theory._checks import is_concrete, require
from theory.path_base import Gain, Path, Sample, mix, safe_sqrt

Variance = Literal["small", "large"]


class DDIM(Sampler):
    """x_s = a x̂ + s ε̂: the probability flow by Euler's rule in σ. Source: Song et al. 2021, eq. 12."""

    needs_signal: ClassVar[bool] = False
    order: ClassVar[int] = 1

    def step(self, xt: Sample, memory: PyTree, move: Move) -> tuple[Sample, PyTree]:
        """One step."""
        return ddim_step(xt, move), None


def _as_leaf(value: Float[ArrayLike, ""]) -> Float[ArrayLike, ""]:
    """An array, which compiled programs take as data; on the host, so that importing this module starts no device."""
    return value if isinstance(value, jax.Array) else np.asarray(value, float)


class Ancestral(Sampler):
    """DDIM (stochasticity 0) to ancestral sampling (1), with a fixed variance or, for Gaussian data, the exact one.

    **Arguments:** `stochasticity` in [0, 1]. `variance`: "small" or "large", or the data's variance D > 0 per frequency
    (a scalar or the path's grid), which asks for the exact one. `noisy_end`: keep the noise of the last step.

    Raises `ValueError` outside these ranges. Sources: Ho et al. 2020, section 3.2; Bao et al. 2022, theorem 1.
    """

    stochasticity: Float[ArrayLike, ""] = eqx.field(default=1.0, converter=_as_leaf)
    variance: Variance | Float[Array, "..."] = "small"
    noisy_end: bool = eqx.field(default=False, static=True)
    needs_signal: ClassVar[bool] = False
    order: ClassVar[int] = 1

    def __check_init__(self) -> None:
        """Check the ranges."""
        if is_concrete(self.stochasticity):
            require(0 <= float(np.asarray(self.stochasticity)) <= 1, "stochasticity", self.stochasticity, "in [0, 1]")
        if isinstance(self.variance, str):
            allowed = "small, large or the data's variance"
            require(self.variance in ("small", "large"), "variance", repr(self.variance), allowed)
        elif is_concrete(self.variance):
            require(bool(np.all(np.asarray(self.variance) > 0)), "variance", "an entry <= 0", "positive")

    def _gains(self, late: Point, early: Point) -> tuple[Gain, Gain, Gain]:
        """Gains of x_t, of x̂ and of fresh noise."""
        forward = jnp.maximum(late.noise**2 - (late.signal / early.signal * early.noise) ** 2, 0.0)
        share = jnp.clip(self.stochasticity**2 * forward / late.noise**2, 0.0, 1.0)
        small = early.noise**2 * share
        kept = early.noise * safe_sqrt(1 - share) / late.noise
        data = early.signal - late.signal * kept
        if isinstance(self.variance, str):
            added = small if self.variance == "small" else self.stochasticity**2 * forward
        else:
            total = late.signal**2 * self.variance + late.noise**2
            added = small + data**2 * self.variance * late.noise**2 / total
        return kept, data, safe_sqrt(added)

    def step(self, xt: Sample, memory: PyTree, move: Move) -> tuple[Sample, PyTree]:
        """A step with noise."""
        kept, data, added = self._gains(move.late, move.early)
        fresh = jax.random.normal(move.key, xt.shape, xt.dtype)
        return mix(move.path, (kept, xt), (data, move.estimate(xt)), (added, fresh)), None

    def last(self, xt: Sample, memory: PyTree, move: Move) -> Sample:
        """A step without its noise; with it for `noisy_end` and for the exact variance."""
        if self.noisy_end or not isinstance(self.variance, str):
            return self.step(xt, memory, move)[0]
        kept, data, _ = self._gains(move.late, move.early)
        return mix(move.path, (kept, xt), (data, move.estimate(xt)))

    def to_clean(self, xt: Sample, move: Move) -> Sample:
        """As `last`."""
        return self.last(xt, None, move)


def flow_slope(xt: Sample, estimate: Sample, at: Point, path: Path) -> Sample:
    """dx/dt of the probability flow: (S'/S) x + (A' - A S'/S) x̂."""
    spread = at.noise_slope / (2 * at.noise**2)
    return mix(path, (spread, xt), (at.signal_slope / (2 * at.signal) - at.signal * spread, estimate))


def _euler(xt: Sample, move: Move) -> tuple[Sample, Sample]:
    """Euler's step in t, and the slope it used."""
    slope = flow_slope(xt, move.estimate(xt), move.late, move.path)
    return xt + (move.early.t - move.late.t).astype(xt.dtype) * slope, slope


class Euler(Sampler):
    """The probability flow by Euler's rule in t. Source: Song et al. 2021, "Score-based modeling", eq. 13."""

    needs_signal: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def step(self, xt: Sample, memory: PyTree, move: Move) -> tuple[Sample, PyTree]:
        """One step."""
        return _euler(xt, move)[0], None

    def last(self, xt: Sample, memory: PyTree, move: Move) -> Sample:
        """The same rule."""
        return _euler(xt, move)[0]


class Heun(Sampler):
    """The probability flow by Heun's rule in t; its last step is Euler's."""

    needs_signal: ClassVar[bool] = True
    order: ClassVar[int] = 2

    def step(self, xt: Sample, memory: PyTree, move: Move) -> tuple[Sample, PyTree]:
        """One step."""
        predicted, slope = _euler(xt, move)
        end_slope = flow_slope(predicted, move.denoise(predicted, move.early.t), move.early, move.path)
        return xt + (move.early.t - move.late.t).astype(xt.dtype) / 2 * (slope + end_slope), None

    def last(self, xt: Sample, memory: PyTree, move: Move) -> Sample:
        """Euler's rule: at t = 0 the slope cannot be had from a denoiser."""
        return _euler(xt, move)[0]


class SigmaHeun(Sampler):
    """Heun's rule in σ = S/A for x/A; the last step is DDIM's. On an EDM path this is EDM's deterministic sampler.

    Source: Karras et al. 2022, algorithm 1.
    """

    needs_signal: ClassVar[bool] = True
    order: ClassVar[int] = 2

    def step(self, xt: Sample, memory: PyTree, move: Move) -> tuple[Sample, PyTree]:
        """DDIM's step plus (s - a S/A)(ε̂ at its end - ε̂ at its start)/2, where that difference is
        (a/s)(x̂ at its start - x̂ at its end)."""
        late, early = move.late, move.early
        kept = early.noise / late.noise
        estimate = move.estimate(xt)
        predicted = mix(move.path, (kept, xt), (early.signal - late.signal * kept, estimate))
        change = estimate - move.denoise(predicted, early.t)
        bend = early.signal * (1 - early.signal * late.noise / (late.signal * early.noise)) / 2
        return predicted + mix(move.path, (bend, change)), None


class DPMSolverPP2M(Sampler):
    """DPM-Solver++(2M): two-step Adams-Bashforth for x̂ in log(A/S), per frequency; first and last step of order 1.

    Source: Lu et al. 2022, "DPM-Solver++", algorithm 2, with their `lower_order_final`.
    """

    needs_signal: ClassVar[bool] = False
    order: ClassVar[int] = 2

    def start(self, xt: Sample, path: Path) -> PyTree:
        """No estimate yet: as if the previous step had been infinite."""
        return jnp.zeros_like(xt), jnp.full(path.grid, jnp.inf)

    def step(self, xt: Sample, memory: PyTree, move: Move) -> tuple[Sample, PyTree]:
        """One step; remembers x̂ and h."""
        late, early = move.late, move.early
        before, h_before = memory
        h = jnp.log(early.signal / early.noise) - jnp.log(late.signal / late.noise)
        tilt = jnp.where(jnp.isfinite(h), h / (2 * h_before), 0.0)
        estimate = move.estimate(xt)
        data = -early.signal * jnp.expm1(-h)
        moved = mix(move.path, (early.noise / late.noise, xt), (data * (1 + tilt), estimate), (-data * tilt, before))
        return moved, (estimate, jnp.broadcast_to(h, h_before.shape).astype(h_before.dtype))


class ReverseSDE(Sampler):
    """The reverse-time SDE by the Euler-Maruyama rule in t; the last step without noise.

    Source: Song et al. 2021, "Score-based generative modeling", eq. 6.
    """

    needs_signal: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def _drifted(self, xt: Sample, move: Move) -> tuple[Sample, Gain]:
        """x + (f x - g² score) Δt, and g² |Δt|; the score is (A x̂ - x)/S²."""
        late, step = move.late, move.early.t - move.late.t
        pull = late.signal_slope / (2 * late.signal**2)
        diffusion = jnp.maximum(late.noise_slope - 2 * pull * late.noise**2, 0.0)
        rate = diffusion / late.noise**2
        kept, data = 1 + step * (pull + rate), -step * rate * late.signal
        return mix(move.path, (kept, xt), (data, move.estimate(xt))), -step * diffusion

    def step(self, xt: Sample, memory: PyTree, move: Move) -> tuple[Sample, PyTree]:
        """One step."""
        moved, variance = self._drifted(xt, move)
        fresh = jax.random.normal(move.key, xt.shape, xt.dtype)
        return moved + mix(move.path, (safe_sqrt(variance), fresh)), None

    def last(self, xt: Sample, memory: PyTree, move: Move) -> Sample:
        """The mean of a step."""
        return self._drifted(xt, move)[0]


class Adaptive(Sampler):
    """The probability flow in t between given times by Dormand-Prince 8(7) with error control (diffrax): a reference.

    The last step to t = 0 integrates to t = `end` and then takes x0 = (x/A + x̂)/2, per frequency, which is exact up to
    fourth order in σ.

    **Arguments:** `rtol`, `atol` > 0: tolerances per step, float64 advised. `end` in (0, 1). Raises `ValueError`
    outside these ranges. Source of the rule: Dormand & Prince 1981 by way of Kidger's diffrax.
    """

    rtol: float = eqx.field(default=1e-10, static=True)
    atol: float = eqx.field(default=1e-12, static=True)
    end: float = eqx.field(default=1e-7, static=True)
    needs_signal: ClassVar[bool] = True
    order: ClassVar[int] = 8

    def __check_init__(self) -> None:
        """Check the ranges."""
        for name in ("rtol", "atol"):
            require(0 < getattr(self, name) < 1, name, getattr(self, name), "in (0, 1)")
        require(0 < self.end < 1, "end", self.end, "in (0, 1)")

    def _flow(self, xt: Sample, move: Move, end: Float[Array, ""]) -> Sample:
        """The flow from the later time to `end`."""
        import diffrax

        def slope(t: Any, x: Sample, _: Any) -> Sample:
            return flow_slope(x, move.denoise(x, t), point(move.path, t), move.path)

        control = diffrax.PIDController(rtol=self.rtol, atol=self.atol)
        term, solver = diffrax.ODETerm(slope), diffrax.Dopri8()
        solution = diffrax.diffeqsolve(
            term, solver, move.late.t, end, None, xt, stepsize_controller=control, max_steps=100_000
        )
        return solution.ys[0]

    def step(self, xt: Sample, memory: PyTree, move: Move) -> tuple[Sample, PyTree]:
        """The flow between the two times."""
        return self._flow(xt, move, move.early.t), None

    def last(self, xt: Sample, memory: PyTree, move: Move) -> Sample:
        """The flow to t = 0, or to the earlier time where that is later than `end`."""
        end = jnp.maximum(move.early.t, self.end)
        arrived = self._flow(xt, move, end)
        clean = _half_step(arrived, move._replace(late=point(move.path, end)))
        return jnp.where(move.early.t >= self.end, arrived, clean)

    def to_clean(self, xt: Sample, move: Move) -> Sample:
        """The half step from the path's earliest time."""
        return _half_step(xt, move)


def _half_step(xt: Sample, move: Move) -> Sample:
    """(x/A + x̂)/2: y0 = y + (σ²/2) score to second order in σ², and x̂ = y + σ² score."""
    return mix(move.path, (0.5 / move.late.signal, xt), (jnp.asarray(0.5), move.estimate(xt)))


SAMPLERS: dict[str, Sampler] = {
    "ddim": DDIM(),
    "ancestral_small": Ancestral(variance="small"),
    "ancestral_large": Ancestral(variance="large"),
    "euler": Euler(),
    "heun": Heun(),
    "sigma_heun": SigmaHeun(),
    "dpm_solver_pp_2m": DPMSolverPP2M(),
    "reverse_sde": ReverseSDE(),
}
"""The samplers with a fixed number of steps, by name; "ddim" and the ancestral ones as in `theory.discretisation`."""
