"""What the report shows of the experiments: a section each, the answer in one sentence above the figures."""

from sim.experiments.base import Job, write_result
from theory.report import Result


def experiment_result(job: Job) -> Result:
    """The section of a finished job, whose files are written too."""
    outcome = write_result(job)
    title = f"{job.experiment.title}: {job.experiment.question}"
    return Result(title, outcome.answer, outcome.figures, outcome.details)
