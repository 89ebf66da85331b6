"""Conformance checks that a stranger's task or reader must pass; also what medmap's own are tested with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medmap import phantom
from medmap.config import Section
from medmap.dataset import Case
from medmap.errors import ConformanceError, MedmapError
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.results import Boxes, Mask, Picture, Scores
from medmap.tasks import Batch, Selection, Task, Tensors


def _require(holds: bool, what: str, got: object = None) -> None:
    if not holds:
        raise ConformanceError(what, got=got)


def check_task(
    task: Task, examples: Sequence[Tensors], cases: Sequence[Case], network: str = "small_resnet", **options: Any
) -> None:
    """Check that a task keeps the seven promises of ``medmap.tasks.Task``.

    Args:
        task: The task.
        examples: Prepared tensors by name, ``image`` among them: (channels, spatial …) float.
        cases: The cases they belong to, with truth; at least two, of different classes where there are classes.
        network: A network the task is to be learned with.
        options: Further options of ``task.network`` (width, dropout …).

    Raises:
        ConformanceError: A promise is broken; the message says which.
    """
    import torch

    image = np.asarray(examples[0]["image"])
    ndim = image.ndim - 1
    _require(task.outputs >= 1, "a task has at least one output", task.outputs)
    unwelcome = task.supports(ndim, image.shape[0])
    _require(unwelcome is None, "the task does not support the examples it is tested with", unwelcome)
    _check_draw(task, examples)
    drawn = [task.draw(e, np.random.default_rng(n)) for n, e in enumerate(examples)]
    images, truth = task.collate(drawn, cases)
    _require(len(images) == len(truth) == len(cases), "collate puts the batch first", (len(images), len(truth)))
    _require(images.dtype == torch.float32, "images of a batch are float32", images.dtype)
    options = {"dimensions": ndim, "in_channels": image.shape[0], "input_shape": tuple(images.shape[2:]), **options}
    net = task.network(network, **options)
    loss = task.loss(net, Batch(images, truth, tuple(c.id for c in cases)))
    _require(loss.ndim == 0 and bool(torch.isfinite(loss)), "a loss is one finite number", loss)
    loss.backward()  # type: ignore[no-untyped-call]
    moved = [p for p in net.parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]
    _require(bool(moved), "the loss has a gradient")
    net.eval()
    with torch.no_grad():
        numbers = net(images).float().numpy()
    found = task.decode(numbers[0])
    _require(isinstance(found, (Scores, Boxes, Mask, Picture)), "decode gives a result of medmap.results", type(found))
    store = _Prepared(tuple(cases), tuple(examples))
    with torch.no_grad():
        answers = task.answers(lambda batch: net(torch.from_numpy(batch)).float().numpy(), store, range(len(cases)))
    chosen = task.score(answers, cases)
    _require(
        isinstance(chosen, Selection) and np.isfinite(chosen.value), "score gives a finite selection value", chosen
    )


@dataclass(frozen=True)
class _Prepared:
    """Examples as a store holds them."""

    cases: tuple[Case, ...]
    examples: tuple[Tensors, ...]

    def __getitem__(self, row: int) -> Tensors:
        return self.examples[row]


def _check_draw(task: Task, examples: Sequence[Tensors]) -> None:
    before = {k: np.array(v) for k, v in examples[0].items()}
    one, two = (task.draw(examples[0], np.random.default_rng(7)) for _ in range(2))
    _require(
        one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one),
        "the same draw gives the same example",
    )
    same = all(np.array_equal(before[k], v) for k, v in examples[0].items())
    _require(same, "drawing does not change the prepared case")


def check_reader(
    write: Callable[[Image, Path], None], read: Callable[[Path], Image], folder: Path, *, tolerance_mm: float = 1e-4
) -> None:
    """Check that a format's reader puts every voxel of the oblique phantom where its writer, another library, meant it.

    Args:
        write: Writes an image to a path with another library.
        read: The reader to be checked.
        folder: An empty folder to write into.
        tolerance_mm: How far a voxel may be off.

    Raises:
        ConformanceError: A voxel is at another place or has another value, or a truncated file is not refused.
    """
    image = phantom.oblique()
    path = folder / "oblique"
    write(image, path)
    written = [p for p in folder.iterdir() if p.is_file()]
    _require(len(written) == 1, "the writer leaves one file", [p.name for p in written])
    found = read(written[0])
    _require(found.array.size == image.array.size, "every voxel is read", found.array.shape)
    _same_place(image, found, tolerance_mm)
    _require(not found.array.flags.writeable, "an image's array is read-only")
    content = written[0].read_bytes()
    written[0].write_bytes(content[: len(content) // 2])
    try:
        read(written[0])
    except MedmapError:
        return
    raise ConformanceError("a truncated file is refused", got="an image")


def _same_place(wanted: Image, found: Image, tolerance_mm: float) -> None:
    """Each value is unique in the phantom: its place in the world is compared, whatever the index order."""
    order_a, order_b = np.argsort(wanted.array, axis=None), np.argsort(found.array, axis=None)
    values = np.sort(wanted.array, axis=None), np.sort(found.array, axis=None)
    _require(bool(np.array_equal(*values)), "values are read as they are")
    places = [_places(g, order) for g, order in ((wanted.geometry, order_a), (found.geometry, order_b))]
    off = float(np.abs(places[0] - places[1]).max())
    _require(off <= tolerance_mm, "every voxel is where it was written", f"up to {off:.3g} mm off")


def _places(geometry: Geometry, order: Any) -> Any:
    index = np.stack(np.unravel_index(order, geometry.shape), axis=1)
    return geometry.to_world(index)


def check_section(section: type[Section]) -> None:
    """Check that a room's section of run.yaml is frozen and refuses unknown keys, and that defaults are valid.

    Raises:
        ConformanceError: It does not.
    """
    config = section.model_config
    _require(bool(config.get("frozen")), "a section is frozen", section.__name__)
    _require(config.get("extra") == "forbid", "a section refuses unknown keys", section.__name__)


__all__ = ["check_reader", "check_section", "check_task"]
