"""Coarse to fine against one network over the whole field: the same data, budget and machine, in one run.

    python benchmarks/cascade.py --budget 8m [--set fit.threads=1]

Phantom CTs of 360 × 360 × 240 mm: a body, a spine, organs of like values, and two kidneys that look alike, of which
the left one alone is to be outlined (its cortex and its medulla). A patch of a kidney does not say which one it is; the
whole image does. ``medmap plan`` proposes the cascade by itself; its peer is the same command with ``coarse=null``.
Prints one JSON line each for mean Dice on cases kept back (``ratio`` is ours / theirs) and for seconds a case.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medmap as mm

SHAPE = (128, 128, 86)
SPACING_MM = (2.8, 2.8, 2.8)
TRAIN, TEST = 20, 10


def ellipsoid(points: list[NDArray[np.float32]], centre: Any, radii: Any) -> NDArray[np.float32]:
    """Below 1 inside."""
    parts = [((p - c) / r) ** 2 for p, c, r in zip(points, centre, radii, strict=True)]
    return np.asarray(parts[0] + parts[1] + parts[2], np.float32)


def case(seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Hounsfield units, and 1 for the left kidney's cortex, 2 for its medulla."""
    rng = np.random.default_rng([11, seed])
    axes = [(np.arange(n, dtype=np.float32) - n / 2) * s for n, s in zip(SHAPE, SPACING_MM, strict=True)]
    points = [axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]]
    hu = np.full(SHAPE, -1000, np.float32)
    middle = rng.normal(0, 6, 3)
    hu[ellipsoid(points, middle, (150, 110, 400)) < 1] = -90
    hu[ellipsoid(points, middle, (138, 98, 400)) < 1] = 45
    for _ in range(14):  # bowel, vessels, organs
        place = middle + rng.uniform((-100, -80, -110), (100, 20, 110))
        hu[ellipsoid(points, place, rng.uniform(12, 45, 3)) < 1] = rng.uniform(20, 160)
    hu[ellipsoid(points, middle + np.array((0, 65, 0)), (22, 20, 400)) < 1] = 350
    mask = np.zeros(SHAPE, np.uint8)
    for side in (-1, 1):  # left is +1: LPS
        place = middle + np.array((side * rng.uniform(52, 70), rng.uniform(20, 40), rng.uniform(-25, 25)))
        radii = np.array((rng.uniform(20, 27), rng.uniform(20, 27), rng.uniform(40, 55)))
        cortex, medulla = ellipsoid(points, place, radii) < 1, ellipsoid(points, place, radii * 0.6) < 1
        hu[cortex], hu[medulla] = 150, 95
        if side > 0:
            mask[cortex], mask[medulla] = 1, 2
    return (hu + rng.normal(0, 25, SHAPE)).astype(np.int16), mask


def write_dataset(folder: Path) -> Path:
    """A dataset folder of ``TRAIN`` + ``TEST`` cases; medmap keeps some of the first for testing, too."""
    from medmap.geometry import Geometry
    from medmap.image import Image

    (folder / "images").mkdir(parents=True)
    affine = np.diag([*SPACING_MM, 1.0])
    grid = Geometry(SHAPE, affine, kind="patient")
    rows = ["case,patient,split,image,mask"]
    for number in range(TRAIN + TEST):
        hu, mask = case(number)
        image, truth = f"images/{number}.nii.gz", f"images/{number}_mask.nii.gz"
        mm.write(Image(hu, grid, "HU"), folder / image)
        mm.write(Image(mask, grid, "label"), folder / truth)
        rows.append(f"c{number},p{number},{'test' if number >= TRAIN else ''},{image},{truth}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: left kidneys\ntask: segment\ninputs: {image: {modality: CT}}\n"
        "labels: {0: background, 1: cortex, 2: medulla}\n"
    )
    return folder


def judged(name: str, data: Path, output: Path, sets: list[str], budget: str) -> dict[str, Any]:
    """Train, evaluate and time one way of doing it."""
    medmap = [sys.executable, "-m", "medmap"]
    options = [word for text in sets for word in ("--set", text)]
    begin = time.monotonic()
    subprocess.run([*medmap, "train", str(data), "-o", str(output / name), "--budget", budget, *options], check=True)
    trained = time.monotonic() - begin
    found = output / f"{name}-test"
    begin = time.monotonic()
    subprocess.run([*medmap, "evaluate", str(output / name), str(data), "-o", str(found), "--quiet"], check=True)
    took = time.monotonic() - begin
    rows = json.loads((found / "metrics.json").read_text())["metrics"]
    dice = next(r for r in rows if r["name"] == "dice" and r["group"] == "all")
    seconds = took / dice["n"]
    shown = {key: dice[key] for key in ("value", "low", "high", "n")}
    print(json.dumps({"way": name, "trained_s": round(trained), "seconds_a_case": round(seconds, 2), "dice": shown}))
    return {"dice": dice["value"], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="8m")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--output", type=Path, help="where data and runs are kept; a temporary folder without it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        output = arguments.output or Path(temporary)
        data = output / "data"
        if not data.exists():
            write_dataset(data)
        ours = judged("cascade", data, output, arguments.sets, arguments.budget)
        theirs = judged("whole", data, output, [*arguments.sets, "coarse=null"], arguments.budget)
    for what, unit in (("dice", "mean Dice, test"), ("seconds", "s a case, evaluate")):
        a, b = ours[what], theirs[what]
        ratio = round(a / b if what == "dice" else b / a, 3)
        row = {"name": "cascade", "peer": "one network over the whole field", "ours": a, "theirs": b, "unit": unit}
        print(json.dumps({**row, "ratio": ratio, "same_answer": None}))


if __name__ == "__main__":
    main()
