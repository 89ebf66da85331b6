"""The words of ``plan`` and ``train``: looked at before anything heavy happens, then made a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmap.cli.show import duration_s, size_bytes
from medmap.errors import UsageError

if TYPE_CHECKING:
    from medmap.dataset import Dataset
    from medmap.plan import Run

DEVICES = ("auto", "cpu", "cuda")
# The limits of run.yaml, stated here too so that a wrong word is found before the libraries are imported.
LEAST_MEMORY_BYTES = 2**28
MOST_FOLDS = 100
LARGEST_SEED = 2**31 - 1


def known_device(name: str) -> str:
    """The word of ``--device``.

    Raises:
        UsageError: Neither auto, cpu nor cuda.
    """
    if name not in DEVICES:
        raise UsageError("unknown device", got=repr(name), expected=", ".join(DEVICES))
    return name


def memory_of(text: str | None) -> int | None:
    """The word of ``--memory`` in bytes; None where it is not given.

    Raises:
        UsageError: No size, or too small to work in.
    """
    if text is None:
        return None
    size = size_bytes(text)
    if size < LEAST_MEMORY_BYTES:
        raise UsageError("this memory is too small to work in", got=text, expected="at least 256MiB")
    return size


def require_folder(path: Path) -> Path:
    """The path of an output folder, which may not exist yet.

    Raises:
        UsageError: It, or what it would lie in, is a file.
    """
    standing = next((place for place in (path, *path.parents) if os.path.lexists(place)), None)
    if standing is not None and not standing.is_dir():
        raise UsageError(f"{standing} is a file, not a folder", remedy="choose another place for the output")
    return path


def require_file(path: Path) -> Path:
    """The path of an output file, which may not exist yet.

    Raises:
        UsageError: It is a folder, or what it would lie in is a file.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file", remedy="name a file in it")
    require_folder(path.parent)
    return path


@dataclass(frozen=True)
class Words:
    """What ``plan`` and ``train`` were told, checked; None is what was not said.

    Args:
        budget, memory: As typed: ``10m``, ``4GiB``.
        recipe, seed, folds, init, device: As the options of these names.
        sets: The ``--set`` texts; they win over every other word.

    Raises:
        UsageError: A value that no run may have.
    """

    budget: str | None = None
    memory: str | None = None
    recipe: str | None = None
    seed: int | None = None
    folds: int | None = None
    init: str | None = None
    device: str | None = None
    sets: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            duration_s(self.budget)
        memory_of(self.memory)
        if self.device is not None:
            known_device(self.device)
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError("this is no seed", got=self.seed, expected=f"a whole number from 0 to {LARGEST_SEED}")
        if self.folds is not None and (self.folds == 1 or not 0 <= self.folds <= MOST_FOLDS):
            expected = f"0 for a validation split, or 2 to {MOST_FOLDS}"
            raise UsageError("this is no number of folds", got=self.folds, expected=expected)
        if self.init == "":
            raise UsageError("--init is empty", expected="a bundle, a file, a hub name or none")

    @property
    def budget_s(self) -> float | None:
        """The budget in seconds."""
        return None if self.budget is None else duration_s(self.budget)

    @property
    def weights(self) -> str | None:
        """Starting weights; None from scratch."""
        return None if self.init == "none" else self.init

    def planned(self, data: Dataset) -> Run:
        """A run made for the data on this machine."""
        from medmap.cli import started
        from medmap.plan import plan

        fixed: dict[str, Any] = {"seed": self.seed or 0, "device": self.device or "auto"}
        if self.memory is not None:
            fixed["memory_bytes"] = memory_of(self.memory)
        if self.init is not None:
            fixed["init"] = self.weights
        return plan(
            data,
            budget_s=self.budget_s,
            recipe_name=self.recipe or "rules",
            overrides=list(self.sets or ()),
            folds=self.folds,
            spent_s=time.time() - started(),
            **fixed,
        )

    def loaded(self, config: Path) -> Run:
        """The run of a ``run.yaml``, changed by every word that was said.

        Raises:
            UsageError: A recipe was asked for as well.
            ConfigError: The file or a ``--set`` is wrong.
        """
        from medmap.plan import Run

        if self.recipe is not None:
            raise UsageError("--recipe makes a plan, and --config is one", remedy="leave out one of the two")
        values: dict[str, Any] = {}
        if self.seed is not None:
            values["seed"] = self.seed
        if self.device is not None:
            values["device"] = self.device
        if self.budget is not None:
            values["budget_s"] = self.budget_s
        if self.memory is not None:
            values["memory_bytes"] = memory_of(self.memory)
        if self.init is not None:
            values["network.init"] = self.weights
        if self.folds is not None:
            values |= {"ensemble.folds": self.folds, "ensemble.members": max(1, self.folds)}
        # JSON is YAML: null stays null, and a name with a colon or a hash stays one text
        texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
        texts += list(self.sets or ())
        return Run.load(config).override(texts)

    def resumed(self, output: Path, config: Path | None) -> Run:
        """The run that stands in ``output``; only its budget may be another.

        Raises:
            UsageError: There is none, or another setting was asked for.
        """
        from medmap.plan import Run

        said = {
            "--config": config,
            "--set": self.sets or None,
            "--memory": self.memory,
            "--recipe": self.recipe,
            "--seed": self.seed,
            "--folds": self.folds,
            "--init": self.init,
            "--device": self.device,
        }
        if given := [name for name, value in said.items() if value is not None]:
            remedy = "leave that out; only --budget may be another"
            raise UsageError("a resumed run keeps its settings", got=", ".join(given), remedy=remedy)
        if not (output / "run.yaml").exists():
            raise UsageError(f"there is nothing to resume in {output}", remedy="start without --resume")
        run = Run.load(output / "run.yaml")
        return run if self.budget is None else run.model_copy(update={"budget_s": self.budget_s})
