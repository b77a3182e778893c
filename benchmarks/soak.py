"""A long run that is killed every few minutes must end with the bits of the same run left alone.

    python benchmarks/soak.py [--minutes 60] [--every 3] [--hosts 1 2] [--seed 0] [--output FILE]

For each number of hosts (processes of this machine; several share the parameters, on the CPU) a short trial tells how
many steps fill `--minutes`. They are trained twice, side by side: once undisturbed, once with SIGKILL to one host,
drawn at random, about every `--every` minutes of training, wherever that is in a step or a checkpoint.
(`kill_and_resume.py` kills while it loads and compiles, too.) The other host must then end by itself, and the same
commands are given again. Weights, averages, moments and metrics must be the same bit for bit at the end; exit code 1 if
they are not. It takes about 1.5 x `--minutes` for each number of hosts.
"""

import argparse
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from _timing import versions
from kill_and_resume import digests

TRIAL = 200
"""Steps of the trial."""
LONGEST = 600
"""Seconds within which the hosts that are left must have ended."""


class Kill(NamedTuple):
    """A kill: minutes since the start, which host, the last step logged, and how the others ended: seconds, codes."""

    minutes: float
    host: int
    step: int
    seconds: float
    codes: list[int]


def machine() -> str:
    """Processor, cores, versions."""
    names = ("jax", "equinox", "optax", "orbax-checkpoint", "grain")
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions(names)}."


def begin(folder: Path, steps: int, every: int, hosts: int) -> list[subprocess.Popen]:
    options = {"steps": steps, "batch": 32, "log-every": 20, "checkpoint-every": every, "samples-every": 0}
    options |= {"condition": "cep-g", "strength": 1, "flips": "symmetric", "flip-share": 0.1, "fsdp": hosts}
    command = [sys.executable, "-m", "imagegen", "train", "digits", "--out", str(folder)]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    if hosts == 1:
        return [_begin(command, folder, 0, {})]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        command += ["--coordinator", f"localhost:{probe.getsockname()[1]}", "--hosts", str(hosts)]
    alone = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    return [_begin([*command, "--host", str(host)], folder, host, alone) for host in range(hosts)]


def _begin(command: list[str], folder: Path, host: int, environment: dict[str, str]) -> subprocess.Popen:
    with (folder.parent / f"{folder.name}.{host}.log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)


def ended(processes: list[subprocess.Popen], seconds: float) -> list[int | None]:
    """Exit codes once all have ended, or after so many seconds: None for those that still run."""
    end = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(0.2)
    return [process.poll() for process in processes]


def under_way(processes: list[subprocess.Popen], folder: Path) -> None:
    """Wait until they log a step, or one has ended. (Going on, they first take back what came after the checkpoint.)"""
    before = logged(folder)
    while all(process.poll() is None for process in processes) and (now := logged(folder)) <= before:
        before = now
        time.sleep(0.2)


def logged(folder: Path) -> int:
    """The last step in the metrics."""
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def run(folder: Path, steps: int, every: int, hosts: int, waits: random.Random | None, mean: float) -> list[Kill]:
    """Train to the end; with `waits`, kill a host about every `mean` seconds."""
    began, kills = time.monotonic(), []
    while True:
        processes = begin(folder, steps, every, hosts)
        try:
            under_way(processes, folder)
            codes = ended(processes, waits.uniform(0.5 * mean, 1.5 * mean) if waits else float("inf"))
            if set(codes) == {0}:
                return kills
            if None not in codes or not waits:
                raise SystemExit(f"exit codes {codes}: see {folder}.*.log")
            host = waits.randrange(hosts)
            step, now = logged(folder), time.monotonic()
            processes[host].send_signal(signal.SIGKILL)
            codes = ended(processes, LONGEST)
            if None in codes:
                raise SystemExit(f"{LONGEST} s after host {host} was killed others still run: see {folder}.*.log")
            if set(codes) == {0}:  # it ended just before
                return kills
            others = [code for number, code in enumerate(codes) if number != host]
            kills.append(Kill((now - began) / 60, host, step, time.monotonic() - now, others))
            print(f"killed host {host} at step {step} of {steps}; others ended with {others}", flush=True)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def soak(top: Path, hosts: int, minutes: float, every: float, seed: int) -> tuple[list[str], bool]:
    """Lines of the report, and whether both runs ended alike."""
    with ThreadPoolExecutor(2) as pool:  # two trials, too: so their speed is that of the runs
        trials = [pool.submit(run, top / f"trial-{k}", TRIAL, TRIAL, hosts, None, 0) for k in range(2)]
        for trial in trials:
            trial.result()
        lines = (top / "trial-0/speed.jsonl").read_text(encoding="utf-8").splitlines()
        rate = statistics.median(json.loads(line)["images_per_second"] for line in lines) / 32  # steps per second
        checkpoint = max(20, round(rate * every * 60 / 8 / 20) * 20)
        steps = max(checkpoint, round(rate * minutes * 60 / 20) * 20)
        print(f"{hosts} hosts: {rate:.2f} steps/s; {steps} steps, a checkpoint every {checkpoint}", flush=True)
        both = [("undisturbed", None), ("killed", random.Random(seed))]
        done = [pool.submit(timed, top / name, steps, checkpoint, hosts, waits, 60 * every) for name, waits in both]
        (quiet, _), (disturbed, kills) = (run.result() for run in done)
    ours, theirs = (digests(top / name, steps) for name in ("killed", "undisturbed"))
    return report(hosts, steps, checkpoint, [quiet, disturbed], kills, ours, theirs), ours == theirs


def timed(*given: Any) -> tuple[float, list[Kill]]:
    """Minutes, and what `run` returns."""
    began = time.monotonic()
    kills = run(*given)
    return (time.monotonic() - began) / 60, kills


def report(
    hosts: int, steps: int, checkpoint: int, taken: list[float], kills: list[Kill], ours: dict, theirs: dict
) -> list[str]:
    """A section of the page."""
    again = statistics.median([kill.step % checkpoint for kill in kills]) if kills else 0
    lines = [
        f"## {hosts} host{'s' * (hosts > 1)}",
        "",
        f"{steps} steps of 32 digits, a checkpoint every {checkpoint}: {taken[0]:.1f} minutes undisturbed, "
        f"{taken[1]:.1f} with {len(kills)} kills, side by side. Steps done again after a kill: {again:.0f} (median, "
        "logged ones).",
    ]
    if hosts > 1 and kills:
        codes = ", ".join(map(str, sorted({code for kill in kills for code in kill.codes})))
        slowest = max(kill.seconds for kill in kills)
        lines.append(f"The other host ended by itself after at most {slowest:.0f} s, exit codes {codes}.")
    lines += ["", "| | undisturbed | killed | |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {theirs[name][:16]} | {ours[name][:16]} | {'same' if ours[name] == theirs[name] else 'OTHER'} |"
        for name in theirs
    ]
    at = ", ".join(f"{kill.minutes:.1f} (host {kill.host}, step {kill.step})" for kill in kills)
    return [*lines, "", f"Killed at minutes {at}.", ""]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of the undisturbed run, about")
    parser.add_argument("--every", type=float, default=3.0, help="minutes between kills, on average")
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0, help="of when and whom to kill")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    page = ["# A run that is killed again and again", "", machine(), ""]
    page += ["Digests (SHA-256) of what a run ends with, killed with SIGKILL about every "
             f"{given.every:g} minutes and undisturbed: the same bits.", ""]  # fmt: skip
    same = True
    for hosts in given.hosts:
        with tempfile.TemporaryDirectory() as top:
            lines, alike = soak(Path(top), hosts, given.minutes, given.every, given.seed)
        page, same = [*page, *lines], same and alike
    print("\n".join(page))
    if given.output:
        given.output.write_text("\n".join(page), encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
