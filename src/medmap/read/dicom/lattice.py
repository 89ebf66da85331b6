"""Whether slices are an even grid, and if not, what is wrong: found from positions alone, before a pixel is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from medmap.errors import GeometryError, UsageError
from medmap.geometry import Floats, angle_between_deg
from medmap.read.dicom.sorting import SAME_MM, Frame

EVEN = 0.01  # of the distance of slices: how far one may lie off its place
CREDIBLE = 0.25  # of the distance: rounding that moves slices further could hide a missing one
DIGITS = 6  # decimals beyond which a position counts as exact
WHOLE = 0.05  # of the smallest distance: how near a gap must be to a whole multiple to be missing slices
TILT_DEG = 0.1
MENDS = ("duplicates", "missing-slices", "uneven-spacing", "gantry-tilt")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a part of a series.

    Args:
        code: A short name that does not change.
        message: One sentence.
        mend: Which word of ``mend`` accepts and mends it; "" where it stops nothing; "-" where nothing mends it.
    """

    code: str
    message: str
    mend: str = ""

    @property
    def stops(self) -> bool:
        """Whether reading is refused as long as it is not mended."""
        return self.mend != ""


@dataclass(frozen=True)
class Lattice:
    """The grid of some frames.

    Args:
        affine_lps_mm: (4, 4) of the grid with every place filled; sheared under a gantry tilt.
        places: The slice on that grid that each frame, in order, stands at (uneven: its number).
        count: Slices of the whole grid.
        distances_mm: (frames,) along the normal from the first.
        problems: What was found.
    """

    affine_lps_mm: Floats
    places: tuple[int, ...]
    count: int
    distances_mm: Floats
    problems: tuple[Problem, ...] = field(default=())


def require_known(mend: Collection[str]) -> None:
    """Refuse a word that mends nothing.

    Raises:
        UsageError: ``mend`` holds one.
    """
    unknown = sorted(set(mend) - set(MENDS))
    if unknown or isinstance(mend, str):
        raise UsageError("unknown mending", got=unknown or repr(mend), expected=", ".join(MENDS))


def lattice(frames: Sequence[Frame]) -> Lattice:
    """The grid that frames in order lie on, and what is wrong with it.

    Raises:
        GeometryError: The frames state no place.
    """
    plane, normal = frames[0].plane, frames[0].normal
    positions = np.array([p for f in frames if (p := f.position) is not None])
    if plane is None or normal is None or len(positions) != len(frames):
        raise GeometryError("slices without position, orientation or spacing are no volume")
    distances = (positions - positions[0]) @ normal
    fresh = np.concatenate([[True], np.diff(distances) > SAME_MM])
    own = positions[fresh]
    steps = np.diff(distances[fresh])
    problems = _duplicates(frames, fresh)
    numbers = np.arange(len(own))
    rounding = written_mm(own)
    if len(own) > 1:
        numbers, found = _judged(steps, len(own), rounding * float(np.abs(normal).sum()))
        problems += found
    shift = own[-1] - own[0]
    last = int(numbers[-1])
    step = shift / last if last else normal
    uneven = any(p.code == "uneven-spacing" for p in problems)
    if last:
        problems += _aligned(own, normal, None if uneven else numbers, rounding * 3**0.5)
    affine = np.eye(4)
    affine[:3, :2], affine[:3, 2], affine[:3, 3] = plane, step, own[0]
    places = numbers[np.cumsum(fresh) - 1]
    return Lattice(affine, tuple(int(p) for p in places), last + 1, distances, (*problems, *_notes(frames)))


def _duplicates(frames: Sequence[Frame], fresh: np.ndarray) -> list[Problem]:
    doubled = [n for n in range(1, len(frames)) if not fresh[n]]
    if not doubled:
        return []
    same = sum(
        frames[n].instance.sop_instance_uid == frames[n - 1].instance.sop_instance_uid
        and frames[n].index == frames[n - 1].index
        for n in doubled
    )
    found = []
    if same:
        found.append(
            Problem("duplicate-instances", f"{same} slices are there more than once, as the same object", "duplicates")
        )
    if len(doubled) > same:
        found.append(
            Problem("duplicate-slices", f"{len(doubled) - same} slices lie where another one lies", "duplicates")
        )
    return found


def written_mm(positions: Floats) -> float:
    """How far rounding moved coordinates against each other: half of their last written digit at either end.

    Example:
        >>> written_mm(np.array([[0, 1.5, 3], [0, 1.5, 3.6]])), written_mm(np.array([[0, 0, 0.123456789]]))
        (0.1, 0.0)
    """
    for decimals in range(DIGITS):
        if np.abs(positions - np.round(positions, decimals)).max() < 1e-9:
            return float(10.0**-decimals)
    return 0.0


def _judged(steps: Floats, count: int, rounding: float) -> tuple[np.ndarray, list[Problem]]:
    """The place of each slice, in steps from the first; and whether the steps are even."""
    mean = float(steps.mean())
    off = float(np.abs(np.concatenate([[0], np.cumsum(steps)]) - np.arange(count) * mean).max())
    if off <= EVEN * mean:
        return np.arange(count), []
    if off <= min(rounding * (1 + 1e-6), CREDIBLE * mean):
        said = f"slices lie up to {off:.2g} mm off their places, as rounded positions do; even spacing was taken"
        return np.arange(count), [Problem("rounded-positions", said)]
    # the most frequent distance is the spacing; a gap of several of them has lost slices
    unit = float(np.median(steps[np.abs(steps - steps.min()) <= WHOLE * steps.min()]))
    multiples = np.rint(steps / unit)
    if (np.abs(steps - multiples * unit) <= WHOLE * unit).all() and multiples.max() > 1:
        numbers = np.concatenate([[0], np.cumsum(multiples)]).astype(int)
        lost = int(numbers[-1]) + 1 - count
        if lost <= count:
            after = int(np.argmax(multiples)) + 1
            said = (
                f"{lost} slices are missing (the widest gap, of {int(multiples.max()) - 1}, is after slice {after} of "
                f"{count}, at {unit:.4g} mm a step)"
            )
            return numbers, [Problem("missing-slices", said, "missing-slices")]
    said = f"the distance of neighbouring slices is between {steps.min():.4g} and {steps.max():.4g} mm"
    return np.arange(count), [Problem("uneven-spacing", said, "uneven-spacing")]


def _aligned(own: Floats, normal: Floats, numbers: np.ndarray | None, rounding: float) -> list[Problem]:
    """Slices that are shifted against each other within their planes: evenly is a tilt, else no grid."""
    moved = own - own[0]
    across = moved - np.outer(moved @ normal, normal)
    share = (moved @ normal) / float(moved[-1] @ normal) if numbers is None else numbers / numbers[-1]
    length = float(np.linalg.norm(moved[-1])) / max(1, len(own) - 1)
    off = float(np.linalg.norm(across - np.outer(share, across[-1]), axis=1).max())
    if off > max(rounding, EVEN * length):
        said = f"slices are shifted against each other by up to {off:.3g} mm within their planes"
        return [Problem("unaligned-slices", said, "-")]
    angle = angle_between_deg(moved[-1], normal)
    if angle > TILT_DEG and np.linalg.norm(across[-1]) > rounding:
        said = f"the slices are stacked at {angle:.2f}° to their normal (gantry tilt); the grid is sheared accordingly"
        return [Problem("gantry-tilt", said)]
    return []


def _notes(frames: Sequence[Frame]) -> list[Problem]:
    found = []
    if "Mosaic" in frames[0].values:
        found.append(Problem("mosaic", str(frames[0].values["Mosaic"]), "-"))
    for name in ("Units", "RescaleType", "PhotometricInterpretation"):
        stated = sorted({str(f.values[name]) for f in frames if f.values.get(name)})
        if len(stated) > 1:
            said = f"slices differ in what their values are ({name}: {', '.join(stated[:5])})"
            found.append(Problem("mixed-meaning", said, "-"))
    rescales = {(f.values.get("RescaleSlope"), f.values.get("RescaleIntercept")) for f in frames}
    if len(rescales) > 1:
        said = f"slices have {len(rescales)} different rescale slopes or intercepts; each was applied to its own slice"
        found.append(Problem("mixed-rescale", said))
    if not frames[0].values.get("FrameOfReferenceUID"):
        said = "no frame of reference is stated: whether another series shares its space is not known"
        found.append(Problem("unknown-frame-of-reference", said))
    return found
