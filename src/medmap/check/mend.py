"""``check --fix geometry``: masks whose voxels correspond to their image's and whose headers do not, written anew.

Nothing that was there is changed: the mended masks, the headers they had and a table that points to them stand in a new
folder; everything else is referred to where it lies.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medmap.check.facts import Progress
from medmap.check.issue import Issue
from medmap.check.masks import mask_facts
from medmap.check.truths import FLIP_FITS, header_text
from medmap.config import write_atomically
from medmap.dataset import Case, Dataset, Ref
from medmap.errors import UsageError, counted
from medmap.image import Image

MASKS, HEADERS = "masks", "headers"


@dataclass(frozen=True)
class Mending:
    """What ``mend_geometry`` did.

    Args:
        dataset: The dataset with the mended masks.
        mended: (case, mask) of each mask written anew.
        left: (case, reason) of each mask that does not match and was left as it is.
    """

    dataset: Dataset
    mended: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]


def mend_geometry(dataset: Dataset, folder: str | Path, progress: Progress | None = None) -> Mending:
    """Give masks that have as many voxels as their image, elsewhere in the world, their image's header.

    A mask that fits its image better when mirrored is left as it is: there the voxels do not correspond.

    Args:
        dataset: Any dataset with masks.
        folder: A folder that does not exist or is empty: ``masks/`` and ``headers/`` are written below it.
        progress: Called with (cases done, cases in all).

    Returns:
        The dataset whose cases point to the mended masks, and what was done. The table is not written.

    Raises:
        UsageError: The folder is in use or cannot be written.
        DataError: An image or mask cannot be read.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is in use", remedy="choose a new folder; nothing is overwritten")
    mended: list[tuple[str, str]] = []
    left: list[tuple[str, str]] = []
    chosen: dict[tuple[str, int], Path] = {}
    for done, case in enumerate(dataset, start=1):
        for observer, path in _mended(dataset, case, folder, left):
            chosen[case.id, observer] = path
            mended.append((case.id, "mask" if observer == 0 else f"mask_{observer + 1}"))
        if progress:
            progress(done, len(dataset))
    return Mending(_with_masks(dataset, folder, chosen) if chosen else dataset, tuple(mended), tuple(left))


def mending_issue(mending: Mending, folder: str | Path) -> Issue:
    """What was done, as a finding beside those of the check."""
    cases = tuple(dict.fromkeys(case for case, _ in mending.mended))
    left = f"; {counted(len(mending.left), 'mask')} that cannot be mended so were left" if mending.left else ""
    done = (
        f"{counted(len(mending.mended), 'mask')} got the header of the image" if cases else "No header had to be mended"
    )
    return Issue(
        "geometry_mended",
        "info",
        done + (f", in {folder}" if cases else "; no folder was written") + left,
        "The old files are as they were; the old headers stand in headers/ of the new folder."
        if cases
        else "The dataset is as it was.",
        "Look at one of the mended masks over its image, and go on with the new dataset."
        if cases
        else "Nothing, unless masks were left; then read the findings below.",
        cases,
        {"folder": str(folder), "left": [{"case": case, "reason": reason} for case, reason in mending.left]},
    )


def _mended(dataset: Dataset, case: Case, folder: Path, left: list[tuple[str, str]]) -> list[tuple[int, Path]]:
    from medmap.read import read_ref

    ref = next((ref for name in dataset.inputs if (ref := case.inputs.get(name)) is not None), None)
    if ref is None or not case.truth.masks:
        return []
    image = read_ref(dataset, ref)
    written = []
    for observer, mask_ref in enumerate(case.truth.masks):
        mask = read_ref(dataset, mask_ref)
        facts = mask_facts(case.id, observer, str(mask_ref), mask, image)
        if facts.relation == "shape":
            left.append((case.id, f"{mask_ref} has {mask.geometry.shape} voxels, its image {image.geometry.shape}"))
        elif facts.relation == "outside":
            left.append((case.id, f"{mask_ref} marks voxels outside its image"))
        elif facts.relation == "header" and facts.flips and max(facts.flips) > FLIP_FITS:
            left.append((case.id, f"{mask_ref} fits its image better when mirrored: its voxels do not correspond"))
        elif facts.relation == "header":
            written.append((observer, _write(dataset, (case.id, observer, mask_ref), mask, image, folder)))
    return written


def _write(dataset: Dataset, which: tuple[str, int, Ref], mask: Image, image: Image, folder: Path) -> Path:
    from medmap.write import write

    case, observer, ref = which
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", case)[:80] + "-" + hashlib.sha256(case.encode()).hexdigest()[:8]
    stem += "" if observer == 0 else f"-{observer + 1}"
    path = folder / MASKS / f"{stem}.nii.gz"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / HEADERS).mkdir(exist_ok=True)
        with dataset.resolve(ref).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        old = {
            "case": case,
            "file": str(ref),
            "sha256": digest,
            "old_header": mask.geometry.as_json(),
            "old_header_in_words": header_text(mask.geometry),
            "new_header": image.geometry.as_json(),
        }
        write_atomically(folder / HEADERS / f"{stem}.json", json.dumps(old, indent=1, ensure_ascii=False))
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written", got=error.strerror, remedy="check space and permission"
        ) from error
    write(replace(mask, geometry=image.geometry, quantity="label"), path)
    return path


def _with_masks(dataset: Dataset, folder: Path, chosen: Mapping[tuple[str, int], Path]) -> Dataset:
    """The dataset with the mended masks, all paths relative to a folder that holds both old and new files."""
    root = dataset.root.resolve()
    common = Path(os.path.commonpath([root, folder]))

    def moved(ref: Ref) -> Ref:
        path = Path(ref.path)
        return ref if path.is_absolute() else Ref(Path(os.path.relpath(root / path, common)).as_posix(), ref.member)

    def masks(case: Case) -> tuple[Ref, ...]:
        refs: Sequence[Ref] = case.truth.masks
        return tuple(
            Ref(chosen[case.id, i].relative_to(common).as_posix()) if (case.id, i) in chosen else moved(ref)
            for i, ref in enumerate(refs)
        )

    cases = [
        replace(
            case,
            inputs={name: None if ref is None else moved(ref) for name, ref in case.inputs.items()},
            truth=replace(
                case.truth,
                masks=masks(case),
                target=None if case.truth.target is None else moved(case.truth.target),
            ),
        )
        for case in dataset
    ]
    # what is recorded of the old masks goes with those that stay; `diff` reads the others
    kept = {ref.path for case in cases for ref in (*case.truth.masks, case.truth.target) if ref is not None}
    hashes = {moved(Ref(path)).path: digest for path, digest in dataset.hashes.items()}
    hashes = {path: digest for path, digest in hashes.items() if path in kept}
    return replace(dataset, root=common, cases=tuple(cases), hashes=hashes)
