"""One loss on three floors: a linear network trained by imagegen's step arrives at theory's closed-form optimum.

Points of a two-class mixture, 2 x 2 pixels, are the whole population; theory's optimum for their moments, with the
rank-one term of perturbed conditions (`sim.denoisers.LinearDenoiser.fit` with shared W and V), is what the network
F = W x + V c of imagegen must learn at a fixed time, and the optimum without the term is what it must differ from.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.config import PATHS, Config
from imagegen.model import Model, ModelDenoiser, make_operators
from imagegen.paths import make_path
from imagegen.statistics import Statistics
from imagegen.step import State, Task, make_mesh, make_optimiser, make_step
from sim.denoisers import LinearDenoiser
from sim.loss import UniformTime, uniform
from sim.parameterisations import Data
from theory.spectra import power_spectrum

N, STEPS, BATCH, NOISE_STD, TIME = 2048, 1500, 512, 0.7, 0.4
RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1], N // 2)
POINTS = RNG.normal(size=(N, 4)) @ (RNG.normal(size=(4, 4)) / 2) + np.where(LABELS, 1.0, -1.0)[:, None] * [
    1.0,
    0.5,
    0,
    0,
]
IMAGES = POINTS.reshape(N, 2, 2, 1).astype(np.float32)
SPECTRUM = np.asarray(power_spectrum(IMAGES))
STATISTICS = Statistics((2, 2, 1), ("a", "b"), np.array([0.5, 0.5]), SPECTRUM, float(IMAGES.std()))


class Linear(eqx.Module):
    """F = W x + V c for one image."""

    weight: jax.Array
    code_weight: jax.Array
    d_emb: int = eqx.field(static=True, default=2)

    def __call__(self, x, label, cond):
        return (self.weight @ x.reshape(-1) + self.code_weight @ cond).reshape(x.shape)


def trained(path_name, noise_std):
    """The denoiser after training, with averaged weights; the codes are one-hot and are not trained."""
    corrupted = {"condition": "cep-g", "strength": noise_std * np.sqrt(2)} if noise_std else {}
    config = Config(
        path=path_name, null_rate=0.0, batch=BATCH, steps=STEPS, learning_rate=0.02, warmup=0, clip=1e6, ema=(0.99,),
        **corrupted,
    )  # fmt: skip
    model = Model(Linear(jnp.zeros((4, 4)), jnp.zeros((4, 2))), jnp.concatenate([jnp.eye(2), jnp.zeros((1, 2))]))
    spec = eqx.tree_at(lambda m: m.table, jax.tree.map(lambda _: True, model), False)
    parameters, static = eqx.partition(model, spec)
    path = make_path(path_name, STATISTICS)
    keys = jax.random.split(jax.random.key(1))
    fixed = UniformTime(TIME, TIME + 1e-6)
    task = Task(static, path, Data(), make_operators(config, STATISTICS), None, uniform, fixed, *keys, config)
    state = State(parameters, (parameters,), make_optimiser(config).init(parameters), jnp.zeros((), jnp.int32))
    state = jax.tree.map(jnp.copy, state)
    step, rng = make_step(task, make_mesh(config, jax.devices()[:1]), state), np.random.default_rng(2)
    for _ in range(STEPS):
        index = rng.integers(N, size=BATCH).astype(np.int32)
        state, _ = step(state, {"image": IMAGES[index], "label": LABELS[index].astype(np.int32), "index": index})
    return ModelDenoiser(eqx.combine(state.averages[0], static), path, Data())


def optimum(path, noise_std):
    with jax.enable_x64(True):
        path64 = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a, path)
        fitted = LinearDenoiser.fit(path64, IMAGES.astype(float), LABELS, noise_std=noise_std, shared=True)
        xt, classes = noisy(path)
        return np.asarray(jax.vmap(lambda x, c: fitted(x, jnp.asarray(TIME), c))(jnp.asarray(xt, float), classes))


def noisy(path):
    x0, eps = IMAGES[:: N // 64], jax.random.normal(jax.random.key(3), (64, 2, 2, 1), jnp.float32)
    return jax.vmap(lambda x, e: path.corrupt(x, jnp.float32(TIME), e))(x0, eps), jnp.asarray(LABELS[:: N // 64])


def distance(x, y):
    return float(np.sqrt(np.mean((x - y) ** 2)))


CASES = [(path, std) for path in PATHS for std in (0.0, NOISE_STD)]
QUICK = [("shortest", NOISE_STD)]


@pytest.mark.parametrize(
    ("path_name", "noise_std"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_a_linear_network_learns_theorys_optimum_with_the_rank_one_term(path_name, noise_std):
    denoiser = trained(path_name, noise_std)
    xt, classes = noisy(denoiser.path)
    found = jax.vmap(lambda x, c: denoiser(x, jnp.float32(TIME), c))(xt, classes)
    right, other = (optimum(denoiser.path, std) for std in (noise_std, NOISE_STD - noise_std))
    # averaging leaves a few per mille of noise; corrupting the condition moves the optimum by ten times as much
    assert distance(right, other) > 0.02
    assert distance(found, right) < 0.1 * distance(right, other)
