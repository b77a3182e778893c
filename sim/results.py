"""What the report shows of the experiments: a section each, the answer in one sentence above the figures."""

from collections.abc import Iterator, Sequence

from sim.experiments.base import Job
from theory.report import Result


def experiment_results(jobs: Sequence[Job]) -> Iterator[Result]:
    """A section per finished job."""
    for job in jobs:
        rows = job.rows()
        figures = list(job.experiment.figures(job.config, rows).values())
        answer, details = job.experiment.answer(job.config, rows), job.experiment.details(job.config, rows)
        yield Result(f"{job.experiment.title}: {job.experiment.question}", answer, figures, details)
