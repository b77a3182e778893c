"""Options of imagegen's tests: where the references of parity tests are, which Python runs them. A small network."""

from pathlib import Path

import pytest
from small import SMALL_ENCODER, small, small_text

from imagegen.networks.registry import NETWORKS, TEXT_NETWORKS
from imagegen.networks.text import ENCODERS


def pytest_addoption(parser):
    group = parser.getgroup("imagegen")
    group.addoption("--reference", type=Path, help="a checkout of facebookresearch/DiT, for the parity test")
    group.addoption("--ldm-reference", type=Path, help="a checkout of CompVis/latent-diffusion, for its parity test")
    group.addoption("--reference-python", help="a Python that has torch, torchvision, timm, einops and diffusers")
    group.addoption("--text-python", help="a Python that has torch, safetensors and transformers")
    group.addoption("--metrics-python", help="a Python that has torch and torch-fidelity, for the metrics' parity test")


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory):
    """A cache of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small_network():
    """Networks and a text encoder named "small", quick to compile, for tests of what surrounds a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small", small)
        patch.setitem(TEXT_NETWORKS, "small", small_text)
        patch.setitem(ENCODERS, "small", SMALL_ENCODER)
        yield
