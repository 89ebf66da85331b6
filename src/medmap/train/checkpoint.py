"""State that survives a kill at any moment: written aside, synced, renamed, its hash written last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmap.config import write_atomically
from medmap.errors import DataError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint folder of a run: one state in progress, and the finished members.

    Args:
        folder: ``RUN/checkpoint``; made when first written.
        run: Digest of the run; a state of another run is refused.
    """

    folder: Path
    run: str

    def save(self, name: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write a state under a name (``member0``, ``current``), replacing the older one only when whole."""
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        data = save({k: v.contiguous() for k, v in tensors.items()})
        digest = hashlib.sha256(data).hexdigest()
        file = f"{name}-{digest[:12]}.safetensors"
        write_atomically(self.folder / file, data)
        note = {"file": file, "sha256": digest, "run": self.run, "facts": dict(facts)}
        write_atomically(self.folder / f"{name}.json", json.dumps(note))
        self._sync_folder()
        for old in self.folder.glob(f"{name}-*.safetensors"):
            if old.name != file:
                old.unlink()

    def load(self, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The state under a name, or None when there is none.

        Raises:
            DataError: It is damaged, or belongs to another run.
        """
        from safetensors.torch import load

        note_path = self.folder / f"{name}.json"
        if not note_path.exists():
            return None
        try:
            note = json.loads(note_path.read_text(encoding="utf-8"))
            data = (self.folder / note["file"]).read_bytes()
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"the checkpoint {note_path} cannot be read", got=str(error), remedy="start anew"
            ) from error
        if hashlib.sha256(data).hexdigest() != note["sha256"]:
            raise DataError(
                f"the checkpoint {self.folder / note['file']} is damaged", remedy="start anew in another folder"
            )
        if note["run"] != self.run:
            raise DataError(
                "the checkpoint belongs to another run or other data",
                remedy="resume with the run.yaml and the dataset it was started with, or start anew in another folder",
            )
        return load(data), note["facts"]

    def require_same_run(self) -> None:
        """Refuse, before anything is written, a folder with another run's states; sweep what a kill left half done.

        Raises:
            DataError: A state is damaged, or belongs to another run.
        """
        if not self.folder.is_dir():
            return
        for note in self.folder.glob("*.json"):
            self.load(note.stem)
        for orphan in self.folder.glob(".*.safetensors.*"):
            orphan.unlink()

    def drop(self, name: str) -> None:
        """Forget a state; its note goes first, so that no note ever points to nothing."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        for old in self.folder.glob(f"{name}-*.safetensors"):
            old.unlink()

    def _sync_folder(self) -> None:
        if not hasattr(os, "O_DIRECTORY"):
            return
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
