"""Which noise levels each image of a folder may train, by a score of its quality (Ambient Diffusion Omni, section 5.2).

Where nothing was degraded on purpose there are no clean images to train a judge on (`imagegen.annotate`). The paper
scores ImageNet's images by CLIP-IQA instead: the best fifth trains everywhere, the others at high noise alone. So here:
of n images the round(bad_share n) with the lowest scores train from `sigma_min` on; of equal scores the later in the
order of the data counts as the lower.

Scores come in a CSV file with the columns `key` and `score`, the higher the better; `quality` writes one by CLIP. Keys
are those of the images, as `imagegen.data.files` has them (`n01440764/n01440764_10026.JPEG`), and stay the same in
prepared data: so images are scored once, whatever latents they become.

The paper's best models have 80 % at a `sigma_min` of 0.2, for latents of standard deviation 0.5: a noise-to-signal
ratio of 0.4. Its published code (giannisdaras/ambient-omni on GitHub, commit 8695e26, `training_loop.py` of
`latent-diffusion`) takes the order of the sorted scores, `arange(n)[argsort]`, for the ranks, which are the inverse of
that permutation: the fifth that it trains everywhere is not the one with the highest scores. The ranks here are ranks.
"""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from imagegen import annotations
from imagegen.annotations import Annotations, in_a_folder, keys_fingerprint
from imagegen.clip import Embedder, unit
from imagegen.data.files import FileSource
from imagegen.data.latents import LatentSource
from imagegen.data.source import read_batch
from imagegen.sampling import to_bytes
from theory._checks import InputError, make_folder, require
from theory._files import cut_torn_line, locked, sha256_of, write_whole

COLUMNS = ("key", "score")
PROMPTS = ("Good photo.", "Bad photo.")
"""Between which CLIP-IQA lets CLIP choose."""
SCALE = 100.0
"""Of cosines, in CLIP's probabilities."""
NAMES = "surrogateescape"
"""Names of files are bytes, not always text."""
AT_ONCE = 64
"""Images that are read, scored and written at once."""


def grade(
    data: str, scores: Path, out: Path, *, resolution: int = 0, bad_share: float = 0.8, sigma_min: float = 0.4
) -> Annotations:
    """Annotate the training images of the folder `data` (as of `train`) by their scores; write the file `out`.

    Raises `InputError` for data that are not in a folder, a file of scores that is bad or lacks an image, a `bad_share`
    outside (0, 1), a `sigma_min` that is not positive and finite, and an `out` as `annotations.require_out` does.
    """
    require(0 < bad_share < 1, "bad_share", bad_share, "in (0, 1)")
    require(0 < sigma_min < math.inf, "sigma_min", sigma_min, "positive and finite")
    annotations.require_out(out)
    known = read_scores(scores)
    source = in_a_folder(data, resolution)
    own = _scores_of(source, known, scores)
    about: dict[str, Any] = {
        "fingerprint": keys_fingerprint(source),
        "config": {"data": data, "bad_share": bad_share, "sigma_min": sigma_min,
                   "scores": sha256_of(scores)},
    }  # fmt: skip
    bad = lowest(own, round(bad_share * own.size))
    noted = Annotations(bad, np.where(bad, sigma_min, 0.0), np.zeros(own.size), about)
    make_folder("out", out.parent)
    annotations.save(noted, out)
    return noted


def quality(data: str, clip: Embedder, out: Path, *, resolution: int = 0) -> int:
    """Score the training images of the folder `data` by CLIP-IQA (Wang, Chan, Loy 2023), in 0 ... 1; write the CSV file
    `out`; return how many there are.

    The score is CLIP's probability of "Good photo." against "Bad photo.", of images as `imagegen.clip` prepares them.
    (The authors leave out CLIP's embedding of places instead, to score images of every size.) How they were made stands
    in a .json file beside. Scored images stay in the file: interrupted, the same call goes on. Raises `InputError` for
    data that are not images in a folder, and an `out` that does not end in .csv, or has other scores.
    """
    require(out.suffix == ".csv" and not out.is_dir(), "out", out, "a file that ends in .csv")
    source = in_a_folder(data, resolution)
    require(not isinstance(source, LatentSource), "data", f"'{data}', latents", "images")
    make_folder("out", out.parent)
    with locked("out", out.with_suffix(".lock"), guarded=out):
        known = _begun(out, {"images": keys_fingerprint(source), "prompts": PROMPTS, **clip.about})
        _score(source, clip, out, known)
    return len(source)


def _score(source: FileSource, clip: Embedder, out: Path, known: dict[str, float]) -> None:
    """Add the scores of the images that have none."""
    prompts = unit(clip.texts(PROMPTS))
    left = np.array([index for index in range(len(source)) if source.key(index) not in known], int)
    with out.open("a", newline="", encoding="utf-8", errors=NAMES) as lines:
        if lines.tell() == 0:
            lines.write(",".join(COLUMNS) + "\n")
        for low in tqdm(range(0, left.size, AT_ONCE), desc="scoring", unit="batch", disable=None):
            part = left[low : low + AT_ONCE]
            features = unit(clip.images(to_bytes(read_batch(source, part)["image"])))
            good, bad = SCALE * (features @ prompts.T).T
            rows = zip((source.key(int(index)) for index in part), 1 / (1 + np.exp(bad - good)), strict=True)
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows((key, f"{score:.6f}") for key, score in rows)
            lines.write(text.getvalue())  # whole lines at a time
            lines.flush()


def _begun(out: Path, about: dict[str, Any]) -> dict[str, float]:
    """The scores that are there already, if they were made in the same way."""
    beside, text = out.with_suffix(".json"), json.dumps(about, indent=1) + "\n"
    if out.exists():
        same = beside.exists() and beside.read_text(encoding="utf-8") == text
        require(same, "out", f"'{out}', with scores that were made otherwise", "a new file, or one of the same call")
        cut_torn_line(out)
    else:
        write_whole(beside, text)
    return read_scores(out) if out.exists() and out.stat().st_size else {}


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
    with file.open(newline="", encoding="utf-8", errors=NAMES) as lines:
        rows = csv.DictReader(lines)
        try:
            header = tuple(rows.fieldnames or ())
            known = set(COLUMNS) <= set(header)
            require(known, "scores", f"'{file}' with columns {header}", f"with {', '.join(COLUMNS)}")
            for row in rows:
                at = f"line {rows.line_num} of '{file}'"
                require(row["key"] not in found, at, f"key '{row['key']}' again", "of another key")
                found[row["key"]] = _number(row["score"], at)
        except csv.Error as error:
            raise InputError(f"scores must be a CSV file; got '{file}' ({error}).") from None
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
