"""Inception-v3 as FID, sFID and the Inception Score use it: the network of 2015-12-05, in the layout of torch-fidelity.

Bytes (h, w, 3) are resized to 299 x 299 as TensorFlow 1 did (no half-pixel offset, no antialiasing: output pixel i lies
at input i · h/299), x -> (x - 128)/128, and passed through 94 convolutions, each with its batch norm folded into it,

    W' = W γ/√(v + 0.001),      b' = β - m γ/√(v + 0.001),      max(0, W' * x + b').

Out come, of each image, what the metrics of the field are made of:

    pool      2048   means over the last 8 x 8 map                                               FID, precision, recall
    spatial   2023   the first 7 channels of the third 17 x 17 block, 7 x 17 x 17                sFID (Nash et al. 2021)
    logits    1008   W pool, without the biases                                                  Inception Score

Sources: Szegedy et al. 2016, "Rethinking the Inception architecture"; torch-fidelity (Obukhov et al. 2020) for the
differences of this network from the paper's: averages that leave out the padding, and a maximum in the last block;
guided-diffusion's evaluator (Dhariwal, Nichol 2021) for `spatial` ("mixed_6/conv", which opens our Mixed_6d).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from imagegen.weight_files import read_arrays
from theory._checks import require

SIDE = 299
"""Pixels of the network's input, in height and width."""
BATCH = 64
"""Images per compiled call."""
POOL, CLASSES = 2048, 1008
"""Numbers of features and classes."""
EPSILON = 0.001
"""Added to the variance by every batch norm."""

Layer = tuple[str, int, tuple[int, int]]
"""A convolution: name, channels of its output, height and width of its kernel."""


class Block(NamedTuple):
    """Branches beside one another, their outputs joined.

    `branches`: convolutions one after another; a tuple of two at a branch's end forks it. `pool`: how the last branch
    pools, "average" or "max". `projection`: channels of the convolution after the pool; 0 where the block halves the
    map, by stride 2 in the last convolution of each branch and in the pool.
    """

    branches: tuple[tuple[Layer | tuple[Layer, Layer], ...], ...]
    pool: str
    projection: int


def _first(projection: int) -> Block:
    """A block of the 35 x 35 maps."""
    five = (("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5)))
    three = (("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3)))
    return Block(((("branch1x1", 64, (1, 1)),), five, three), "average", projection)


def _second(width: int) -> Block:
    """A block of the 17 x 17 maps, with kernels of 7 factorised."""
    seven = (("branch7x7_1", width, (1, 1)), ("branch7x7_2", width, (1, 7)), ("branch7x7_3", 192, (7, 1)))
    double = (
        ("branch7x7dbl_1", width, (1, 1)), ("branch7x7dbl_2", width, (7, 1)), ("branch7x7dbl_3", width, (1, 7)),
        ("branch7x7dbl_4", width, (7, 1)), ("branch7x7dbl_5", 192, (1, 7)),
    )  # fmt: skip
    return Block(((("branch1x1", 192, (1, 1)),), seven, double), "average", 192)


def _third(pool: str) -> Block:
    """A block of the 8 x 8 maps, with forks."""
    three = (("branch3x3_1", 384, (1, 1)), (("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))))
    double = (
        ("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)),
        (("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))),
    )  # fmt: skip
    return Block(((("branch1x1", 320, (1, 1)),), three, double), pool, 192)


STEM: tuple[tuple[Layer, int, bool], ...] = (
    (("Conv2d_1a_3x3", 32, (3, 3)), 2, False),
    (("Conv2d_2a_3x3", 32, (3, 3)), 1, False),
    (("Conv2d_2b_3x3", 64, (3, 3)), 1, True),
    (("Conv2d_3b_1x1", 80, (1, 1)), 1, False),
    (("Conv2d_4a_3x3", 192, (3, 3)), 1, False),
)
"""The convolutions before the blocks: the layer, its stride, whether it is padded."""
POOLED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
"""Those that a maximum of 3 x 3 with stride 2 follows."""
BLOCKS: dict[str, Block] = {
    "Mixed_5b": _first(32),
    "Mixed_5c": _first(64),
    "Mixed_5d": _first(64),
    "Mixed_6a": Block(
        (
            (("branch3x3", 384, (3, 3)),),
            (("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))),
        ),
        "max",
        0,
    ),
    "Mixed_6b": _second(128),
    "Mixed_6c": _second(160),
    "Mixed_6d": _second(160),
    "Mixed_6e": _second(192),
    "Mixed_7a": Block(
        (
            (("branch3x3_1", 192, (1, 1)), ("branch3x3_2", 320, (3, 3))),
            (
                ("branch7x7x3_1", 192, (1, 1)), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
                ("branch7x7x3_4", 192, (3, 3)),
            ),
        ),
        "max",
        0,
    ),
    "Mixed_7b": _third("average"),
    "Mixed_7c": _third("max"),
}  # fmt: skip
"""The blocks in their order."""
SPATIAL_BLOCK = "Mixed_6d"


class Convolution(eqx.Module):
    """max(0, W * x + b) on images (n, h, w, channels)."""

    weight: Float32[Array, "kh kw in out"]
    bias: Float32[Array, " out"]

    def __call__(self, x: Float[Array, "n h w in"], *, stride: int = 1, padded: bool = True) -> Float[Array, "n _ _ _"]:
        """Padded with zeros to the same size where `padded`."""
        margins = [(size // 2, size // 2) if padded else (0, 0) for size in self.weight.shape[:2]]
        highest = jax.lax.Precision.HIGHEST  # a GPU's usual one changes the third digit
        layout = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(
            x, self.weight, (stride, stride), margins, dimension_numbers=layout, precision=highest
        )
        return jax.nn.relu(out + self.bias)


class Outputs(NamedTuple):
    """Of n images: `pool` (n, 2048), `spatial` (n, 2023) and `logits` (n, 1008), float32; see the module's top."""

    pool: Float[np.ndarray, "n 2048"] | Float[Array, "n 2048"]
    spatial: Float[np.ndarray, "n 2023"] | Float[Array, "n 2023"]
    logits: Float[np.ndarray, "n 1008"] | Float[Array, "n 1008"]


class Inception(eqx.Module):
    """The network: convolutions by name, and the classifier's matrix. Make one with `from_state` or `load_inception`.

    `sha256` tells which weights: a hash of the arrays, whatever the file they came from.
    """

    layers: dict[str, Convolution]
    classifier: Float32[Array, "1008 2048"]
    sha256: str = eqx.field(static=True)

    def __call__(self, images: UInt8[Array, "n h w 3"]) -> Outputs:
        """Features of bytes; of no fixed size, at least 1 x 1. Traceable; `extract` goes through many images."""
        x = (resize(images.astype(jnp.float32)) - 128) / 128
        for (name, _, _), stride, padded in STEM:
            x = self.layers[name](x, stride=stride, padded=padded)
            x = _pooled(x, "max", stride=2) if name in POOLED else x
        spatial = x
        for name, block in BLOCKS.items():
            x = self._block(name, block, x)
            spatial = x[..., :7] if name == SPATIAL_BLOCK else spatial
        pool = jnp.mean(x, (1, 2))
        logits = jnp.matmul(pool, self.classifier.T, precision=jax.lax.Precision.HIGHEST)
        return Outputs(pool, spatial.reshape(len(images), -1), logits)

    def _block(self, name: str, block: Block, x: Float[Array, "n h w c"]) -> Float[Array, "n _ _ _"]:
        stride = 1 if block.projection else 2
        joined = []
        for branch in block.branches:
            y = x
            for step in branch[:-1]:
                y = self.layers[f"{name}.{step[0]}"](y)
            last = branch[-1]
            ends = [last] if isinstance(last[0], str) else last
            joined += [self.layers[f"{name}.{end[0]}"](y, stride=stride, padded=stride == 1) for end in ends]
        y = _pooled(x, block.pool, stride=stride)
        joined.append(self.layers[f"{name}.branch_pool"](y) if block.projection else y)
        return jnp.concatenate(joined, -1)

    def extract(self, batches: Iterable[UInt8[np.ndarray, "_ _ _ _"]]) -> Iterator[Outputs]:
        """The outputs of each batch of up to `BATCH` = 64 images (n, h, w, c) with 1 channel (repeated) or 3. Each
        size (h, w) is compiled once.

        Raises `ValueError` for other numbers of images or channels.
        """
        for images in batches:
            count = len(images)
            require(1 <= count <= BATCH, "number of images in a batch", count, f"1 ... {BATCH}")
            filled = np.concatenate([as_colour(images), np.zeros((BATCH - count, *images.shape[1:3], 3), np.uint8)])
            yield Outputs(*(np.asarray(part)[:count] for part in _run(self, jnp.asarray(filled))))


@eqx.filter_jit
def _run(network: Inception, images: UInt8[Array, "n h w 3"]) -> Outputs:
    return network(images)


def as_colour(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Images of 1 channel with it repeated; of 3 as they are. Raises `ValueError` for other numbers of channels."""
    channels = images.shape[-1]
    require(channels in (1, 3), "images", f"{channels} channels", "of 1 or 3 channels")
    return np.repeat(images, 3, axis=-1) if channels == 1 else images


def resize(images: Float[Array, "n h w c"], side: int = SIDE) -> Float[Array, "n side side c"]:
    """TensorFlow 1's bilinear `resize_images`: output pixel i at input i · h/side, neighbours weighted by distance, the
    last row and column repeated; along a row first. In float32, as there.
    """
    rows, columns = (_neighbours(size, side) for size in images.shape[1:3])
    low, high, share = columns
    x = images[:, :, low] + (images[:, :, high] - images[:, :, low]) * share[:, None]
    low, high, share = rows
    return x[:, low] + (x[:, high] - x[:, low]) * share[:, None, None]


def _neighbours(size: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output pixel the input pixels on both sides, and how far it is from the first."""
    at = np.arange(side, dtype=np.float32) * np.float32(size / side)
    low = at.astype(np.int32)
    return low, np.minimum(low + 1, size - 1), at - low.astype(np.float32)


def _pooled(x: Float[Array, "n h w c"], kind: str, *, stride: int) -> Float[Array, "n _ _ c"]:
    """Over 3 x 3 pixels: the maximum, or the average of those inside; with stride 1 to the same size."""
    window, steps = (1, 3, 3, 1), (1, stride, stride, 1)
    margins = "SAME" if stride == 1 else "VALID"
    if kind == "max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, steps, margins)
    totals = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, steps, margins)
    rows, columns = (_inside(size) for size in x.shape[1:3])
    return totals / np.outer(rows, columns)[..., None]


def _inside(size: int) -> Float32[np.ndarray, " size"]:
    """How many of the 3 pixels about each of `size` ones there are."""
    at = np.arange(size)
    return (np.minimum(at + 2, size) - np.maximum(at - 1, 0)).astype(np.float32)


def layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays of torch-fidelity's `FeatureExtractorInceptionV3`, but for the batch norms' counts
    of steps (`num_batches_tracked`), which change nothing.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, inputs, (_, outputs, kernel) in _layers():
        shapes[f"{name}.conv.weight"] = (outputs, inputs, *kernel)
        shapes |= {f"{name}.bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"fc.weight": (CLASSES, POOL), "fc.bias": (CLASSES,)}


def _layers() -> Iterator[tuple[str, int, Layer]]:
    """Every convolution with its full name and the channels of its input."""
    channels = 3
    for layer, _, _ in STEM:
        yield layer[0], channels, layer
        channels = layer[1]
    for name, block in BLOCKS.items():
        total = block.projection or channels
        for branch in block.branches:
            inputs = channels
            for step in branch:
                layers: tuple[Layer, ...] = (step,) if isinstance(step[0], str) else step
                for layer in layers:
                    yield f"{name}.{layer[0]}", inputs, layer
                inputs = sum(layer[1] for layer in layers)
            total += inputs
        if block.projection:
            yield f"{name}.branch_pool", channels, ("branch_pool", block.projection, (1, 1))
        channels = total


def from_state(state: Mapping[str, np.ndarray]) -> Inception:
    """The network of a state in torch-fidelity's layout (`layout`), batch norms folded in float64.

    Raises `InputError` naming the arrays that are missing, unexpected or of another shape, and for numbers that are not
    finite or variances below 0.
    """
    known = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    _check(known)
    layers = {name: _folded(known, name) for name, _, _ in _layers()}
    return Inception(layers, jnp.asarray(known["fc.weight"], jnp.float32), _fingerprint(known))


def load_inception(file: Path) -> Inception:
    """The network from torch-fidelity's file of weights (`weights-inception-2015-12-05-6726825d.pth`), or .safetensors
    with the same names; PyTorch is not needed. Raises `InputError` as `read_arrays` and `from_state` do.
    """
    return from_state(read_arrays(file)[0])


def _check(state: Mapping[str, np.ndarray]) -> None:
    shapes = layout()
    allowed = "of torch-fidelity's Inception-v3 (weights-inception-2015-12-05-6726825d.pth)"
    missing, other = [name for name in shapes if name not in state], [name for name in state if name not in shapes]
    require(not missing, "weights", f"{len(missing)} arrays missing, such as {missing[:2]}", allowed)
    require(not other, "weights", f"{len(other)} more arrays, such as {other[:2]}", allowed)
    wrong = [f"{name} {state[name].shape}" for name in shapes if state[name].shape != shapes[name]]
    require(not wrong, "weights", f"other shapes, such as {wrong[:2]}", allowed)
    bad = [name for name, value in state.items() if not np.all(np.isfinite(value))]
    bad += [name for name, value in state.items() if name.endswith("running_var") and np.any(value < 0)]
    require(not bad, "weights", f"other values in {bad[:2]}", "finite, variances not negative")


def _folded(state: Mapping[str, np.ndarray], name: str) -> Convolution:
    kernel = state[f"{name}.conv.weight"].astype(np.float64)
    parts = ("weight", "bias", "running_mean", "running_var")
    gain, bias, mean, variance = (state[f"{name}.bn.{part}"].astype(np.float64) for part in parts)
    scale = gain / np.sqrt(variance + EPSILON)
    weight = np.moveaxis(kernel * scale[:, None, None, None], (2, 3, 1, 0), (0, 1, 2, 3))
    return Convolution(jnp.asarray(weight, jnp.float32), jnp.asarray(bias - mean * scale, jnp.float32))


def _fingerprint(state: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names and values in float32."""
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode())
        total.update(np.ascontiguousarray(state[name], np.float32).tobytes())
    return total.hexdigest()
