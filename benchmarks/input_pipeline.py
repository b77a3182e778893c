"""Reading images: images/s per core from tar shards, a folder by class, prepared records and latents.

    python benchmarks/input_pipeline.py --output benchmarks/RESULTS-input.md

The images are crops of scikit-learn's two photographs, JPEG of quality 95 at the resolution; a raw one is decoded and
cropped, a prepared one decoded from PNG. Latents have the shape of KL-f8's; their numbers are random. All are read in
random order as the loader does, into float32. Processor time on one core, so the files come from the system's cache:
what a disk can do is not in it.
"""

from _timing import machine, one_core, seconds, table, versions

one_core()

import argparse  # noqa: E402
import contextlib  # noqa: E402
import io  # noqa: E402
import os  # noqa: E402
import tarfile  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from imagegen.data.builtin import make_source  # noqa: E402
from imagegen.data.latents import pack_law  # noqa: E402
from imagegen.data.loading import batches  # noqa: E402
from imagegen.data.source import Source, read_batch  # noqa: E402
from imagegen.prepare import prepare  # noqa: E402
from sim.patches import photographs  # noqa: E402

KINDS = {
    "tar": "tar shards, JPEG and caption",
    "folder": "folder by class, JPEG",
    "prepared": "prepared records, PNG and caption",
    "latents": "prepared latents, both orientations",
}


class RandomLatents:
    """What stands for an autoencoder: what its latents are does not matter here."""

    content, sha256 = "latents", "none"

    def about(self, side: int) -> dict[str, Any]:
        """Shape and scale."""
        return {"shape": [side // 8, side // 8, 4], "scale": 1.0, "autoencoder": self.sha256}

    def __call__(self, images: list[np.ndarray]) -> list[bytes]:
        """Records of as many images."""
        rng = np.random.default_rng(0)
        shapes = ((2, image.shape[0] // 8, image.shape[1] // 8, 4) for image in images)
        return [pack_law(rng.standard_normal(shape), rng.random(shape)) for shape in shapes]


def jpegs(n: int, side: int):
    """n different crops, encoded."""
    rng, whole = np.random.default_rng(0), [np.rint((image + 1) * 127.5) for image in photographs(colour=True)]
    for k in range(n):
        image = whole[k % len(whole)].clip(0, 255).astype(np.uint8)
        top, left = (int(rng.integers(max(1, full - side))) for full in image.shape[:2])
        stream = io.BytesIO()
        Image.fromarray(image[top : top + side, left : left + side]).save(stream, "JPEG", quality=95)
        yield stream.getvalue()


def write(root: Path, n: int, side: int) -> None:
    """The same images as one shard, and as a folder of ten classes."""
    (root / "tar").mkdir()
    for k in range(10):
        (root / "folder" / f"class-{k}").mkdir(parents=True)
    with tarfile.open(root / "tar/00000.tar", "w") as archive:
        for k, content in enumerate(jpegs(n, side)):
            (root / f"folder/class-{k % 10}/{k:09d}.jpg").write_bytes(content)
            for name, member in ((f"{k:09d}.jpg", content), (f"{k:09d}.txt", b"a photograph of a palace or a flower")):
                about = tarfile.TarInfo(name)
                about.size = len(member)
                archive.addfile(about, io.BytesIO(member))


def rate(source: Source, batch: int, repeats: int) -> float:
    """Images/s of whole batches, read by one thread."""
    rng = np.random.default_rng(1)
    return batch / seconds(lambda: read_batch(source, rng.integers(len(source), size=batch))["image"], repeats=repeats)


def loader_rate(source: Source, batch: int, repeats: int) -> float:
    """Images/s through the loader, whose threads share the core: what reading ahead costs is in it."""
    with contextlib.closing(batches(source, batch, seed=0)) as stream:
        return 4 * batch / seconds(lambda: [next(stream)["image"] for _ in range(4)], repeats=repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        write(root, given.images, given.side)
        prepare(root / "tar", root / "prepared", resolution=given.side)
        prepare(root / "folder", root / "latents", resolution=given.side, encoder=RandomLatents())
        for kind, told in KINDS.items():
            source = make_source(str(root / kind), resolution=0 if kind == "latents" else given.side)
            size = sum(file.stat().st_size for file in (root / kind).rglob("*") if file.is_file()) / given.images / 1024
            alone, loaded = (call(source, given.batch, given.repeats) for call in (rate, loader_rate))
            rows.append([told, f"{size:.0f}", f"{alone:.0f}", f"{loaded:.0f}", f"{16 * loaded:.0f}"])
    header = ["source", "KiB an image", "images/s, one thread", "images/s, loader", "16 cores, if they scale"]
    text = "\n".join([
        "# Reading images", "",
        f"{machine()}; {versions(('pillow', 'grain', 'array-record', 'numpy'))}. {given.images} images of {given.side} "
        f"x {given.side} pixels, batches of {given.batch}; most of {given.repeats} repeats, by processor time.", "",
        table(header, rows), "",
    ])  # fmt: skip
    print(text)
    if given.output:
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
