"""Prepared cases with their masks or boxes, each of its own shape; a patch is read without reading the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.dataset import Case, Dataset
from medmap.errors import DataError
from medmap.feed.reading import case_image
from medmap.feed.whole import MEMORY_SHARE, Progress, content_hash
from medmap.geometry import Trace
from medmap.prepare import Recipe
from medmap.read import read_ref
from medmap.runtime import Box
from medmap.tasks.protocol import IGNORED, Tensors

CHUNK = {2: 128, 3: 32}  # voxels a side that are compressed together on disk
MOST_PLACES = 10_000  # voxels of a class that a patch may be drawn around


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """One case of a patch store.

    Args:
        case: Whose it is.
        image: (channels, spatial …) float16, in memory or on disk.
        truth: (spatial …) uint8 labels, likewise.
        places: label → (n, ndim) index of voxels that have it, at most ``MOST_PLACES``, evenly picked.
        trace: The way from the case's own grid to the prepared one.
        content: Hash of the source's pixels; empty for an image of one value.
        boxed: Whether ``truth`` is boxes, as ``build_box_store`` says, and always in memory.
        inside: (first, after last) voxel along each axis of the part that is learned from; None: all of it.
        judged_inside: Likewise of the part that is looked at where the case judges a network.
    """

    case: Case
    image: Any
    truth: Any
    places: Mapping[int, NDArray[np.int32]]
    trace: Trace
    content: str
    boxed: bool = False
    inside: Box | None = None
    judged_inside: Box | None = None


@dataclass(frozen=True, eq=False)
class PatchStore:
    """Prepared images beside their label maps, in memory or compressed on disk in chunks.

    Args:
        prepared: The cases.
        recipe: The recipe's digest.
        failed: Cases that could not be read, with the reason.
    """

    prepared: tuple[PreparedCase, ...]
    recipe: str
    failed: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prepared)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases, in the order of the rows."""
        return tuple(row.case for row in self.prepared)

    @property
    def hashes(self) -> tuple[str, ...]:
        """Content hash of each case's source pixels."""
        return tuple(row.content for row in self.prepared)

    def subset(self, rows: Sequence[int]) -> PatchStore:
        """The store of some rows."""
        return PatchStore(tuple(self.prepared[i] for i in rows), self.recipe, self.failed)

    def __getitem__(self, row: int) -> Tensors:
        """``image`` and ``truth``, read where they are sliced, ``places_<label>`` and where to look; or ``boxes``."""
        found = self.prepared[row]
        if found.boxed:
            return {"image": found.image, "boxes": found.truth}
        places = {f"places_{label}": where for label, where in found.places.items()}
        looked = {"inside": found.inside, "judged_inside": found.judged_inside}
        where = {name: np.array(box) for name, box in looked.items() if box is not None}
        return {"image": found.image, "truth": found.truth, **places, **where}


def build_patch_store(
    dataset: Dataset,
    recipe: Recipe,
    *,
    memory_bytes: int,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> PatchStore:
    """Read and prepare every case with its mask, each once; of several observers the first is the truth.

    A case without a mask has no voxel of any class.

    Args:
        dataset: Cases; several inputs become the channels of one image.
        recipe: The fitted preparation.
        memory_bytes: Memory the run may take; half of it may hold prepared cases, the others lie in ``folder``.
        folder: Where cases beyond that go; required then.
        progress: Called with (done, of).

    Raises:
        DataError: No case can be read, or they do not fit and no folder is given.
    """
    return _gathered(partial(_prepared, dataset, recipe=recipe), dataset, recipe, memory_bytes, folder, progress)


def build_box_store(
    dataset: Dataset,
    recipe: Recipe,
    *,
    memory_bytes: int,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> PatchStore:
    """Read and prepare every case with its boxes, each once; arguments and errors as ``build_patch_store``.

    Of each case ``boxes`` holds (n, 2·ndim + 1 + classes) float32: edges on the prepared grid (voxel ``i`` reaches
    from ``i`` to ``i + 1``), a state (1 there, −1 neither to be found nor wrong), and 1 for each class. Boxes of
    several classes in one place are one row.
    """
    return _gathered(partial(_boxed, dataset, recipe=recipe), dataset, recipe, memory_bytes, folder, progress)


def _gathered(
    prepared: Callable[[Case], PreparedCase],
    dataset: Dataset,
    recipe: Recipe,
    memory_bytes: int,
    folder: Path | None,
    progress: Progress | None,
) -> PatchStore:
    left = int(memory_bytes * MEMORY_SHARE)
    kept: list[PreparedCase] = []
    failed: dict[str, str] = {}
    for number, case in enumerate(dataset):
        try:
            row = prepared(case)
        except DataError as error:
            failed[case.id] = str(error)
            continue
        except MemoryError:
            failed[case.id] = "preparing it takes more memory than there is: look at its size and spacing (medmap info)"
            continue
        size = row.image.nbytes + row.truth.nbytes
        if size <= left:
            left -= size
        elif folder is None:
            raise DataError("the prepared cases do not fit the memory allowed", got=f"{size} bytes", expected=left)
        else:
            row = _laid_down(row, folder, len(kept))
        kept.append(row)
        if progress is not None:
            progress(number + 1, len(dataset))
    if not kept:
        raise DataError("no case of the dataset can be read", got=next(iter(failed.values())))
    return PatchStore(tuple(kept), recipe.digest, failed)


def _laid_down(row: PreparedCase, folder: Path, number: int) -> PreparedCase:
    """The case with its image, and its label map where it has one, on disk."""
    ndim = row.image.ndim - 1
    image = _on_disk(row.image, folder / f"{number}_image.b2nd", ndim)
    if row.boxed:
        return replace(row, image=image)
    return replace(row, image=image, truth=_on_disk(row.truth, folder / f"{number}_truth.b2nd", ndim))


def _boxed(dataset: Dataset, case: Case, recipe: Recipe) -> PreparedCase:
    image = case_image(dataset, case)
    prepared = recipe.apply(image)
    pixels = prepared.tensors["image"].astype(np.float16)
    n = pixels.ndim - 1
    rows: dict[tuple[tuple[float, ...], float], NDArray[np.float32]] = {}
    for boxes, state in ((case.truth.boxes or (), 1.0), (case.truth.ignored, -1.0)):
        for corners, label in boxes:
            if len(corners) != 2 * n:
                raise DataError(
                    "a box has another number of axes than its image", got=len(corners) // 2, expected=n, case=case.id
                )
            row = rows.setdefault((corners, state), np.zeros(2 * n + 1 + len(dataset.labels), dtype=np.float32))
            row[: 2 * n], row[2 * n] = _prepared_edges(corners, prepared.trace), state
            row[2 * n + 1 + label] = 1
    found = np.array([*rows.values()], dtype=np.float32).reshape(-1, 2 * n + 1 + len(dataset.labels))
    return PreparedCase(case, pixels, found, {}, prepared.trace, content_hash(image), boxed=True)


def _prepared_edges(corners: Sequence[float], trace: Trace) -> NDArray[np.float64]:
    """Edges on the prepared grid of a box told by its corner voxels in the image."""
    n = len(corners) // 2
    way = np.asarray(trace.index_matrix)
    ends = [way[:n, :n] @ (np.array(corners[at : at + n]) + by) + way[:n, n] for at, by in ((0, -0.5), (n, 0.5))]
    return np.concatenate([np.minimum(*ends), np.maximum(*ends)]) + 0.5


def _prepared(dataset: Dataset, case: Case, recipe: Recipe) -> PreparedCase:
    image = case_image(dataset, case)
    prepared = recipe.apply(image)
    pixels = prepared.tensors["image"].astype(np.float16)
    labels = np.zeros(pixels.shape[1:], dtype=np.uint8)
    if case.truth.masks:
        mask = read_ref(dataset, case.truth.masks[0])
        _require_named(mask.array, dataset, case)
        labels = recipe.truth(mask, prepared.trace)
        if dataset.ignore is not None:
            labels[labels == dataset.ignore] = IGNORED
    return PreparedCase(case, pixels, labels, _places(labels), prepared.trace, content_hash(image))


def _require_named(array: NDArray[Any], dataset: Dataset, case: Case) -> None:
    """Refuse a mask with values that no class stands for: nothing could be learned from them."""
    if array.dtype.kind in "bui" and (not array.size or (array.min() >= 0 and array.max() < len(dataset.labels))):
        return  # the usual mask, told without sorting its voxels
    values = set(np.unique(array).tolist()) - {dataset.ignore}
    if strange := sorted(values - set(range(len(dataset.labels)))):
        raise DataError(
            "the mask has values that the dataset does not name",
            got=", ".join(f"{value:g}" for value in strange[:5]),
            expected=f"0 to {len(dataset.labels) - 1}" + ("" if dataset.ignore is None else f", or {dataset.ignore}"),
            remedy="name them under labels in dataset.yaml, or renumber the mask; `medmap check` lists them",
            case=case.id,
        )


def _places(labels: NDArray[np.uint8]) -> dict[int, NDArray[np.int32]]:
    """Voxels of each label but the background and what is ignored."""
    flat = labels.ravel()
    inside = np.flatnonzero(flat)
    values = flat[inside]
    found = {}
    for label in np.unique(values):
        if label == IGNORED:
            continue
        mine = inside[values == label]
        picked = mine[:: -(-len(mine) // MOST_PLACES)]
        found[int(label)] = np.stack(np.unravel_index(picked, labels.shape), axis=1).astype(np.int32)
    return found


def _on_disk(array: NDArray[Any], path: Path, ndim: int) -> Any:
    import blosc2

    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    spatial = tuple(min(side, CHUNK[ndim]) for side in array.shape[-ndim:])
    chunks = (*array.shape[: array.ndim - ndim], *spatial)
    return blosc2.asarray(array, chunks=chunks, urlpath=str(path), cparams={"clevel": 3})
