"""Log-likelihood through the probability flow against exact log-densities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sim.likelihood import log_likelihood
from theory.gaussian import Gaussian
from theory.mixture import GaussianMixture
from theory.paths import PATHS, VPCosine

LAW = GaussianMixture(
    jnp.array([0.4, 0.6]),
    jnp.array([[-1.0, 0.5], [0.8, -0.2]]),
    jnp.array([[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.5]]]),
)


class Exact(eqx.Module):
    path: eqx.Module
    law: GaussianMixture

    def __call__(self, xt, t, cond):
        return self.law.posterior_mean(xt, self.path.signal(t), self.path.powers(t)[1])


@pytest.mark.parametrize(
    "name", ["vp_linear", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vp_cosine", "variance_exploding"))]
)
@pytest.mark.slow
def test_flow_likelihood_of_a_mixture_is_its_log_density(name):
    path = PATHS[name](jnp.ones(1))
    early, late = 0.1, 0.8
    prior, law = path.marginal(LAW, late), path.marginal(LAW, early)
    points = jnp.array([[0.0, 0.0], [-1.2, 1.0], [3.0, -2.0]])
    found = jax.vmap(lambda x: log_likelihood(Exact(path, LAW), path, x, prior.log_prob, between=(early, late)))(points)
    np.testing.assert_allclose(found, jax.jit(jax.vmap(law.log_prob))(points), atol=2e-7)


def test_flow_likelihood_on_a_spectral_path_is_that_of_the_gaussian():
    spectrum = jnp.array([2.0, 0.5, 0.1, 0.5])
    path = PATHS["equal_angle"](spectrum)

    def denoiser(xt, t, cond):
        signal, noise = path.powers(t)
        return path.from_basis(jnp.sqrt(signal) * spectrum / (signal * spectrum + noise) * path.to_basis(xt))

    data = Gaussian(jnp.zeros(4), path._matrix(spectrum, 4))
    x = jnp.array([0.3, -1.0, 0.2, 0.9])
    found = log_likelihood(denoiser, path, x, path.marginal(data, 0.7).log_prob, between=(0.05, 0.7))
    np.testing.assert_allclose(found, path.marginal(data, 0.05).log_prob(x), atol=1e-7)


def test_likelihood_near_the_data_is_that_of_the_data():
    path = VPCosine()
    prior = path.marginal(LAW, path.t_range[1])
    x = jnp.array([0.4, 0.1])
    found = log_likelihood(Exact(path, LAW), path, x, prior.log_prob)
    # at t = 1e-5 the law is the data's up to noise of variance 4e-7: the log-density moves by about that times 1/cov²
    np.testing.assert_allclose(found, LAW.log_prob(x), atol=1e-5)


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("between", {"between": (0.5, 0.2)}),
        ("between", {"between": (0.0, 0.5)}),
        ("rtol", {"rtol": 0.0}),
        ("atol", {"atol": 2.0}),
        ("x", {"x": jnp.array([jnp.nan, 0.0])}),
    ],
)
def test_bad_input_is_refused_by_name(argument, arguments):
    values = {"x": jnp.zeros(2), **arguments}
    with pytest.raises(ValueError, match=argument):
        log_likelihood(Exact(VPCosine(), LAW), VPCosine(), values.pop("x"), LAW.log_prob, **values)
