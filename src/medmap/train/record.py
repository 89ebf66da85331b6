"""What a person can follow: log.csv, TensorBoard, the line of the progress bar."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from medmap.config import write_atomically


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
