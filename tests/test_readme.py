"""The README is short, and its example runs as written."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs_as_written():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    run = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.split()) >= 8


def test_it_is_short_and_has_a_picture():
    assert len(README.splitlines()) <= 105
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README, re.DOTALL)
    assert (Path(__file__).parents[1] / picture).exists()


def test_its_make_targets_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
