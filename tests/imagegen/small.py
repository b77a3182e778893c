"""A network quick to compile; `python small.py ARGUMENTS` is imagegen's command line with it, and with its arrays split
over devices though they are small.
"""

import jax.numpy as jnp

from imagegen.networks.dit import DiT


def small(shape, *, key, dtype=jnp.float32, remat=False):
    return DiT(shape, patch=4, width=16, depth=1, heads=2, key=key, dtype=dtype, remat=remat)


if __name__ == "__main__":
    from imagegen import step
    from imagegen.__main__ import main
    from imagegen.hosts import leave_hosts
    from imagegen.networks.registry import NETWORKS

    NETWORKS["small"] = small
    step.SMALLEST = 1536
    leave_hosts(main())
