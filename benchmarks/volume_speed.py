"""Reading and writing of volumes against nibabel, MONAI and SimpleITK: best of several rounds taken in turns.

Volumes as they come: a CT (int16, 512 × 512 × 200), an MR (float32, 256 × 256 × 180, brain extracted) and a label map
(uint8, 512 × 512 × 200). Everybody reads the file that nibabel wrote and gives an array of voxels; medmap verifies
length and checksum on the way. Everybody writes the same array; nibabel's size is the measure of size.

Prints one JSON line a comparison (``name peer ours theirs unit ratio same_answer``). For times ``ratio`` is
theirs / ours, so above 1 medmap is faster; for sizes it is ours / theirs. ``goal`` and ``goal_met`` stand where there
is a goal. ``--small`` takes a quarter of each axis, for a test of the benchmark.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.transforms
import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

import medmap as mm
from medmap.geometry import Geometry
from medmap.image import Image

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
READ_GOALS = {"nibabel": 2.5, "MONAI": 8.0, "SimpleITK": 1.0}
WRITE_GOALS = {"nibabel": 3.0}
SIZE_GOAL = 1.1
AFFINE = np.array([[0.7, 0.1, 0, -180], [-0.1, 0.7, 0, -170], [0, 0, 1.5, 30], [0, 0, 0, 1.0]])


def _axes(shape: tuple[int, ...]) -> list[NDArray[Any]]:
    return list(np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)])


def ct(shape: tuple[int, ...]) -> NDArray[Any]:
    """A trunk with lungs and a spine in air, smooth noise, and -1024 outside the field of view."""
    x, y, z = _axes(shape)
    body = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1 + 0.1 * np.cos(3 * z)
    lungs = ((np.abs(x) - 0.4) / 0.25) ** 2 + (y / 0.35) ** 2 + (z / 0.9) ** 2 < 1
    spine = (x / 0.1) ** 2 + ((y - 0.4) / 0.1) ** 2 < 1
    values = np.where(lungs, -850, np.where(spine, 400, np.where(body, 40, -1000))).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal(shape, dtype=np.float32) * np.where(body, 25, 8)
    values += ndimage.gaussian_filter(noise, (0.7, 0.7, 0))
    values[np.broadcast_to(x**2 + y**2 > 1, shape)] = -1024
    return np.asfortranarray(np.rint(values).astype(np.int16))


def mr(shape: tuple[int, ...]) -> NDArray[Any]:
    """A brain on a background of zeros, resampled floats."""
    x, y, z = _axes(shape)
    brain = (x / 0.6) ** 2 + (y / 0.7) ** 2 + (z / 0.6) ** 2 < 1
    rng = np.random.default_rng(2)
    values = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1) * 300 + 500
    return np.asfortranarray(np.where(brain, values, 0).astype(np.float32))


def labels(shape: tuple[int, ...]) -> NDArray[Any]:
    """Five organs."""
    x, y, z = _axes(shape)
    values = np.zeros(shape, np.uint8)
    for label in range(1, 6):
        centre = 0.5 * np.cos(label), 0.5 * np.sin(label), 0.2 * label - 0.6
        distance = sum((a - c) ** 2 for a, c in zip((x, y, z), centre, strict=True))
        values[distance < 0.05 + 0.01 * np.sin(9 * x) * np.cos(7 * y)] = label
    return np.asfortranarray(values)


VOLUMES: dict[str, tuple[Callable[[tuple[int, ...]], NDArray[Any]], tuple[int, ...]]] = {
    "CT int16": (ct, (512, 512, 200)),
    "MR float32": (mr, (256, 256, 180)),
    "labels uint8": (labels, (512, 512, 200)),
}


def best(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Shortest time of each call; one round warms up, then they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: min(times[1:]) for name, times in taken.items()}


def line(name: str, peer: str, ours: float, theirs: float, unit: str, **more: object) -> None:
    ratio = ours / theirs if unit == "bytes" else theirs / ours
    digits = 0 if unit == "bytes" else 4
    row = {"name": name, "peer": peer, "ours": round(ours, digits), "theirs": round(theirs, digits), "unit": unit}
    print(json.dumps({**row, "ratio": round(ratio, 3), **more}), flush=True)


def compare_reading(name: str, array: NDArray[Any], path: Path, rounds: int) -> None:
    load = monai.transforms.LoadImage(image_only=True)
    readers: dict[str, Callable[[], Any]] = {
        "medmap": lambda: mm.read(path).array,
        "nibabel": lambda: np.asanyarray(nibabel.load(path).dataobj),
        "MONAI": lambda: load(path).numpy(),
        "SimpleITK": lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T,
    }
    same = {reader: bool(np.array_equal(call(), array)) for reader, call in readers.items()}
    took = best(readers, rounds)
    for peer, goal in READ_GOALS.items():
        met = took[peer] / took["medmap"] >= goal
        answer = same["medmap"] and same[peer]
        line(
            f"read {path.name[1:]}: {name}",
            peer,
            took["medmap"],
            took[peer],
            "s",
            same_answer=answer,
            goal=goal,
            goal_met=met,
        )


def compare_writing(name: str, array: NDArray[Any], folder: Path, rounds: int) -> None:
    image = Image(array, Geometry(array.shape, RAS_LPS @ AFFINE))
    itk = sitk.GetImageFromArray(array.T)
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        writers: dict[str, Callable[[Path], Any]] = {
            "medmap": lambda p: mm.write(image, p, overwrite=True),
            "SimpleITK": lambda p: sitk.WriteImage(itk, str(p), True),
        }
        if suffix == ".nii.gz":
            writers["nibabel"] = lambda p: nibabel.save(nibabel.Nifti1Image(array, AFFINE), p)
        files = {writer: folder / f"{writer}{suffix}" for writer in writers}
        took = best({w: lambda call=call, p=files[w]: call(p) for w, call in writers.items()}, rounds)
        same = bool(np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(files["medmap"]))).T, array))
        for peer in writers.keys() - {"medmap"}:
            goal = WRITE_GOALS.get(peer)
            goals = {} if goal is None else {"goal": goal, "goal_met": took[peer] / took["medmap"] >= goal}
            line(f"write {suffix}: {name}", peer, took["medmap"], took[peer], "s", same_answer=same, **goals)
            sizes = [files[w].stat().st_size for w in ("medmap", peer)]
            goals = {} if goal is None else {"goal": SIZE_GOAL, "goal_met": sizes[0] / sizes[1] <= SIZE_GOAL}
            line(f"size {suffix}: {name}", peer, *sizes, "bytes", same_answer=same, **goals)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="speed of reading and writing volumes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, (make, shape) in VOLUMES.items():
            array = make(tuple(n // 4 for n in shape) if arguments.small else shape)
            path = folder / "a.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
            compare_reading(title, array, path, arguments.rounds)
            compare_writing(title, array, folder, arguments.rounds)


if __name__ == "__main__":
    main()
