"""The mappings medmap can learn, one file each; a new one is a file and a row of ``TASKS``."""

from __future__ import annotations

import importlib
from typing import Any

from medmap.errors import ConfigError
from medmap.tasks.protocol import Batch, Examples, Forward, Selection, Task, Tensors

# name -> module with its part of run.yaml and ``make(section, dataset, shape, network) -> Task``
TASKS = {
    "classify": "medmap.tasks.classify",
    "detect": "medmap.tasks.detect",
    "segment": "medmap.tasks.segment",
}


def task_module(name: str) -> Any:
    """The module that makes a task.

    Raises:
        ConfigError: A task medmap does not know.
    """
    if name not in TASKS:
        raise ConfigError("unknown task", got=repr(name), expected=", ".join(TASKS))
    return importlib.import_module(TASKS[name])


__all__ = ["TASKS", "Batch", "Examples", "Forward", "Selection", "Task", "Tensors", "task_module"]
