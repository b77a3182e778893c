"""Pretrained text encoders, by PyTorch: to encode captions once, and the prompts of samples (extra `pretrained`).

    bert        BertModel, without its pooling
    clip        the text model of CLIP (alone, or in a folder with both of its models)
    t5          T5's encoder

All in the layout of the transformers library, from a folder on disk, the tokenizer in it; nothing is downloaded. A
caption's embedding is the last hidden states at its own tokens, those that begin and end it among them; what pads it is
masked. Longer captions are cut, their end token kept.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from imagegen._names import require_one_of
from imagegen.data.embeddings import CaptionEncoder, Frozen, filled
from imagegen.data.tokens import LENGTH
from imagegen.pretrained import load_model, read_config, require_installed
from theory._checks import InputError, require
from theory._files import sha256_of

KINDS = {"bert": "BertModel", "clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
"""Of models, by `model_type` in config.json."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Files of weights: the first kind that is there."""


class FrozenEncoder:
    """The text encoder in a `folder` with config.json, weights and a tokenizer; on a GPU if PyTorch has one. It encodes
    for `imagegen.prepare`, captions of up to `length` >= 2 tokens.

    Raises `InputError` for a folder without these, of another kind, a length that the model has no places for, and
    where transformers or torch is not installed.
    """

    def __init__(self, folder: Path, length: int = LENGTH) -> None:
        allowed = "a folder with a text encoder of transformers"
        require((folder / "config.json").is_file(), f"'{folder}'", "no config.json", allowed)
        kind = read_config(folder / "config.json").get("model_type", "none")
        require_one_of(f"model_type in '{folder}/config.json'", kind, KINDS)
        files = next(filter(None, (sorted(folder.glob(pattern)) for pattern in WEIGHTS)), [])
        require(bool(files), f"'{folder}'", f"no {' or '.join(WEIGHTS)}", allowed)
        require(length >= 2, "text_length", length, "at least 2")
        require_installed("torch", "transformers")
        self._load(folder, kind)
        places = getattr(self._model.config, "max_position_embeddings", length)
        require(length <= places, "text_length", length, f"at most {places}, the places of the encoder in '{folder}'")
        self.length = length
        self.sha256 = _sha256(files, self._tokenizer.get_vocab())

    def _load(self, folder: Path, kind: str) -> None:
        import torch
        import transformers

        self._torch, self._device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        make: Any = getattr(transformers, KINDS[kind])
        pooling = {"add_pooling_layer": False} if kind == "bert" else {}
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, padding_side="right"
            )
        except (OSError, ValueError) as error:
            raise InputError(f"'{folder}' must be a folder with the encoder's tokenizer, too; got {error}") from error
        pads = self._tokenizer.pad_token is not None
        require(pads, f"the tokenizer in '{folder}'", "one without", "one with a token for padding")
        self._model = load_model(make, folder, **pooling).to(self._device).eval()
        self._lock = threading.Lock()  # threads that prepare take turns: one at a time fills a device

    def about(self) -> dict[str, Any]:
        """What a manifest says of it: `encoder`, the SHA-256 of its weights and vocabulary; `length`; `width`."""
        return {"encoder": self.sha256, "length": self.length, "width": self([""])[0].shape[1]}

    def __call__(self, captions: Sequence[str]) -> list[Float[np.ndarray, "n width"]]:
        """The states of each caption's own n tokens, n <= `length`, float32."""
        with self._lock, self._torch.inference_mode():
            tokens = self._tokenizer(
                list(captions), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
            )
            given = {name: tokens[name].to(self._device) for name in ("input_ids", "attention_mask")}
            states = self._model(**given).last_hidden_state.float().cpu().numpy()
        return [states[k, :n] for k, n in enumerate(tokens["attention_mask"].sum(1).tolist())]


def embeddings(encoder: CaptionEncoder, captions: Sequence[str]) -> Float[np.ndarray, "n length width"]:
    """The embeddings of n captions as they are read from prepared data: rounded, and filled up with zeros."""
    return np.stack([filled(states, encoder.length) for states in encoder(captions)])


def load_same(folder: Path, frozen: Frozen) -> CaptionEncoder:
    """The encoder of a run. Raises `InputError` for another than that which its data were prepared with, and as
    `FrozenEncoder` does.
    """
    encoder = FrozenEncoder(folder, len(frozen.null))
    same = encoder.sha256 == frozen.encoder
    require(same, "text_encoder", f"'{folder}'", "the text encoder that the run's data were prepared with")
    return encoder


def _sha256(files: Sequence[Path], vocabulary: dict[str, int]) -> str:
    total = hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode())
    for file in files:
        total.update(bytes.fromhex(sha256_of(file)))
    return total.hexdigest()
