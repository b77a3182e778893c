"""Images from a model: any sampler and grid of `sim`, with guidance, in batches of one shape.

Guidance is Patina's w >= 0 (`sim.denoisers.Guided`): the scale of DiT and of most tools is 1 + w.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path as File

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key, UInt8

from imagegen._names import require_one_of
from imagegen.model import Encoded, ModelDenoiser, TextModel, encoded
from sim.denoisers import Guided
from sim.sampler_base import Denoiser
from sim.samplers import SAMPLERS
from sim.sampling import sample
from sim.times import GRIDS, time_grid
from theory._checks import require
from theory.path_base import Path

BATCH = 250
"""Images per compiled call, where nothing else is said."""
SHOWN_SIZE = 64
"""Height in pixels that small images are enlarged to in a grid."""


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How images are made: `sampler` and `grid` of times (`sim.samplers.SAMPLERS`, `sim.times.GRIDS`), `steps` >= 1,
    `guidance` w >= 0, at times within `interval`. Raises `InputError` outside these.
    """

    sampler: str = "ddim"
    grid: str = "uniform"
    steps: int = 50
    guidance: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Check names and ranges."""
        require_one_of("sampler", self.sampler, SAMPLERS)
        require_one_of("grid", self.grid, GRIDS)
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.guidance >= 0, "guidance", self.guidance, "at least 0 (Patina's w: the usual scale minus 1)")
        start, end = self.interval
        require(0 <= start <= end <= 1, "interval", self.interval, "(start, end) with 0 <= start <= end <= 1")


def sampling_key(seed: int) -> Key[Array, ""]:
    """The key of everything sampled with a seed, 0 ... 2^32 - 1: apart from those that training draws with the same."""
    return jax.random.fold_in(jax.random.key(seed), 2**32 - 1)


def require_null(how: SamplerConfig, null_rate: float) -> None:
    """Raise `InputError` for guidance by a model that was never trained without a condition."""
    require(how.guidance == 0 or null_rate > 0, "guidance", how.guidance, "0 for a run trained with null_rate=0")


def generate(
    denoiser: ModelDenoiser,
    shape: tuple[int, int, int],
    conds: Int[np.ndarray, "n *m"] | Float[Array, "n *m d_emb"] | Float[np.ndarray, "n *m d_emb"],
    key: Key[Array, ""],
    how: SamplerConfig,
    batch: int = BATCH,
) -> Float[np.ndarray, "n h w c"]:
    """One image per condition (a class, m tokens of a caption, or an embedding), float32, about [-1, 1], not clipped;
    `batch` >= 1 images in a compiled call.

    Image number i depends on the key, i and its condition alone, not on how many are made; where the sampler adds noise
    on the `batch`, too. Raises `ValueError` where the model returns something that is not finite.
    """
    path, sampler, times = denoiser.path, SAMPLERS[how.sampler], _times(denoiser.path, how)
    key_start, key_steps = jax.random.split(key)
    parts = []
    for low in range(0, len(conds), batch):
        part = np.arange(low, low + batch) % len(conds)  # the last batch is filled up: one shape, one program
        keys = jax.vmap(lambda i: jax.random.fold_in(key_start, i))(jnp.arange(low, low + batch))
        start = _noise(path, keys, times[0], shape)
        guided, shown = _shown(denoiser, how, jnp.asarray(conds)[part])
        made = sample(guided, path, sampler, times, start, jax.random.fold_in(key_steps, low), shown)
        parts.append(np.asarray(made))
    return np.concatenate(parts)[: len(conds)]


def _times(path: Path, how: SamplerConfig) -> Float[Array, " k"]:
    first = path.t_range[1] if SAMPLERS[how.sampler].needs_signal else 1.0
    return time_grid(path, how.steps, how.grid, first=first).astype(jnp.float32)


def _shown(denoiser: ModelDenoiser, how: SamplerConfig, conds: Array) -> tuple[Denoiser, Array]:
    """The denoiser, guided if asked for, and what it is shown: captions are encoded once, not at every step."""
    if isinstance(denoiser.model, TextModel):
        denoiser, conds = encoded(denoiser, conds)
    if isinstance(denoiser.model, Encoded):
        conds = conds.astype(jnp.float32)  # prepared embeddings are float16
    guided = Guided(denoiser, jnp.float32(how.guidance), interval=how.interval) if how.guidance else denoiser
    return guided, conds


@eqx.filter_jit
def _noise(
    path: Path, keys: Key[Array, " n"], t: Float[Array, ""], shape: tuple[int, int, int]
) -> Float[Array, "n h w c"]:
    """x_t without data at the first time: what a path that ends in noise ends in."""

    def one(key: Key[Array, ""]) -> Float[Array, "h w c"]:
        return path.corrupt(jnp.zeros(shape, jnp.float32), t, jax.random.normal(key, shape, jnp.float32))

    return jax.vmap(one)(keys)


def walk(
    denoiser: ModelDenoiser,
    shape: tuple[int, int, int],
    cond: Int[ArrayLike, "*m"] | Float[np.ndarray, "*m d_emb"],
    key: Key[Array, ""],
    how: SamplerConfig,
    count: int,
) -> Float[np.ndarray, "count h w c"]:
    """Images of one class, of a caption's tokens, or of an embedding, along a circle of starting noise, cos θ z_1 +
    sin θ z_2 with θ in `count` >= 1 equal steps of 2π/count: every start has the law of the sampler's start, and the
    last image is next to the first. Meant for samplers that add no noise. Raises `ValueError` as `generate` does.
    """
    path, times = denoiser.path, _times(denoiser.path, how)
    key_start, key_steps = jax.random.split(key)
    z1, z2 = _noise(path, jax.random.split(key_start), times[0], shape)
    angle = 2 * jnp.pi * jnp.arange(count, dtype=jnp.float32)[:, None, None, None] / count
    starts = jnp.cos(angle) * z1 + jnp.sin(angle) * z2
    guided, shown = _shown(denoiser, how, jnp.stack([jnp.asarray(cond)] * count))
    return np.asarray(sample(guided, path, SAMPLERS[how.sampler], times, starts, key_steps, shown))


def to_bytes(images: Float[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w c"]:
    """Images of [-1, 1] as bytes: ⌊127.5 (x + 1) + ½⌋, clipped. (DiT's scripts write ⌊127.5 x + 128⌋.)"""
    return np.clip(np.floor(127.5 * (images + 1) + 0.5), 0, 255).astype(np.uint8)


def save_grid(images: Float[np.ndarray, "n h w c"], file: File, *, columns: int) -> None:
    """Write images as one PNG, row by row, `columns` >= 1 of them side by side; small ones enlarged to about
    `SHOWN_SIZE` pixels. Of more than three channels, as latents have them, the first three are shown."""
    from PIL import Image

    pixels = to_bytes(images[..., : min(3, images.shape[3])])
    n, h, w, c = pixels.shape
    enlarge = max(1, SHOWN_SIZE // h)
    rows = -(-n // columns)
    padded = np.concatenate([pixels, np.full((rows * columns - n, h, w, c), 255, np.uint8)])
    framed = np.pad(padded.repeat(enlarge, 1).repeat(enlarge, 2), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    height, width = framed.shape[1:3]
    sheet = framed.reshape(rows, columns, height, width, c).swapaxes(1, 2).reshape(rows * height, columns * width, c)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet[..., 0] if c == 1 else sheet).save(file)


def evenly(classes: Sequence[int], count: int) -> Int[np.ndarray, " n"]:
    """`count` labels, the classes in turn."""
    return np.resize(np.asarray(classes), count)
