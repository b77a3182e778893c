"""Data sets on disk, made of bundled images: an ImageNet-style folder, and tar shards as img2dataset writes them."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from imagegen.data.shapes import Shapes
from sim.patches import photographs

CLASSES = ("n01440764", "n02123045", "n03000684")
DAMAGED = b"\xff\xd8\xff\xe0 this is no JPEG"


def pictures(n, size=(60, 48), seed=0):
    """n different pieces of the two photographs, bytes, of different sizes around `size`."""
    rng, whole = np.random.default_rng(seed), photographs(colour=True)
    for k in range(n):
        image = np.asarray(whole[k % len(whole)])
        width, height = (int(side + rng.integers(12)) for side in size)
        top, left = (int(rng.integers(full - part)) for full, part in zip(image.shape, (height, width), strict=False))
        piece = image[top : top + height, left : left + width]
        yield np.rint((piece + 1) * 127.5).clip(0, 255).astype(np.uint8)


def encoded(pixels, form="JPEG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def write_folder(root, per_class=8, splits=("train", "val"), classes=CLASSES):
    """ROOT/SPLIT/CLASS/CLASS_K.JPEG; without splits ROOT/CLASS/..."""
    for seed, split in enumerate(splits or ("",)):
        images = pictures(per_class * len(classes), seed=seed)
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for k in range(per_class):
                (root / split / name / f"{name}_{k}.JPEG").write_bytes(encoded(next(images)))
    return root


def shapes(n, label=False):
    """n captioned shapes as (key, {ending: content}), keys as img2dataset's."""
    for k, record in enumerate(Shapes(n, seed=5)):
        about = {"key": f"{k:09d}", "caption": record["caption"], "status": "success"}
        if label:
            about["label"] = int(record["label"])
        yield (
            f"{k:09d}",
            {
                "jpg": encoded(np.rint((record["image"] + 1) * 127.5).astype(np.uint8), quality=95),
                "txt": record["caption"].encode(),
                "json": json.dumps(about).encode(),
            },
        )


def write_shard(file, samples, interleaved=False):
    """One tar file of these samples; interleaved: all images first, then all texts, ..."""
    members = [(f"{key}.{ending}", content) for key, parts in samples for ending, content in parts.items()]
    if interleaved:
        members.sort(key=lambda member: member[0].partition(".")[2])
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return file


def write_shards(root, n=60, per_shard=20, label=False):
    """ROOT/00000.tar, ...: n captioned shapes."""
    samples = list(shapes(n, label))
    for k in range(0, n, per_shard):
        write_shard(root / f"{k // per_shard:05d}.tar", samples[k : k + per_shard], interleaved=k % (2 * per_shard) > 0)
    return root


def spoil(root):
    """Of such shards: in the first an undecodable image, a missing and an empty caption, and a dead key; the last is
    cut off in the midst of an image. Returns the keys that are left whole and those that cannot be decoded.
    """
    shards = sorted(root.glob("*.tar"))
    samples = {shard: read_shard(shard) for shard in shards}
    first = samples[shards[0]]
    undecodable, *rest = sorted(first)
    first[undecodable]["jpg"] = DAMAGED
    del first[rest[0]]["txt"]
    first[rest[1]]["txt"] = b""
    del first[rest[2]]["jpg"]
    write_shard(shards[0], first.items())
    last = list(samples[shards[-1]].items())
    write_shard(shards[-1], last)
    with tarfile.open(shards[-1]) as archive:
        cut = archive.getmember(f"{last[-3][0]}.jpg").offset_data + 100
    with shards[-1].open("r+b") as file:
        file.truncate(cut)
    whole = [f"{shard.stem}/{key}" for shard in shards for key in sorted(samples[shard])]
    gone = [f"{shards[0].stem}/{key}" for key in rest[:3]] + [f"{shards[-1].stem}/{key}" for key, _ in last[-3:]]
    return [key for key in whole if key not in gone], [f"{shards[0].stem}/{undecodable}"]


def read_shard(shard):
    """{key: {ending: content}}."""
    found = {}
    with tarfile.open(shard) as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            found.setdefault(key, {})[ending] = archive.extractfile(member).read()
    return found
