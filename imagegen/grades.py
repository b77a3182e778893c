"""Which noise levels each image of a folder may train, by a score of its quality (Ambient Diffusion Omni, section 5.2).

Where nothing was degraded on purpose there are no clean images to train a judge on (`imagegen.annotate`). The paper
scores ImageNet's images by CLIP-IQA instead: the best fifth trains everywhere, the others at high noise alone. So here:
of n images the round(bad_share n) with the lowest scores train from `sigma_min` on; of equal scores the later in the
order of the data counts as the lower.

Scores come in a CSV file with the columns `key` and `score`, the higher the better. Keys are those of the images, as
`imagegen.data.files` has them (`n01440764/n01440764_10026.JPEG`), and stay the same in prepared data: so images are
scored once, whatever latents they become.

The paper's best models have 80 % at a `sigma_min` of 0.2, for latents of standard deviation 0.5: a noise-to-signal
ratio of 0.4. Its published code (giannisdaras/ambient-omni on GitHub, commit 8695e26, `training_loop.py` of
`latent-diffusion`) takes the order of the sorted scores, `arange(n)[argsort]`, for the ranks, which are the inverse of
that permutation: the fifth that it trains everywhere is not the one with the highest scores. The ranks here are ranks.
"""

import csv
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from imagegen import annotations
from imagegen.annotations import Annotations, keys_fingerprint, listing
from imagegen.data.builtin import make_source
from imagegen.data.files import FileSource
from theory._checks import make_folder, require

COLUMNS = ("key", "score")


def grade(
    data: str, scores: Path, out: Path, *, resolution: int = 0, bad_share: float = 0.8, sigma_min: float = 0.4
) -> Annotations:
    """Annotate the training images of the folder `data` (as of `train`) by their scores; write the file `out`.

    Raises `InputError` for data that are not in a folder, a file of scores that is bad or lacks an image, a `bad_share`
    outside (0, 1), a `sigma_min` that is not positive and finite, and an `out` that does not end in .npz.
    """
    require(0 < bad_share < 1, "bad_share", bad_share, "in (0, 1)")
    require(0 < sigma_min < math.inf, "sigma_min", sigma_min, "positive and finite")
    require(out.suffix == ".npz" and not out.is_dir(), "out", out, "a file that ends in .npz")
    known = read_scores(scores)
    source = listing(make_source(data, "train", resolution=resolution))
    require(source is not None, "data", f"'{data}'", "a folder: of images by class, of tar shards, or prepared")
    assert source is not None
    own = _scores_of(source, known, scores)
    about: dict[str, Any] = {
        "fingerprint": keys_fingerprint(source),
        "config": {"data": data, "bad_share": bad_share, "sigma_min": sigma_min,
                   "scores": hashlib.sha256(scores.read_bytes()).hexdigest()},
    }  # fmt: skip
    bad = lowest(own, round(bad_share * own.size))
    noted = Annotations(bad, np.where(bad, sigma_min, 0.0), np.zeros(own.size), about)
    make_folder("out", out.parent)
    annotations.save(noted, out)
    return noted


def lowest(scores: Float[np.ndarray, " n"], count: int) -> Bool[np.ndarray, " n"]:
    """Which are the `count` lowest of n scores; of equal ones the later are the lower."""
    order = np.argsort(-scores, kind="stable")
    found = np.zeros(scores.size, bool)
    found[order[scores.size - count :]] = True
    return found


def read_scores(file: Path) -> dict[str, float]:
    """Scores by key. Raises `InputError` for a file that is missing, is no such table, has a key twice or a score that
    is not finite, naming the line.
    """
    require(file.is_file(), "scores", f"'{file}', which is no file", f"a CSV file with columns {', '.join(COLUMNS)}")
    found: dict[str, float] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        header = tuple(rows.fieldnames or ())
        require(set(COLUMNS) <= set(header), "scores", f"'{file}' with columns {header}", f"with {', '.join(COLUMNS)}")
        for row in rows:
            at = f"line {rows.line_num} of '{file}'"
            require(row["key"] not in found, at, f"key '{row['key']}' again", "of another key")
            found[row["key"]] = _number(row["score"], at)
    return found


def _number(text: str | None, at: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    require(math.isfinite(number), at, f"score '{text}'", "with a finite number as score")
    return number


def _scores_of(source: FileSource, known: dict[str, float], file: Path) -> Float[np.ndarray, " n"]:
    """The scores of the source's images, in their order."""
    keys = [source.key(index) for index in range(len(source))]
    absent = [key for key in keys if key not in known]
    given = f"'{file}' without {len(absent)} of {len(keys)} images ({', '.join(absent[:3])} ...)"
    require(not absent, "scores", given, "a score of every image")
    return np.array([known[key] for key in keys])


def told(noted: Annotations) -> str:
    """What was decided, in a line."""
    count, n = int(noted.degraded.sum()), noted.degraded.size
    return (
        f"{n - count} of {n} images train everywhere, {count} from noise-to-signal ratio {noted.sigma_min.max():g} on"
    )
