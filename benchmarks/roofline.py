"""What a training step of DiT can reach on one H200, on paper: time by part, and the first thing to look at.

    python benchmarks/roofline.py --output benchmarks/RESULTS-roofline.md

Per image of n tokens, width w, depth D, with products in bfloat16 and the residual sum h in float32 (2 and 4 bytes):

    products      3 x the forward pass's, counted in the traced program, less attention, at the measured matrix rate
    attention     4 n² w operations forward, 2.5 times as many backward, or its traffic, whichever takes longer
    elementwise   forward, a block, in n w bytes: 2 norms with modulation (read 4, write 2), 2 gated sums (read 2 + 4,
                  write 4), GELU (read 8, write 8): 48; backward 2 x 14 + 2 x 8 + 24 = 68
    kept          what a block keeps for the backward pass, 36 n w bytes: if the scan over blocks copies it into its
                  stack and out again, each way is a read and a write: 144. 0 where XLA writes in place
    optimiser     a step, for each parameter: clip, Adam, average: 10 reads or writes of 4 bytes, and the gradient's own

and the step takes their sum: parts that overlap would make it faster, launches and imperfect fusion slower. A sample of
50 steps with guidance is 100 forward passes, attention's traffic in one being 8 n w bytes a block. Of LDM-4 only the
products are counted.
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax

from imagegen.networks.registry import forward_flops, make_network, parameter_count

SHAPE, BATCH = (32, 32, 4), 256
MATRIX = 790e12
"""bfloat16 operations a second of a large product on random data, measured on an H200."""
ATTENTION = 300e12
"""Of fused attention on 256 tokens with heads of 72: assumed, less than half of what long sequences reach."""
MEMORY = 4.3e12
"""Bytes read and written a second by a large copy, measured on an H200."""
NETWORKS = ("dit-s/2", "dit-b/2", "dit-l/2", "dit-xl/2")
FORWARD, BACKWARD, KEPT, ATTENDED, ATTENDED_FORWARD = 48, 68, 144, 24, 8
"""Traffic of a block in n w bytes: elementwise forward and backward, copies of what is kept, attention (both, and
forward alone)."""
PASSES = 100
"""Of the network for a sample."""


def parts(name: str) -> dict[str, float]:
    """Milliseconds per image by part."""
    network = eqx.filter_eval_shape(lambda: make_network(name, SHAPE, key=jax.random.key(0)))
    n, w, depth = network.grid[0] * network.grid[1], network.d_emb, network.blocks.qkv.bias.shape[0]
    attention = 4 * n * n * w * depth
    products = 3 * (forward_flops(network, SHAPE) - attention)
    traffic = n * w * depth
    times = {
        "products": products / MATRIX,
        "attention": max(3.5 * attention / ATTENTION, ATTENDED * traffic / MEMORY),
        "elementwise": (FORWARD + BACKWARD) * traffic / MEMORY,
        "optimiser": 44 * parameter_count(network) / MEMORY / BATCH,
        "kept": KEPT * traffic / MEMORY,
        "sample": PASSES
        * (
            products / 3 / MATRIX
            + max(attention / ATTENTION, ATTENDED_FORWARD * traffic / MEMORY)
            + FORWARD * traffic / MEMORY
        ),
    }
    return {part: 1e3 * seconds for part, seconds in times.items()}


def row(name: str) -> str:
    network = eqx.filter_eval_shape(lambda: make_network(name, SHAPE, key=jax.random.key(0)))
    forward, times = forward_flops(network, SHAPE), parts(name)
    sampled = 1e3 / times.pop("sample")
    best, worst = sum(times.values()) - times["kept"], sum(times.values())
    shown = " | ".join(f"{times[part]:.3f}" for part in times)
    rates = " | ".join(f"{1e3 / t:,.0f} ({3 * forward * 1e3 / t / MATRIX:.0%})" for t in (best, worst))
    return f"| {name} | {forward / 1e9:.1f} | {shown} | {rates} | {sampled:,.0f} |"


def ldm_line() -> str:
    shape = (64, 64, 3)
    network = eqx.filter_eval_shape(lambda: make_network("ldm-4", shape, key=jax.random.key(0)))
    forward = forward_flops(network, shape)
    size, trained, sampled = forward / 1e9, MATRIX / 3 / forward, MATRIX / PASSES / forward
    return (
        f"LDM-4 on 64 x 64 x 3 latents: {size:.1f} GFLOP forward; its products alone would allow {trained:,.0f} "
        f"images/s and {sampled:,.0f} samples/s. The passes over memory between its convolutions were not counted."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    text = "\n".join([
        "# Training steps on an H200, on paper", "",
        f"Nothing here was timed. {SHAPE[0]} x {SHAPE[1]} x {SHAPE[2]} latents, batch {BATCH}, bfloat16 products, no "
        f"recomputation; matrix rate {MATRIX / 1e12:.0f} TFLOP/s (measured), fused attention "
        f"{ATTENTION / 1e12:.0f} TFLOP/s (assumed), memory {MEMORY / 1e12:.1f} TB/s (a copy, measured). How each part "
        "is counted: `benchmarks/roofline.py`. Milliseconds per image; images/s with the share of the matrix rate in "
        "brackets, without and with copies of what the backward pass keeps; samples/s of 50 steps with guidance.", "",
        "| network | GFLOP forward | products | attention | elementwise | optimiser | copies | images/s | copying "
        "| samples/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(row(name) for name in NETWORKS), "", ldm_line(), "",
    ])  # fmt: skip
    print(text)
    if given.output:
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
