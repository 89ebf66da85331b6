"""A new folder of files, whole or not at all: copied or linked where they fit, rewritten only where they must be."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.config import write_atomically
from medmap.dataset import Case, Dataset, Ref
from medmap.errors import DatasetError, GeometryError, UsageError
from medmap.image import Image
from medmap.read import forget_arrays, open_header, read_ref, recognise
from medmap.read.door import SUFFIXES, suffix_of
from medmap.write import write

# a header in one file, voxels in another: copying one of them would give half an image
DETACHED = (".mhd", ".nhdr")


def require_free(dest: Path) -> None:
    """Refuse a destination that holds something.

    Raises:
        UsageError: It exists and is no empty folder.
    """
    if "\0" in str(dest):
        raise UsageError("the destination's name holds a NUL character")
    if dest.is_symlink() or (dest.exists() and not dest.is_dir()):
        raise UsageError(f"{dest} exists and is no folder", remedy="choose another destination")
    if dest.is_dir() and any(dest.iterdir()):
        raise UsageError(f"{dest} is not empty", remedy="choose a new folder; nothing is overwritten")


@contextmanager
def whole_folder(dest: Path) -> Iterator[Path]:
    """A neighbour folder that takes the destination's place when the block ends well, and vanishes otherwise.

    Raises:
        UsageError: The destination holds something, or cannot be written.
    """
    require_free(dest)
    aside = dest.resolve().with_name(f".{dest.name}.{secrets.token_hex(8)}")
    try:
        aside.mkdir(parents=True)
        yield aside
        if dest.exists():
            dest.rmdir()  # empty; refused by the system should something have appeared meanwhile
        aside.replace(dest)
    except OSError as error:
        raise UsageError(
            f"{dest} cannot be written", got=error.strerror, remedy="check free space and permissions"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class Placing:
    """Files of a dataset placed into a new folder.

    Args:
        dataset: Whose files.
        folder: The new folder.
        link: Hard links instead of copies, where the file system allows.
    """

    def __init__(self, dataset: Dataset, folder: Path, *, link: bool) -> None:
        self.dataset, self.folder, self.link = dataset, folder, link
        self.placed: set[str] = set()

    def text(self, relative: str, content: str) -> None:
        """A text file."""
        target = self._target(relative)
        write_atomically(target, content)

    def same(self, ref: Ref, relative: str) -> None:
        """The file as it is."""
        source, target = self.dataset.resolve(ref), self._target(relative)
        if not source.is_file():
            raise DatasetError(f"{source} does not exist and cannot be exported")
        real = source.resolve()
        if self.link:
            try:
                os.link(real, target)
                return
            except OSError:
                pass  # another file system: the copy below says whether that works
        shutil.copyfile(real, target)

    def image(self, image: Image, relative: str) -> None:
        """An image, written anew in the format that the name says."""
        write(image, self._target(relative))

    def read(self, ref: Ref) -> Image:
        """The image that a reference names."""
        found = read_ref(self.dataset, ref)
        forget_arrays()
        return found

    def mask(self, case: Case, ref: Ref, relative: str, ending: str) -> None:
        """A label map: the file as it is where it fits, else written anew on the grid of its image.

        Raises:
            DatasetError: As ``label_map``.
        """
        if self.fits(ref, ending):
            self.same(ref, relative)
        else:
            self.image(self.label_map(case, ref), relative)

    def label_map(self, case: Case, ref: Ref) -> Image:
        """A mask as whole numbers, on the grid of the case's first image.

        A DICOM segmentation holds the planes on which something is marked, and only those; a layout of files that lie
        beside each other wants a voxel of the mask for each of the image.

        Raises:
            DatasetError: Values that are no class numbers; a mask that no exact step brings onto its image.
        """
        mask = as_labels(self.read(ref))
        first = next((r for name in self.dataset.inputs if (r := case.inputs.get(name)) is not None), None)
        if first is None:
            return mask
        grid = open_header(self.dataset.resolve(first), first.member).geometry
        if not (grid.has_size and mask.geometry.has_size) or mask.geometry.same_grid(grid):
            return mask
        try:
            placed = mask.match(grid)
        except GeometryError as error:
            raise DatasetError(
                "a mask does not lie on the grid of its image", got=str(error), case=case.id,
                remedy="medmap check says how they differ; --fix geometry mends headers that were lost",
            ) from error  # fmt: skip
        lost = int(np.count_nonzero(mask.array)) - int(np.count_nonzero(placed.array))
        if lost:
            raise DatasetError("a mask marks something beside its image", got=f"{lost} voxels", case=case.id)
        return placed

    def fits(self, ref: Ref, ending: str) -> bool:
        """Whether a file is already of the wanted format, by its name and by its first bytes.

        Raises:
            ReadError: No image that can be read.
        """
        path = self.dataset.resolve(ref)
        if ref.member is not None or path.suffix.lower() in DETACHED:
            return False
        row, _ = recognise(path)  # only images are copied, whatever a table says
        return suffix_of(path.name) == ending and ending in row.suffixes

    def channels(self, ref: Ref, names: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Names of the channels of a file, from its header; ``names`` where they are as many as the file has."""
        opened = open_header(self.dataset.resolve(ref), ref.member)
        count = len(opened.time_s) if opened.time_s is not None and len(names) > 1 else len(opened.channels)
        return names if len(names) == count else opened.channels

    def _target(self, relative: str) -> Path:
        if relative in self.placed:
            raise DatasetError("two files of the export have the same name", got=relative)
        self.placed.add(relative)
        target = self.folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


def common_ending(dataset: Dataset, allowed: tuple[str, ...]) -> str:
    """The ending that all images and masks share, if it is allowed; else ``.png`` for pictures, ``.nii.gz``.

    Raises:
        DatasetError: The dataset references no file.
    """
    refs = [r for case in dataset for r in (*case.inputs.values(), *case.truth.masks) if r is not None]
    if not refs:
        raise DatasetError(f"{dataset.name} references no file")
    endings = {suffix_of(ref.path) if ref.member is None else "" for ref in refs}
    if len(endings) == 1 and endings <= set(allowed):
        return endings.pop()
    first = open_header(dataset.resolve(refs[0]), refs[0].member).geometry
    return ".nii.gz" if first.has_size else ".png"


def with_channels(image: Image, names: tuple[str, ...]) -> Image:
    """The image with named channels; a fourth axis that calls itself time is channels where the owner says so."""
    count = len(image.channels) if image.time_s is None else len(image.time_s)
    if len(names) < 2 or count != len(names) or (image.time_s is not None and len(image.channels) > 1):
        return image
    return replace(image, channels=names, time_s=None)


def safe_name(text: str, case: str) -> str:
    """A case's identifier as a file's name.

    Raises:
        DatasetError: It would lead elsewhere, be hidden, or is too long.
    """
    if not text or text.startswith(".") or len(text.encode()) > 200 or any(c in text for c in "/\\\0\n\r"):
        raise DatasetError("an identifier cannot be a file's name", got=repr(text[:80]), case=case)
    return text


def as_labels(image: Image) -> Image:
    """A mask as whole numbers of one byte or two.

    Raises:
        DatasetError: Values that are no class numbers.
    """
    array: NDArray[Any] = image.array
    if array.dtype.kind in "bu" and array.dtype.itemsize <= 2:
        return replace(image, array=array.astype(np.uint8) if array.dtype == np.bool_ else array, quantity="label")
    if array.min() < 0 or array.max() > 65535 or (array != np.rint(array)).any():
        raise DatasetError("a mask holds values that are no class numbers", got=f"{array.min()} to {array.max()}")
    return replace(image, array=array.astype(np.uint8 if array.max() < 256 else np.uint16), quantity="label")


__all__ = [
    "DETACHED",
    "SUFFIXES",
    "Placing",
    "as_labels",
    "common_ending",
    "require_free",
    "safe_name",
    "whole_folder",
    "with_channels",
]
