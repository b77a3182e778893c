"""CLIP: images prepared as by hand, the score by its formula, features as transformers makes them."""

import importlib.util
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagegen.clip import Clip, Preprocessing, clip_score, prepared, read_preprocessing, unit
from tests.imagegen.clips import MEAN, PUBLISHED, STD, save_clip, write_tokenizer

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


def images(n=3, h=16, w=20, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c)).astype(np.uint8)


# --- images


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_cropped_and_standardised(channels):
    given = images(c=channels)
    found = prepared(given, Preprocessing(24, 20, MEAN, STD))
    assert found.shape == (3, 20, 20, 3)
    for image, ours in zip(given, found, strict=True):
        colour = Image.fromarray(image[..., 0]).convert("RGB") if channels == 1 else Image.fromarray(image)
        cut = colour.resize((30, 24), Image.Resampling.BICUBIC).crop((5, 2, 25, 22))
        np.testing.assert_allclose(ours, (np.asarray(cut) / 255.0 - MEAN) / STD, atol=1e-6)


def test_all_ways_to_write_the_preprocessing_are_read(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(PUBLISHED))
    expected = Preprocessing(24, 24, MEAN, STD)
    assert read_preprocessing(tmp_path) == expected
    named = PUBLISHED | {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    file.write_text(json.dumps(named))
    assert read_preprocessing(tmp_path) == expected
    file.unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": named}))
    assert read_preprocessing(tmp_path) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 2}, "must be 3, bicubic; got 2"),
        ({"do_center_crop": False}, "do_center_crop false"),
        ({"size": {"height": 24, "width": 24}}, "must have size"),
        ({"crop_size": {"height": 24, "width": 20}}, "a square"),
        ({"crop_size": 30}, "crop_size of 1 ... size"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std above 0"),
    ],
)
def test_other_preprocessing_is_refused(tmp_path, change, message):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED | change))
    with pytest.raises(ValueError, match=message):
        read_preprocessing(tmp_path)


# --- the score


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 4))
def test_the_score_is_the_mean_of_cosines_above_zero(seed, n, d):
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(0, 10 ** rng.uniform(-3, 3), (n, d)).astype(np.float32) for _ in range(2))
    cosines = [float(np.dot(x, y)) / float(np.linalg.norm(x) * np.linalg.norm(y)) for x, y in zip(a, b, strict=True)]
    found = clip_score(a, b)
    np.testing.assert_allclose(found.value, 100 * np.mean([max(c, 0.0) for c in cosines]), rtol=1e-4, atol=1e-4)
    assert found.low <= found.value <= found.high
    assert clip_score(a, a).value == pytest.approx(100)
    assert clip_score(a, -a).value == 0


def test_the_scores_interval_has_its_coverage():
    rng, hits = np.random.default_rng(0), 0
    texts = np.array([[1.0, 0.0]])
    truth = 100 * np.mean(np.cos(rng.uniform(-1, 1, 10**6)))
    for _ in range(400):
        angles = rng.uniform(-1, 1, 30)
        score = clip_score(np.stack([np.cos(angles), np.sin(angles)], axis=1), np.repeat(texts, 30, axis=0))
        hits += score.low <= truth <= score.high
    assert abs(hits / 400 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400)


def test_features_that_do_not_fit_are_refused():
    ones = np.ones((3, 2))
    with pytest.raises(ValueError, match="one for each image"):
        clip_score(ones, ones[:2])
    with pytest.raises(ValueError, match="at least 2"):
        clip_score(ones[:1], ones[:1])
    with pytest.raises(ValueError, match="0 everywhere"):
        unit(np.zeros((2, 2)))


# --- folders


def test_folders_without_a_model_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no config\.json"):
        Clip(tmp_path / "nowhere")
    config = tmp_path / "config.json"
    config.write_text("{")
    with pytest.raises(ValueError, match="must be JSON"):
        Clip(tmp_path)
    config.write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(ValueError, match="model_type 'siglip'"):
        Clip(tmp_path)
    config.write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match=r"no model\.safetensors or pytorch_model\.bin"):
        Clip(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json"):
        Clip(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    with pytest.raises(ValueError, match=r"path of a tokenizer\.json"):
        Clip(tmp_path)
    write_tokenizer(tmp_path / "tokenizer.json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'patina-diffusion\[pretrained\]'; got not installed"):
        Clip(tmp_path)


# --- beside transformers


@pytest.fixture
def model(tmp_path):
    return save_clip(tmp_path)


CAPTIONS = ["a red circle", "A Red Circle", "", "a large blue cross at the upper left, far too long for it"]


@needs_transformers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_features_are_those_that_transformers_makes(model, tmp_path, weights):
    import torch
    import transformers

    if weights == "pytorch_model.bin":
        torch.save(model.state_dict(), tmp_path / weights)
        (tmp_path / "model.safetensors").unlink()
    clip, given = Clip(tmp_path), images(70, 32, 32)
    named = PUBLISHED | {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    processor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)(**named)
    pixels = processor([Image.fromarray(image) for image in given], return_tensors="pt")["pixel_values"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="<|endoftext|>"
    )
    tokens = tokenizer(CAPTIONS, padding="longest", truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        expected = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    found, texts = clip.images(given), clip.texts(CAPTIONS)
    assert found.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(unit(found), expected.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(unit(texts), expected.text_embeds.numpy(), atol=1e-5)
    np.testing.assert_array_equal(texts[0], texts[1])
    assert np.ptp(unit(texts)[[0, 2, 3]], axis=0).max() > 0.1  # weights are such that captions differ
    logits = expected.logits_per_image.detach().numpy()[:4].diagonal() / model.logit_scale.exp().item()
    assert clip_score(found[:4], texts).value == pytest.approx(100 * np.maximum(logits, 0).mean(), abs=1e-3)
    assert clip.about["preprocessing"]["size"] == 24
    assert len(clip.about["weights_sha256"]) == 64
