"""Checkpoints: the whole state of a run by names, written by orbax in the background, whole or not at all.

A state is saved as a dictionary from the names of its arrays to the arrays, so a checkpoint can be read without the
classes that made it, onto other devices than it was written from. What is half written when a process dies is left out
when the run goes on.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from theory._checks import InputError, require


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `.parameters.table`."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _like(tree: PyTree, leaves: dict[str, Any]) -> PyTree:
    structure = jax.tree.structure(tree)
    return jax.tree.unflatten(structure, [leaves[name] for name in named(tree)])


class Checkpoints:
    """The checkpoints of a run, in a folder.

    **Arguments:** `folder`, made if missing unless `create` is false; `keep` >= 1: how many of the newest are kept.
    """

    def __init__(self, folder: Path, keep: int, *, create: bool = True) -> None:
        """Open the folder."""
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=create)
        self._manager = ocp.CheckpointManager(
            folder.resolve(), options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def latest(self) -> int | None:
        """The newest step, or None."""
        step = self._manager.latest_step()
        return None if step is None else int(step)

    def all(self) -> list[int]:
        """The steps kept, rising."""
        return sorted(int(step) for step in self._manager.all_steps())

    def save(self, step: int, state: PyTree) -> None:
        """Write the state in the background; it may be used up meanwhile."""
        import orbax.checkpoint as ocp

        self._manager.save(step, args=ocp.args.StandardSave(named(state)))

    def restore(self, step: int, like: PyTree) -> PyTree:
        """The state of that step, with the structure, shapes, types and shardings of `like` (arrays or their shapes).

        Raises `ValueError` where the names or shapes are others.
        """
        import orbax.checkpoint as ocp

        wanted = named(like)
        given = {name: tuple(meta.shape) for name, meta in self._manager.item_metadata(step).items()}
        shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
        other = sorted(set(given.items()) ^ set(shapes.items()))
        require(not other, "checkpoint", f"{len(other)} arrays that differ, such as {other[:2]}", "of this model")
        return _like(like, self._manager.restore(step, args=ocp.args.StandardRestore(wanted)))

    def finish(self) -> None:
        """Wait until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and stop the threads."""
        self._manager.close()


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Within it a full disk raises `InputError`, which says what is kept and what to do."""
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise InputError(
                f"{folder}: no space left on the disk. The checkpoints written before are whole: free some space and "
                "give the same command again to go on."
            ) from error
        raise


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "no space left" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def require_space(folder: Path, state: PyTree, copies: int) -> None:
    """Raise `InputError` unless the disk of an existing `folder` has room for so many checkpoints of the state."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(folder).free
    require(free >= copies * size, "out", f"{folder} with {free / 2**20:.0f} MiB free",
            f"on a disk with room for {copies} checkpoints of {size / 2**20:.1f} MiB")  # fmt: skip
