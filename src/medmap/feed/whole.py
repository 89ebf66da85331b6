"""Prepared cases of one shape: half-precision tensors in memory, or compressed on disk and read case by case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case, Dataset
from medmap.errors import DataError
from medmap.feed.reading import case_image
from medmap.image import Image
from medmap.prepare import Recipe
from medmap.tasks.protocol import Tensors

# Above this part of the memory allowed, prepared cases live compressed on disk instead of in memory.
MEMORY_SHARE = 0.5
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Store:
    """Prepared cases: half-precision tensors in memory, or compressed on disk and read case by case.

    Args:
        cases: In the order of the rows.
        rows: Indexable: ``rows[i]`` is (channels, spatial …) float16.
        hashes: Content hash of each case's source pixels; empty for an image of one value, which is a copy of nothing.
        recipe: The recipe's digest.
        failed: Cases that could not be read, with the reason.
    """

    cases: tuple[Case, ...]
    rows: Any
    hashes: tuple[str, ...]
    recipe: str
    failed: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, spatial …) of a case."""
        return tuple(int(v) for v in self.rows.shape[1:])

    def subset(self, rows: Sequence[int]) -> Store:
        """The store of some rows; those on disk are copied to memory only when they all are."""
        cases, hashes = tuple(self.cases[i] for i in rows), tuple(self.hashes[i] for i in rows)
        picked: Any = self.rows[np.asarray(rows)] if isinstance(self.rows, np.ndarray) else _Picked(self.rows, rows)
        return Store(cases, picked, hashes, self.recipe, self.failed)

    def __getitem__(self, row: int) -> Tensors:
        return {"image": np.asarray(self.rows[row])}

    def take(self, indices: Sequence[int] | NDArray[np.intp]) -> NDArray[np.float32]:
        """(len(indices), channels, spatial …) float32."""
        if isinstance(self.rows, np.ndarray):
            return np.asarray(self.rows[np.asarray(indices)], dtype=np.float32)
        return np.stack([self.rows[int(i)] for i in indices]).astype(np.float32)


class _Picked:
    """Some rows of a store on disk."""

    def __init__(self, rows: Any, picked: Sequence[int]) -> None:
        self._rows, self._picked = rows, tuple(picked)
        self.shape = (len(self._picked), *rows.shape[1:])

    def __getitem__(self, row: int) -> NDArray[np.float16]:
        return np.asarray(self._rows[self._picked[row]])


def build_store(
    dataset: Dataset,
    recipe: Recipe,
    *,
    memory_bytes: int,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Store:
    """Read and prepare every case of a dataset, each once.

    Args:
        dataset: Cases; several inputs become the channels of one image.
        recipe: The fitted preparation.
        memory_bytes: Memory the run may take; half of it may hold prepared cases.
        folder: Where a store too large for memory goes; required then.
        progress: Called with (done, of).

    Raises:
        DataError: No case can be read, or the store is too large for memory and no folder is given.
    """
    shape = (recipe.section.channels, *recipe.section.shape)
    size = int(np.prod(shape)) * 2 * len(dataset)
    rows = _rows((len(dataset), *shape), size, int(memory_bytes * MEMORY_SHARE), folder)
    kept: list[Case] = []
    hashes: list[str] = []
    failed: dict[str, str] = {}
    for number, case in enumerate(dataset):
        try:
            image = case_image(dataset, case)
            rows[len(kept)] = recipe.apply(image).tensors["image"].astype(np.float16)
        except DataError as error:
            failed[case.id] = str(error)
            continue
        kept.append(case)
        hashes.append(content_hash(image))
        if progress is not None and (number % 64 == 0 or number + 1 == len(dataset)):
            progress(number + 1, len(dataset))
    if not kept:
        raise DataError("no case of the dataset can be read", got=next(iter(failed.values())))
    return Store(
        tuple(kept), rows[: len(kept)] if isinstance(rows, np.ndarray) else rows, tuple(hashes), recipe.digest, failed
    )


def _rows(shape: tuple[int, ...], size: int, limit: int, folder: Path | None) -> Any:
    if size <= limit:
        return np.empty(shape, dtype=np.float16)
    if folder is None:
        raise DataError(
            "the prepared cases do not fit the memory allowed", got=f"{size} bytes", expected=f"at most {limit}"
        )
    import blosc2

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "prepared.b2nd"
    path.unlink(missing_ok=True)
    chunk = (1, *shape[1:])
    return blosc2.empty(shape, dtype=np.float16, chunks=chunk, urlpath=str(path), cparams={"clevel": 3})


def content_hash(image: Image) -> str:
    """Hash of an image's pixels; empty for an image of one value, which is a copy of nothing."""
    constant = image.array.size == 0 or bool((image.array == image.array.flat[0]).all())
    return "" if constant else image.content_sha256()
