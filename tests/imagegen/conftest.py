"""Options of imagegen's tests: where the references of parity tests are, which Python runs them. A small network."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from imagegen.networks.dit import DiT
from imagegen.networks.registry import NETWORKS


def pytest_addoption(parser):
    group = parser.getgroup("imagegen")
    group.addoption("--reference", type=Path, help="a checkout of facebookresearch/DiT, for the parity test")
    group.addoption("--ldm-reference", type=Path, help="a checkout of CompVis/latent-diffusion, for its parity test")
    group.addoption("--reference-python", help="a Python that has torch, torchvision, timm, einops and diffusers")


@pytest.fixture(scope="session")
def small_network():
    """A network named "small", quick to compile, for tests of what surrounds a network."""

    def small(shape, *, key, dtype=jnp.float32, remat=False):
        return DiT(shape, patch=4, width=16, depth=1, heads=2, key=key, dtype=dtype, remat=remat)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small", small)
        yield
