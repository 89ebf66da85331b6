"""What ``medmap predict`` is asked for: a dataset, or every image named or found in a folder or a zip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medmap.dataset import Ref
from medmap.errors import LayoutError, UsageError
from medmap.read.archive import unpacked

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.dataset import Dataset

_DATASETS = (".npz", ".csv", ".yaml", ".yml", ".json")
_NO_CASES = (".csv", ".json", ".yaml", ".yml", ".txt", ".md", ".html", ".xml", ".raw", ".zraw")


def as_dataset(inputs: Sequence[Path], bundle: Bundle, room: Path) -> tuple[Dataset, dict[str, str]]:
    """A dataset where one is given; else every image named, or found below a folder or in a zip.

    Returns:
        The dataset, and for files that lie in ``room`` for the moment what a person knows them by.

    Raises:
        UsageError: Images without a dataset, of a bundle that takes several for a case.
    """
    from medmap.layouts import open_dataset
    from medmap.predict import dataset_of_images

    if len(inputs) == 1 and (inputs[0].is_dir() or inputs[0].suffix.lower() in _DATASETS):
        try:
            return open_dataset(inputs[0]), {}
        except LayoutError:
            if not inputs[0].is_dir():
                raise
    _require_one_input(bundle)
    found: list[tuple[str, Ref]] = []
    shown: dict[str, str] = {}
    for number, path in enumerate(inputs):
        folder = path
        if path.suffix.lower() == ".zip" and path.is_file():
            folder = room / str(number)
            unpacked(path, folder)
        if not folder.is_dir():
            found.append((path.name, Ref(str(path.resolve()))))
            continue
        prefix = "" if len(inputs) == 1 else path.name.removesuffix(".zip")
        images = _images_below(folder, prefix, named_by_path=folder != path)
        found += images
        if folder != path:
            places = {ref.path: Path(ref.path).relative_to(folder.resolve()).as_posix() for _, ref in images}
            shown |= {place: f"{path.resolve()}#{name}".removesuffix("#.") for place, name in places.items()}
    names = _distinct([name for name, _ in found])
    return dataset_of_images(list(zip(names, (ref for _, ref in found), strict=True)), bundle), shown


def _require_one_input(bundle: Bundle) -> None:
    """Refuse bare images where a bundle takes several for a case: nothing says which is which.

    Raises:
        UsageError: The bundle has several inputs.
    """
    names = list(bundle.spec.inputs)
    if len(names) > 1:
        raise UsageError(
            "each case needs its images by name, and files alone do not say which is which",
            got="images",
            expected=f"a dataset with the inputs {', '.join(names)}",
            remedy=f"write cases.csv with the columns case,{','.join(names)}; a cell may be empty",
        )


def _images_below(folder: Path, prefix: str, *, named_by_path: bool) -> list[tuple[str, Ref]]:
    """The images of a folder: of DICOM studies each series, else each file.

    Args:
        folder: Where to look.
        prefix: Goes before a series' name, where several folders are answered for.
        named_by_path: Whether a file is known by its path below the folder, or by its own name.
    """
    from medmap.layouts import dicom_dataset, recognise_dicom

    if recognise_dicom(folder):
        data = dicom_dataset(folder).dataset
        images = [
            (case.id, Ref(str(data.resolve(ref).resolve()), ref.member))
            for case in data
            for ref in case.inputs.values()
            if ref is not None
        ]
        if not prefix:
            return images
        return [(prefix if len(images) == 1 else f"{prefix}/{name}", ref) for name, ref in images]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _is_image(path))
    return [
        (path.relative_to(folder).as_posix() if named_by_path else path.name, Ref(str(path.resolve())))
        for path in files
    ]


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, a second one of the same written ``name (2)``."""
    used: set[str] = set()
    out = []
    for name in names:
        unique, count = name, 1
        while unique in used:
            count += 1
            unique = f"{name} ({count})"
        used.add(unique)
        out.append(unique)
    return out


def _is_image(path: Path) -> bool:
    from medmap.read import suffix_of

    if path.name.startswith(".") or path.name.upper() in ("DICOMDIR", "THUMBS.DB"):
        return False
    return suffix_of(path.name) not in _NO_CASES
