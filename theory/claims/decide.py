"""Deciding claims: run the proof, check seeded cases, and, where one fails, search for the smallest counterexample.

*proved*: the sympy derivation ran, every step's residual vanished, and no numeric case failed. *verified*: no
numeric case failed. *fails*: a counterexample was found, and shrunk by Hypothesis.
"""

import multiprocessing
import os
import random
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample
from threadpoolctl import threadpool_limits

from theory._cores import cores
from theory.claims.claim import Case, Claim, Outcome, VerdictName

WORKER_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 --xla_backend_optimization_level=0"
SHRINK_EXAMPLES = 2000
"""At most so many cases in a search for a counterexample."""


@dataclass(frozen=True)
class Decision:
    """What was found for one claim.

    `cases` counts the distinct checks made, shrinking included; `worst_margin` is the smallest margin among the
    seeded cases (or that of the counterexample); `proof_steps` the number of symbolic steps that held;
    `counterexample` the smallest failing case with the numbers compared in it.
    """

    id: str
    verdict: VerdictName
    as_recorded: bool
    cases: int
    worst_margin: float
    worst_case: dict[str, Any]
    method: str
    corrected_by: str | None
    proof_steps: int
    counterexample: dict[str, Any] | None
    numbers: dict[str, Any] | None
    seconds: float
    trouble: str = ""

    def to_json(self) -> dict[str, Any]:
        """The machine-readable row of `python -m theory --json`."""
        return {
            "id": self.id,
            "verdict": self.verdict,
            "cases": self.cases,
            "worst_margin": self.worst_margin,
            "method": self.method,
            "corrected_by": self.corrected_by,
            "as_recorded": self.as_recorded,
            "counterexample": self.counterexample,
            "numbers": _plain(self.numbers),
        }


def _fails(claim: Claim, outcome: Outcome) -> bool:
    """Whether a case speaks against a claim: against one recorded as failing only if it does so clearly."""
    return bool(outcome.margin < (-claim.clear if claim.expected == "fails" else 0.0))


def _worst_of_draws(claim: Claim, cases: int, seed: int) -> tuple[Case, Outcome, int]:
    """The case with the smallest margin, and how many were checked (stops early where a failure is expected).

    Seeded draws; each case once where the domain has no more than `cases` of them.
    """
    rng = np.random.default_rng([seed, zlib.crc32(claim.id.encode())])
    every = claim.domain.every()
    known = 0 < len(every) <= cases
    cases = len(every) if known else cases
    worst_case: Case = {}
    worst_outcome = Outcome(np.inf, {})
    for count, case in enumerate(every if known else claim.domain.draws(rng), start=1):
        outcome = claim.check(case)
        if np.isnan(outcome.margin):  # counts as a failure, and is not forgotten at the next draw
            return case, outcome, count
        if outcome.margin < worst_outcome.margin:
            worst_case, worst_outcome = case, outcome
        if count == cases or (claim.expected == "fails" and _fails(claim, outcome)):
            return worst_case, worst_outcome, count
    raise AssertionError("a domain draws without end")


def smallest_counterexample(claim: Claim, *, seed: int = 0) -> tuple[Case, Outcome, int] | None:
    """Search the domain for a failing case and shrink it; None where none was found. Also counts the cases tried."""
    tried = 0

    def speaks_against(case: Case) -> bool:
        nonlocal tried
        tried += 1
        return _fails(claim, claim.check(case))

    quiet = settings(
        max_examples=SHRINK_EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),  # explaining what was shrunk would cost as much again
        suppress_health_check=list(HealthCheck),
    )
    try:
        case = find(claim.domain.strategy(), speaks_against, settings=quiet, random=random.Random(seed))
    except NoSuchExample:
        return None
    return case, claim.check(case), tried


def _prove(claim: Claim) -> tuple[int, str]:
    """How many proof steps held, and what is wrong with the first that does not."""
    steps = list(claim.proof()) if claim.proof else []
    for index, step in enumerate(steps):
        if not step.holds():
            return index, f"proof step {index + 1} does not hold: {step.text}"
    return len(steps), ""


def decide(claim: Claim, *, cases: int | None = None, seed: int = 0) -> Decision:
    """Decide one claim: prove it where it has a proof, check `cases` seeded cases (default: the claim's own number).

    Needs float64 (`jax_enable_x64`). Reproducible: the draws depend on the seed and the claim's id alone.
    """
    start = time.perf_counter()
    steps, trouble = _prove(claim)
    case, outcome, count = _worst_of_draws(claim, cases or claim.cases, seed)
    counterexample = None
    if _fails(claim, outcome) or np.isnan(outcome.margin):
        shrunk = smallest_counterexample(claim, seed=seed)
        counterexample, outcome, tried = shrunk or (case, outcome, 0)
        count += tried
    verdict: VerdictName = "fails" if counterexample is not None or trouble else "proved" if steps else "verified"
    return Decision(
        id=claim.id,
        verdict=verdict,
        as_recorded=verdict == claim.expected,
        cases=count,
        worst_margin=float(outcome.margin),
        worst_case=dict(case),
        method=claim.method,
        corrected_by=claim.corrected_by,
        proof_steps=steps,
        counterexample=dict(counterexample) if counterexample else None,
        numbers=outcome.numbers if counterexample else None,
        seconds=time.perf_counter() - start,
        trouble=trouble,
    )


def _start_worker() -> None:
    """Prepare a process for many small programs, each run about a thousand times.

    One thread: small matrices gain nothing from more, and processes would fight over the cores. No optimisation: it
    would cost more than it saves.
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {WORKER_FLAGS}".strip()
    threadpool_limits(1)

    import jax

    jax.config.update("jax_enable_x64", True)


def _decide_by_id(claim_id: str, cases: int | None, seed: int) -> Decision:
    """A worker's job: claims hold functions, so only their ids travel between processes."""
    from theory.claims.registry import CLAIMS

    decision = decide(CLAIMS[claim_id], cases=cases, seed=seed)
    return replace(decision, numbers=_plain(decision.numbers))


def _plain(numbers: dict[str, Any] | None) -> dict[str, Any] | None:
    """Numbers as lists, floats and strings, so that they travel and print alike everywhere."""
    if numbers is None:
        return None
    return {name: _plain_value(value) for name, value in numbers.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(value)
    return np.asarray(value).tolist() if np.ndim(value) or hasattr(value, "dtype") else value


class _Queues:
    """Claims still to be decided, by the module of their checks: one worker does one module, and compiles it once."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.ids: dict[str, list[str]] = {}
        for claim in claims:
            self.ids.setdefault(claim.check.__module__, []).append(claim.id)
        self.begun: set[str] = set()

    def next(self, module: str) -> tuple[str, str]:
        """Module and id of the next claim for a worker that is at `module`: the same module, else one not begun, else
        that with most claims left. ("", "") where none is left.
        """
        fresh = [name for name in self.ids if name not in self.begun]
        busiest = sorted(self.ids, key=lambda name: -len(self.ids[name]))
        found = next((name for name in (module, *fresh, *busiest) if self.ids.get(name)), "")
        self.begun.add(found)
        return found, self.ids[found].pop(0) if found else ""


def decide_all(
    claims: Sequence[Claim], *, cases: int | None = None, seed: int = 0, workers: int | None = None
) -> Iterator[Decision]:
    """Decide many claims, yielding decisions as they come, in `workers` processes (default: one per core).

    The workers start afresh, so the caller's JAX is left alone. Closing the iterator stops them.
    """
    workers = min(workers or cores(), len(claims))
    queues, spawn = _Queues(claims), multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=spawn, initializer=_start_worker) for _ in range(workers)]
    jobs: dict[Future[Decision], tuple[ProcessPoolExecutor, str]] = {}

    def submit(pool: ProcessPoolExecutor, module: str) -> None:
        module, claim_id = queues.next(module)
        if claim_id:
            jobs[pool.submit(_decide_by_id, claim_id, cases, seed)] = pool, module

    try:
        for pool in pools:
            submit(pool, "")
        while jobs:
            for job in wait(jobs, return_when=FIRST_COMPLETED).done:
                submit(*jobs.pop(job))
                yield job.result()
    finally:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)
