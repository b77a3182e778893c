"""Networks quick to compile; `python small.py ARGUMENTS` is imagegen's command line with them, and with their arrays
split over devices though they are small.
"""

import jax.numpy as jnp

from imagegen.networks.dit import DiT
from imagegen.networks.text_dit import TextDiT


def small(shape, *, key, dtype=jnp.float32, remat=False):
    return DiT(shape, patch=4, width=16, depth=1, heads=2, key=key, dtype=dtype, remat=remat)


def small_text(shape, **options):
    return TextDiT(shape, patch=8, width=16, depth=1, heads=2, **options)


SMALL_ENCODER = (16, 1, 2)
"""Width, layers and heads."""


if __name__ == "__main__":
    from imagegen import step
    from imagegen.__main__ import main
    from imagegen.hosts import leave_hosts
    from imagegen.networks.registry import NETWORKS, TEXT_NETWORKS
    from imagegen.networks.text import ENCODERS

    NETWORKS["small"], TEXT_NETWORKS["small"], ENCODERS["small"] = small, small_text, SMALL_ENCODER
    step.SMALLEST = 1536
    leave_hosts(main())
