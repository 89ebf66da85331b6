"""What a person can follow: log.csv, TensorBoard, the line of the progress bar, the sheet of augmented images."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medmap import augment
from medmap.config import write_atomically
from medmap.feed import Store
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.plan import Run
from medmap.tasks import Task
from medmap.write import write
from medmap.write.captions import caption

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHEET_IMAGES, SHEET_VIEWS = 8, 7


class Record:
    """The log of a run.

    Args:
        folder: The run's folder; ``log.csv`` and ``tensorboard/`` are kept there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[int, list[dict[str, float]]] = {}
        self._boards: dict[int, Any] = {}

    def epoch(self, member: int, rows: list[dict[str, float]]) -> None:
        """Write the log anew with a member's rows so far, and its last row to TensorBoard."""
        self._rows[member] = rows
        self._write()
        board = self._boards.get(member)
        if board is None:
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(self._folder / "tensorboard" / f"member{member}"))
            self._boards[member] = board
        for name, value in rows[-1].items():
            if name != "epoch":
                board.add_scalar(name, value, int(rows[-1]["epoch"]))

    def member_done(self, member: int, rows: list[dict[str, float]]) -> None:
        """Close a member's books."""
        self._rows[member] = rows
        self._write()
        board = self._boards.pop(member, None)
        if board is not None:
            board.close()

    def _write(self) -> None:
        names = list(dict.fromkeys(name for rows in self._rows.values() for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, ["member", *names], lineterminator="\n")
        writer.writeheader()
        for member in sorted(self._rows):
            for row in self._rows[member]:
                writer.writerow({"member": member, **{k: f"{v:.6g}" for k, v in row.items()}})
        write_atomically(self._folder / "log.csv", text.getvalue())

    def headline(self, member: int, epoch: int, loss: float, rows: list[dict[str, float]]) -> str:
        """Where training is, in a few words."""
        shown = ""
        for row in reversed(rows):
            named = [(k, v) for k, v in row.items() if k.startswith("val_")]
            if named:
                shown = ", " + " ".join(f"{k.removeprefix('val_')} {v:.3f}" for k, v in named)
                break
        return f"network {member + 1}, epoch {epoch + 1}, loss {loss:.3f}{shown}"


def write_contact_sheet(path: Path, store: Store, task: Task, run: Run) -> None:
    """A PNG of training images (first column) and what augmentation makes of them; a volume shows its middle slice.

    A line above says so, and each row names its case.
    """
    import torch

    rows = np.unique(np.linspace(0, len(store) - 1, SHEET_IMAGES).astype(int))
    lines = []
    for row in rows:
        rngs = [np.random.default_rng([run.seed, 0, int(row), view]) for view in range(SHEET_VIEWS)]
        tensors = task.draw(store[int(row)], rngs[0])
        images, _ = task.collate([tensors] * SHEET_VIEWS, [store.cases[int(row)]] * SHEET_VIEWS)
        views = augment.apply(images, [augment.draw(run.augment, rng, images.ndim - 2) for rng in rngs])
        lines.append(torch.cat([images[:1], views]).numpy())
    write(_sheet(np.stack(lines), [store.cases[int(row)].id for row in rows]), path, overwrite=True)


def _sheet(views: NDArray[np.float32], names: Sequence[str]) -> Image:
    """(images, views, channels, spatial …) to one grey or colour picture with words above the rows."""
    title = f"Training images (left) and {views.shape[1] - 1} augmented views of each, as the network may see them"
    if views.ndim == 6:
        views = views[..., views.shape[-1] // 2]
        title += "; middle slices"
    low, high = np.percentile(views, [0.5, 99.5])
    scaled = (np.clip((views - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    zoom = max(1, 96 // max(scaled.shape[-2:]))
    scaled = scaled.repeat(zoom, -2).repeat(zoom, -1)
    scaled = np.pad(scaled, [(0, 0)] * 3 + [(1, 1)] * 2)
    n, m, c, h, w = scaled.shape
    tiles = scaled.transpose(0, 3, 1, 4, 2).reshape(n, h, m * w, c)
    colour = c == 3
    rows = [caption([(None, title)], m * w)]
    for name, tile in zip(names, tiles, strict=True):
        rows += [caption([(None, f"case {name}")], m * w), tile if colour else tile[..., :1].repeat(3, axis=-1)]
    whole = np.concatenate(rows)
    array = whole if colour else whole[..., 0]
    channels = ("red", "green", "blue") if colour else ("image",)
    return Image(array, Geometry.without_size(array.shape[:2]), "colour" if colour else "arbitrary", channels)
