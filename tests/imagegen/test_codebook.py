"""Codebook entropy: counts and formula, a bias that is seen and corrected, codes as the nearest vectors."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from imagegen.codebook import GROUPS, add_codes, entropy, entropy_figures, miller_madow_bias, random_groups
from imagegen.pretrained import Autoencoder


def counted(codes, groups, size):
    counts = np.zeros((GROUPS, size), np.int64)
    add_codes(counts, codes, groups)
    return counts


def drawn(rng, n, used, together=False):
    """Codes of n images of 4 x 4 places, uniform on `used` of 64; of `together`, the same at all places of an image."""
    codes = rng.integers(used, size=(n, 1, 1) if together else (n, 4, 4))
    return counted(np.broadcast_to(codes, (n, 4, 4)), random_groups(n, n, rng), 64)


@given(st.integers(0, 2**32 - 1), st.integers(GROUPS, 60), st.integers(1, 30))
def test_entropy_is_that_of_the_shares_of_all_codes_taken(seed, n, size):
    rng = np.random.default_rng(seed)
    codes, groups = rng.integers(size, size=(n, 3, 2)), random_groups(n, GROUPS, rng)
    counts = counted(codes, groups, size)
    _, times = np.unique(codes[groups >= 0], return_counts=True)
    assert entropy(counts) == pytest.approx(stats.entropy(times))
    assert miller_madow_bias(counts) == pytest.approx(-(len(times) - 1) / (2 * GROUPS * 6))
    assert counts[3].sum() == 6  # one image in every group


@given(st.integers(0, 2**32 - 1), st.integers(GROUPS, 200), st.integers(0, 100))
def test_groups_are_equally_large_and_leave_the_rest_out(seed, taken, more):
    groups = random_groups(taken + more, taken, np.random.default_rng(seed))
    sizes = np.bincount(groups[groups >= 0], minlength=GROUPS)
    assert np.ptp(sizes) <= 1
    assert sizes.sum() == taken
    assert np.count_nonzero(groups == -1) == more


def test_groups_do_not_follow_the_order_of_classes():
    """With classes in turn, images of one class in one group would make each group unlike the others."""
    groups = random_groups(2000, 2000, np.random.default_rng(0))
    table = np.zeros((GROUPS, 10))
    np.add.at(table, (groups, np.arange(2000) % 10), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("together", [False, True])
def test_the_bias_of_few_images_is_seen_and_corrected(together):
    """Codes that are uniform on 64: H = log 64. Where all places of an image agree, Miller and Madow's formula, which
    takes the 16 places for independent, is 16 times too small; the jackknife sees images.
    """
    rng, size, n, repeats = np.random.default_rng(1), 64, 300, 60
    both = [drawn(rng, n, size, together=together) for _ in range(2 * repeats)]
    figures = [entropy_figures(a, b) for a, b in zip(both[::2], both[1::2], strict=True)]
    own = [page["codebook_entropy"] for page in figures]
    raw, debiased, bias = (np.array([one[name] for one in own]) for name in ("value", "debiased", "bias"))
    truth, places = np.log(size), 1 if together else 16
    error = debiased.std(ddof=1) / np.sqrt(repeats)
    assert abs(debiased.mean() - truth) < 4 * error + 0.05 * 63 / (2 * n * places)
    assert truth - raw.mean() > 4 * error
    np.testing.assert_allclose(bias.mean(), -63 / (2 * n * places), rtol=0.15)
    formula = np.mean([one["miller_madow_bias"] for one in own])
    np.testing.assert_allclose(formula, -63 / (2 * n * 16), rtol=0.05)
    hits = sum(page["codebook_entropy_difference"]["low"] <= 0 <= page["codebook_entropy_difference"]["high"]
               for page in figures)  # fmt: skip
    assert hits >= stats.binom.ppf(1e-4, repeats, 0.95)


def test_samples_of_fewer_codes_have_less_entropy():
    rng = np.random.default_rng(2)
    figures = entropy_figures(drawn(rng, 200, 16), drawn(rng, 200, 64))
    difference = figures["codebook_entropy_difference"]
    assert difference["low"] < np.log(16 / 64) < difference["high"] < 0
    assert (figures["codebook_entropy"]["codes"], figures["codebook_entropy"]["places"]) == (16, 3200)
    assert figures["codebook_entropy_real"]["codes"] == 64


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least 20, for the jackknife; got 19 of 30"):
        random_groups(30, 19, np.random.default_rng(0))


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
@pytest.mark.filterwarnings("default")
def test_codes_are_the_nearest_vectors_of_the_codebook(tmp_path):
    import diffusers
    import torch

    torch.manual_seed(0)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16,
             "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}  # fmt: skip
    model = diffusers.VQModel(**sizes, num_vq_embeddings=32).eval()
    with torch.no_grad():
        latents = model.encode(torch.from_numpy(images).permute(0, 3, 1, 2)).latents.permute(0, 2, 3, 1).reshape(-1, 4)
        model.quantize.embedding.weight.copy_(latents[::6] + 0.1 * latents.std() * torch.randn(32, 4))
    model.save_pretrained(tmp_path / "vq")
    ours = Autoencoder(tmp_path / "vq")
    assert ours.codebook == 32
    latents, _ = ours.encode(images)
    found = ours.codes(latents)
    vectors = model.quantize.embedding.weight.detach().numpy()
    gaps = np.sum((latents[..., None, :] - vectors) ** 2, axis=-1)
    assert found.shape == (3, 8, 8)
    np.testing.assert_array_equal(found, gaps.argmin(axis=-1))
    assert len(np.unique(found)) > 16
    diffusers.AutoencoderKL(**sizes).save_pretrained(tmp_path / "kl")
    kl = Autoencoder(tmp_path / "kl")
    assert kl.codebook == 0
    with pytest.raises(ValueError, match="must be a VQModel"):
        kl.codes(latents)
