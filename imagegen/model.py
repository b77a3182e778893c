"""What is trained: a network with a table of class embeddings, or a text encoder, or alone; and the denoiser it is.

    embedding of class c       row c of the table, through the run's operators in training, as it is in sampling
    no class                   the last row: the null condition of classifier-free guidance
    embedding of a caption     what the encoder makes of its tokens, one vector for each, through the same operators
    no caption                 what it makes of the empty caption's

or, of a frozen encoder's embeddings that were prepared with the data (`imagegen.data.embeddings`), these themselves.
The embedding is drawn here for every network, so every operator acts at one place.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from imagegen._names import require_one_of
from imagegen.config import Config
from imagegen.data.embeddings import Frozen
from imagegen.data.tokens import Vocabulary
from imagegen.networks.registry import encoder_flops, forward_flops, make_network, make_text_network
from imagegen.networks.text import TextEncoder, make_encoder
from imagegen.statistics import Statistics
from sim.parameterisations import EDM, PARAMETERISATIONS, Network, Parameterisation, Predictor
from sim.training import ConditionOperators
from theory._checks import require
from theory.corruption import (
    Dropout,
    EmbeddingGaussian,
    EmbeddingUniform,
    Fixed,
    Fresh,
    LabelFlip,
    LabelSmoothing,
    Partly,
    VectorCorruption,
    asymmetric_flip,
    symmetric_flip,
)
from theory.path_base import Path, Time

COMPUTE = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
TABLE_STD = 0.02
"""Standard deviation of initial embeddings, as in DiT; CEP's noise is relative to 1/√d_emb, not to it."""


class Model(eqx.Module):
    """Network and class table, `K + 1` rows of `d_emb`, the last one the null condition."""

    network: Network
    table: Float[Array, "K1 d_emb"]

    def embedding(self, cond: Any) -> Float[Array, " d_emb"]:
        """The embedding of a class index, of None (the null condition), or an embedding itself."""
        if cond is None:
            return self.table[-1]
        return self.table[cond] if jnp.issubdtype(jnp.result_type(cond), jnp.integer) else cond


class TextModel(eqx.Module):
    """Network and text encoder, and the tokens of the empty caption."""

    network: Network
    encoder: TextEncoder
    empty: Int[Array, " m"]

    def embedding(self, cond: Any) -> Float[Array, "m d_emb"]:
        """The embeddings of a caption's tokens, of None (the empty caption), or embeddings themselves."""
        if cond is None:
            return self.encoder(self.empty)
        return self.encoder(cond) if jnp.issubdtype(jnp.result_type(cond), jnp.integer) else cond


class Encoded(eqx.Module):
    """A network with its null condition, an embedding that is not trained; what it is shown is encoded already."""

    network: Network
    null: Float[Array, "*m d_emb"]

    def embedding(self, cond: Any) -> Float[Array, "*m d_emb"]:
        """The embedding given, or that of None, the null condition."""
        return self.null if cond is None else cond


AnyModel = Model | TextModel | Encoded


def trained(model: AnyModel) -> PyTree:
    """For each leaf of the model, whether it is trained."""
    inexact = jax.tree.map(eqx.is_inexact_array, model)
    return eqx.tree_at(lambda one: one.null, inexact, False) if isinstance(model, Encoded) else inexact


class ModelDenoiser(eqx.Module):
    """A model as a denoiser `(xt, t, cond) -> x0_hat`: `cond` is a class index or a caption's tokens, None, or an
    embedding.
    """

    model: AnyModel
    path: Path
    parameterisation: Parameterisation

    def __call__(self, xt: Float[Array, "h w c"], t: Time, cond: Any = None) -> Float[Array, "h w c"]:
        """x̂0 at `xt`."""
        predictor = Predictor(self.model.network, self.path, self.parameterisation)
        return predictor(xt, t, self.model.embedding(cond))


@eqx.filter_jit
def encoded(denoiser: ModelDenoiser, conds: Int[Array, "n ..."] | Float[Array, "n ..."]) -> tuple[ModelDenoiser, Array]:
    """The denoiser of embeddings, and those of n conditions: what a sampler should not encode anew at every step."""
    model = denoiser.model
    ready = ModelDenoiser(Encoded(model.network, model.embedding(None)), denoiser.path, denoiser.parameterisation)
    return ready, jax.vmap(model.embedding)(conds)


def make_model(
    config: Config, statistics: Statistics, key: Key[Array, ""], text: Vocabulary | Frozen | None = None
) -> AnyModel:
    """The model of a run, with float32 parameters; one that reads text where a vocabulary or a frozen encoder is given.

    Raises `ValueError` where the network does not fit the images.
    """
    key_network, key_table = jax.random.split(key)
    dtype = COMPUTE[config.compute]
    make_reader = partial(
        make_text_network, config.network, statistics.shape, key=key_network, dtype=dtype, remat=config.remat
    )
    if isinstance(text, Frozen):
        return Encoded(make_reader(text.null.shape[1]), jnp.asarray(text.null, jnp.float32))
    if text is not None:
        encoder = make_encoder(
            config.text_encoder, text.size, len(text.empty), key=key_table, dtype=dtype, remat=config.remat
        )
        return TextModel(make_reader(encoder.d_emb), encoder, jnp.asarray(text.empty))
    network = make_network(config.network, statistics.shape, key=key_network, dtype=dtype, remat=config.remat)
    table = TABLE_STD * jax.random.normal(key_table, (len(statistics.class_names) + 1, network.d_emb), jnp.float32)
    return Model(network, table)


def model_flops(model: AnyModel, shape: tuple[int, int, int]) -> float:
    """Floating-point operations of one pass over one image of `shape` and its caption, if any: `forward_flops`."""
    if isinstance(model, Model):
        return forward_flops(model.network, shape)
    if isinstance(model, Encoded):
        return forward_flops(model.network, shape, len(model.null))
    tokens = len(model.empty)
    return forward_flops(model.network, shape, tokens) + encoder_flops(model.encoder, tokens)


def make_parameterisation(config: Config, statistics: Statistics) -> Parameterisation:
    """What the run's network predicts; EDM's scale is the standard deviation of the images."""
    if config.predict == "edm":
        return EDM(statistics.std)
    return PARAMETERISATIONS[config.predict]()


def make_operators(config: Config, statistics: Statistics) -> ConditionOperators:
    """The run's operators on the class and on its embedding. Raises `ValueError` for flips where a class is empty, and
    for groups of confusable classes as `confusable_groups` does.

    Label smoothing is not among them: it acts on the table, see `training_codes`.
    """
    return ConditionOperators(_label_operator(config, statistics), _embedding_operator(config), config.null_rate)


def _label_operator(config: Config, statistics: Statistics) -> Fixed | Fresh | None:
    if config.flips == "none":
        return None
    prior = jnp.asarray(statistics.prior, jnp.float32)
    if config.flips == "symmetric":
        flip: LabelFlip = symmetric_flip(prior, config.flip_share)
    else:
        groups = confusable_groups(config.confusable, statistics.class_names)
        flip = asymmetric_flip(prior, config.flip_share, jnp.asarray(groups))
    return Fixed(flip) if config.flips_drawn == "fixed" else Fresh(flip)


def confusable_groups(groups: Sequence[str], class_names: Sequence[str]) -> Int[np.ndarray, " K"]:
    """A number for each class, the same for those of one group (names joined by `/`) and for no others.

    Raises `InputError` for a name that is no class, suggesting the nearest, a class named twice, a group of one, and
    where the name of a class has a `/` itself.
    """
    strange = [name for name in class_names if "/" in name]
    require(not (groups and strange), "confusable", f"groups joined by / of classes such as {strange[:1]}",
            "left out for classes with / in their names")  # fmt: skip
    numbers = np.arange(len(class_names))
    members = [group.split("/") for group in groups]
    named = [name for group in members for name in group]
    for group in members:
        require(len(group) >= 2, "confusable", "/".join(group), "groups of two classes or more, joined by /")
    for name in named:
        require_one_of("confusable", name, class_names)
        require(named.count(name) == 1, "confusable", f"'{name}' twice", "groups without a class in common")
    for group in members:
        places = [class_names.index(name) for name in group]
        numbers[places] = places[0]
    return numbers


def _embedding_operator(config: Config) -> Fixed | Fresh | None:
    kinds = {"cep-u": EmbeddingUniform, "cep-g": EmbeddingGaussian, "dropout": Dropout}
    if config.condition not in kinds:
        return None
    operator: VectorCorruption = kinds[config.condition](config.strength)
    if config.condition_share < 1:
        operator = Partly(operator, config.condition_share)
    return Fixed(operator) if config.condition_drawn == "fixed" else Fresh(operator)


def training_codes(config: Config, table: Float[Array, "K1 d_emb"]) -> Float[Array, "K d_emb"]:
    """The classes' embeddings as training shows them: the rows, or with label smoothing the smoothed classes' mix."""
    rows = table[:-1]
    if config.condition != "label smoothing":
        return rows
    smooth = LabelSmoothing(config.strength)
    return jax.vmap(smooth.mean)(jnp.eye(rows.shape[0], dtype=rows.dtype)) @ rows
