"""Weights of a run as one file, and runs that start from such a file or from published weights.

A .safetensors file of ours holds the network's arrays and the class table by their names in `Model`, such as
`network.blocks.qkv.weight` and `table`, float32, averaged over training; its metadata (text by name) say what they are:

    layout                  "patina"
    config, statistics      JSON, as in the run's folder
    step, ema               of the checkpoint, and the decay of the average

Also read: files of safetensors, or of `torch.save`, with a DiT in the layout of facebookresearch/DiT or diffusers, or
an LDM U-Net in that of CompVis/latent-diffusion or diffusers (see `imagegen.networks`). Which one it is is seen by the
names. A class table comes with DiT and CompVis's checkpoints; diffusers' U-Net has none, and the run's own new one
stays. Of a DiT that also predicts variances, the half of the last layer that predicts the image's noise is taken. A
run that reads text takes a published U-Net too, whose cross-attention must be as wide as its tokens; its text encoder
stays as drawn.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from imagegen.checkpoint import named
from imagegen.config import as_json
from imagegen.hosts import leads
from imagegen.model import AnyModel, Model, TextModel, trained
from imagegen.networks import diffusers_layouts, dit_weights, ldm_weights
from imagegen.networks.dit import DiT
from imagegen.networks.ldm_unet import LDMUNet
from imagegen.networks.states import State, check_state, float32
from imagegen.run import load_run
from imagegen.statistics import as_json as statistics_as_json
from imagegen.step import State as TrainingState
from imagegen.step import Task
from imagegen.weight_files import read_arrays
from theory._checks import InputError, require
from theory._files import note_file, write_whole

__all__ = ["export_run", "note_start", "read_weights", "start_from", "started"]


def export_run(folder: Path, file: Path, *, ema: float | None = None) -> None:
    """Write the averaged weights of a run's newest checkpoint as one .safetensors file, whole or not at all.

    Raises `InputError` for another ending, a folder without a run or checkpoint, and a decay that it has not got.
    """
    from safetensors.numpy import save

    require(file.suffix == ".safetensors", "out", f"'{file}'", "a file that ends in .safetensors")
    require(file.parent.is_dir(), "out", f"'{file}'", "in a folder that exists")
    run = load_run(folder, ema=ema)
    arrays = {name: np.asarray(leaf) for name, leaf in _arrays(run.denoiser.model).items()}
    about = {
        "layout": "patina",
        "config": as_json(run.config),
        "statistics": statistics_as_json(run.statistics),
        "step": str(run.step),
        "ema": str(run.config.ema[-1] if ema is None else ema),
    }
    write_whole(file, save(arrays, about))


def read_weights(file: Path) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a file by name, and whether they are in our layout.

    Raises `InputError` for a file that is missing or cannot be read.
    """
    require(file.is_file(), "start", f"'{file}', which is no file", "a file of weights")
    arrays, about = read_arrays(file)
    return arrays, about.get("layout") == "patina"


def start_from(model: AnyModel, file: Path) -> AnyModel:
    """The model with the weights of the file; what a published layout has not, class table or text encoder, stays.

    Raises `InputError` for a file that is missing or cannot be read, weights of another network than the model's,
    naming arrays that differ, and numbers that are not finite.
    """
    state, ours = read_weights(file)
    arrays, rest = eqx.partition(model, trained(model))
    own = _arrays(model)
    try:
        found = state if ours else _published(model, state)
        shapes = {name: leaf.shape for name, leaf in own.items() if ours or name in found or _of_network(name)}
        check_state(found, shapes, "the run's model")
    except InputError as error:
        raise InputError(f"start: '{file}' does not fit a run of {type(model.network).__name__}: {error}") from error
    if isinstance(model, TextModel) and not ours and leads():
        print(f"start: '{file}' has the network alone; the text encoder starts as drawn from the seed", flush=True)
    filled = [float32(found[name]) if name in found else leaf for name, leaf in own.items()]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), filled), rest)


def _of_network(name: str) -> bool:
    return name.startswith("network.")


def _published(model: AnyModel, state: State) -> Mapping[str, Any]:
    """What a state in a published layout has of the model's arrays, by their names; of the sizes that it has."""
    network: Any = model.network
    if isinstance(network, DiT):
        known = diffusers_layouts.dit_state(state, network.grid) if diffusers_layouts.is_dit(state) else state
        filled, table = dit_weights.from_reference(known, heads=network.heads)
        require(filled.shape == network.shape, "state", f"for {filled.shape}", f"for images of shape {network.shape}")
        twice = len(filled.final.bias) == 2 * len(network.final.bias)
        return _arrays(Model(dit_weights.without_variances(filled) if twice else filled, table))
    require(isinstance(network, LDMUNet), "state", "another layout", "written by `export`")
    inner, rows = ldm_weights.of_checkpoint(state)
    if diffusers_layouts.is_ldm(state):
        inner = diffusers_layouts.ldm_state(state)
    _require_tokens(inner, network)
    with_network = eqx.tree_at(lambda one: one.network, model, ldm_weights.from_reference(inner, network))
    found = {name: leaf for name, leaf in _arrays(with_network).items() if _of_network(name)}
    return found if rows is None or not isinstance(model, Model) else {**found, "table": rows}


def _require_tokens(state: State, network: LDMUNet) -> None:
    """The U-Net's cross-attention must read what the run shows it; the same for all its layers."""
    width = next((value.shape[-1] for name, value in state.items() if name.endswith("attn2.to_k.weight")), None)
    allowed = f"that of the run's classes or tokens, {network.d_emb} numbers (text_encoder chooses it)"
    require(width in (None, network.d_emb), "state's condition", f"one of {width} numbers", allowed)


def _arrays(model: AnyModel) -> dict[str, Any]:
    """What is trained, by name: `network.blocks.qkv.weight`, `table`."""
    return {name.removeprefix("."): leaf for name, leaf in named(eqx.filter(model, trained(model))).items()}


def note_start(file: Path, noted: Path) -> str:
    """What a run notes of the file that it starts from, in the file `noted`: JSON with its SHA-256.

    Raises `InputError` for a missing file, and for one that has changed since `noted` was written.
    """
    require(file.is_file(), "start", f"'{file}', which is no file", "a file of weights")
    return note_file("start", file, noted)


def started(state: TrainingState, task: Task, file: Path) -> TrainingState:
    """The state of a run that has not begun, its weights and their averages those of the file.

    Raises `InputError` as `start_from` does.
    """
    model = start_from(eqx.combine(state.parameters, task.static), file)
    arrays = eqx.filter(model, trained(model))
    # the step uses each of them up, so each is an array of its own
    parameters, *averages = (jax.tree.map(_placed, state.parameters, arrays) for _ in range(1 + len(state.averages)))
    return TrainingState(parameters, tuple(averages), state.moments, state.step)


def _placed(like: jax.Array, array: jax.Array) -> jax.Array:
    """A copy of the array, split over devices and hosts as `like` is."""
    if array is like:  # the run's own, which may lie on several hosts
        return jnp.copy(like)
    values = np.asarray(array)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda part: values[part])
