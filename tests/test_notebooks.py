"""Each notebook runs from a clean kernel, in less than a minute's worth of cells, and is committed with its outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LONG = ("1-", "3-", "4-", "5-", "6-", "7-", "8-")
"""A quarter of a minute and more each."""


def by_name(file):
    return file.stem


@pytest.mark.filterwarnings("default")  # what Jupyter's own packages warn of is not ours
@pytest.mark.parametrize(
    "file", [pytest.param(f, marks=pytest.mark.slow) if f.stem.startswith(LONG) else f for f in NOTEBOOKS], ids=by_name
)
def test_a_notebook_runs_from_a_clean_kernel(file):
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute(cwd=str(file.parent))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=by_name)
def test_a_notebook_is_committed_with_outputs_and_without_errors(file):
    notebook = nbformat.read(file, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.execution_count for cell in code)
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert 5 <= len(notebook.cells) <= 16


def test_there_is_a_notebook_for_each_result():
    assert len(NOTEBOOKS) == 8
