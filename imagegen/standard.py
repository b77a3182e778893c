"""The figures that papers quote, of a run's samples: FID, sFID, Inception Score, precision, recall, KID, FID_∞.

Beside a reference file (`imagegen.references`), with Inception's features; what each is, `imagegen.fidelity` says. No
number stands without its protocol: the hashes of the weights and of the reference, how the samples were made (sampler,
steps, guidance, seed, average of weights, checkpoint, decoder) and how many there are.

Splits and subsets are drawn as torch-fidelity draws them, so its numbers on the same features are these.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from imagegen.evaluate import newest_samples, versions
from imagegen.fidelity import (
    KID_SUBSET,
    KID_SUBSETS,
    SPLITS,
    Moments,
    frechet,
    frechet_infinity,
    inception_score,
    kernel_distance,
    shuffled,
)
from imagegen.figures import MANIFOLD
from imagegen.inception import load_inception
from imagegen.references import (
    RESIZE,
    Extracted,
    Extractor,
    Reference,
    extract_file,
    image_shape,
    read_reference,
    require_comparable,
)
from sim.experiments.base import plain
from sim.neighbours import precision_recall
from theory._checks import require
from theory._files import write_whole

MADE = ("sampler", "grid", "steps", "guidance", "interval", "seed", "ema", "step", "decoder")
"""What the protocol takes from `samples.json`."""
Rows = Float[np.ndarray, "n d"]


def evaluate_standard(folder: Path, samples: Path | None, weights: Path, reference: Path) -> Path:
    """Write `evaluation-inception.json` beside the samples of a run (by default those of its newest step); return its
    path.

    `weights` are Inception's (`load_inception`), `reference` is a file as `read_reference` reads. Raises `InputError`
    for files that cannot be used, or do not fit one another, before anything is computed.
    """
    file = newest_samples(folder) if samples is None else samples
    page = standard_figures(file, load_inception(weights), read_reference(reference))
    target = file.with_name("evaluation-inception.json")
    write_whole(target, json.dumps(plain(page), indent=1) + "\n")
    return target


def standard_figures(samples: Path, network: Extractor, reference: Reference) -> dict[str, Any]:
    """`figures` by name, why some are `left_out`, the `protocol`, `made`, all that `samples.json` says of the samples
    (None, and that is `left_out`, where it is missing or of another number of them), and `versions`, of the samples in
    an .npz file as ADM's.

    - `fid`, `sfid`: against the reference's moments, or else those of its images;
    - `fid_infinity`: where half of the samples are more than the features;
    - `inception_score`, `inception_score_std`: of `SPLITS` = 10 parts;
    - `precision`, `recall` (k = 3), `kid`, `kid_std`: against the reference's images. Precision and recall depend on
      both numbers.

    Raises `InputError` as `image_shape` and `require_comparable`, and for fewer than `SPLITS` samples.
    """
    n, *shape = image_shape(samples)
    require(n >= SPLITS, "samples", n, f"at least {SPLITS}")
    h, w, c = shape
    require_comparable(reference, network.sha256, (h, w, c))
    found = extract_file(samples, network, "samples")
    real = extract_file(reference.file, network, "reference") if reference.images else None
    made, left_out = _made(samples, n)
    figures = {
        **_distances(found, real, reference, left_out),
        **_named("inception_score", inception_score(shuffled(found.logits))),
        **_beside_images(found.pool, real, left_out),
    }
    return {"made": made, "versions": versions(), "figures": figures, "left_out": left_out,
            "protocol": _protocol(made or {}, network, reference, n)}  # fmt: skip


def _made(samples: Path, n: int) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """What samples.json beside the samples says of these n, and why nothing is known of them."""
    file = samples.with_name("samples.json")
    if not file.is_file():
        return None, {"made": f"no samples.json beside '{samples.name}' says how the samples were made"}
    how = json.loads(file.read_text(encoding="utf-8"))
    if how.get("number") == n:
        return how, {}
    why = f"samples.json is of {how.get('number')} samples, not of the {n} in '{samples.name}': others', perhaps"
    return None, {"made": why}


def _named(name: str, score: tuple[float, float]) -> dict[str, float]:
    return {name: score[0], f"{name}_std": score[1]}


def _distances(
    found: Extracted, real: Extracted | None, reference: Reference, left_out: dict[str, str]
) -> dict[str, float]:
    """FID, sFID and FID_∞."""
    figures = {}
    known = reference.pool or (Moments.of(real.pool).statistics() if real else None)
    if known is not None:
        figures["fid"] = frechet(Moments.of(found.pool).statistics(), known)
        n, d = found.pool.shape
        if n // 2 > d:
            figures["fid_infinity"] = frechet_infinity(found.pool, known)
        else:
            left_out["fid_infinity"] = f"half of {n} samples are too few for {d} features"
    spatial = reference.spatial or (real.spatial.statistics() if real else None)
    if spatial is None:
        left_out["sfid"] = "the reference has neither mu_s and sigma_s nor images"
    else:
        figures["sfid"] = frechet(found.spatial.statistics(), spatial)
    return figures


def _beside_images(pool: Rows, real: Extracted | None, left_out: dict[str, str]) -> dict[str, float]:
    """Precision, recall and KID."""
    smaller = min(len(pool), len(real.pool)) if real else 0
    if real is None or smaller <= MANIFOLD:
        why = "the reference has no images" if real is None else f"{smaller} images are too few"
        left_out.update(dict.fromkeys(("precision", "recall", "kid"), why))
        return {}
    kid = kernel_distance(pool, real.pool, subsets=KID_SUBSETS, size=min(KID_SUBSET, smaller))
    return {**precision_recall(real.pool, pool, k=MANIFOLD)._asdict(), **_named("kid", kid)}


def _protocol(how: dict[str, Any], network: Extractor, reference: Reference, n: int) -> dict[str, Any]:
    """All that the figures depend on; `how` the samples were made."""
    beside = {"file": reference.file.name, "sha256": reference.sha256, "made": reference.protocol,
              "images": reference.images[0] if reference.images else None}  # fmt: skip
    return {
        "samples": n, **{name: how.get(name) for name in MADE},
        "weights_sha256": network.sha256, "resize": RESIZE, "reference": beside, "manifold_k": MANIFOLD,
        "splits": SPLITS, "kid_subsets": [KID_SUBSETS, KID_SUBSET],
    }  # fmt: skip
