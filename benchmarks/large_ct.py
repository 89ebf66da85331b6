"""A CT of 1 GB through ``medmap predict --memory 4GiB``: peak memory of the process and its children, and seconds.

    python benchmarks/large_ct.py                       512 × 512 × 1000 float32, 1.05 GB on disk
    python benchmarks/large_ct.py --small               a sixty-fourth of it, as a test of the benchmark
    python benchmarks/large_ct.py --spacing-mm 1.0      the network's spacing; a finer one takes more windows
    python benchmarks/large_ct.py --format json,nifti,csv

A bundle of a small 3-D U-Net learns, in a minute, bright balls ("stones") in a body among air, from volumes of the same
kind. The large volume has such balls at known places, so the masks can be judged. Prints one JSON line: peak resident
memory of the process tree (sampled twenty times a second from /proc), what was allowed,
seconds, and the Dice of the answer.
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

SHAPE = (512, 512, 1000)
SPACING_MM = (0.78, 0.78, 0.6)
AIR_HU, BODY_HU, STONE_HU, NOISE_HU = -1000.0, 40.0, 400.0, 25.0


def volume(shape: tuple[int, ...], spacing: tuple[float, ...], stones: int, seed: int) -> tuple[Any, NDArray[np.uint8]]:
    """A body of soft tissue in air with balls of 6 to 14 mm radius, and their mask."""
    rng = np.random.default_rng(seed)
    size = np.array(shape) * spacing
    x, y, z = (((np.arange(n) + 0.5) * s).astype(np.float32) for n, s in zip(shape, spacing, strict=True))
    body = ((x / size[0] - 0.5) / 0.42)[:, None] ** 2 + ((y / size[1] - 0.5) / 0.34)[None] ** 2 < 1
    image = np.empty(shape, np.float32)
    for k in range(shape[2]):  # a plane at a time: the benchmark itself stays small
        image[:, :, k] = rng.normal(0, NOISE_HU, shape[:2])
        image[:, :, k] += np.where(body, BODY_HU, AIR_HU)
    mask = np.zeros(shape, np.uint8)
    for _ in range(stones):
        middle = size * (0.5 + rng.uniform(-0.2, 0.2, 3) * (1, 1, 2))
        radius = rng.uniform(6, 14)
        low = np.maximum(0, np.floor((middle - radius) / spacing)).astype(int)
        high = np.minimum(shape, np.ceil((middle + radius) / spacing) + 1).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        far = (
            (x[box[0]] - middle[0])[:, None, None] ** 2
            + (y[box[1]] - middle[1])[:, None] ** 2
            + (z[box[2]] - middle[2]) ** 2
        )
        mask[box] |= far < radius**2
    image[mask > 0] += STONE_HU - BODY_HU
    return image, mask


def saved(folder: Path, name: str, image: NDArray[Any], spacing: tuple[float, ...], quantity: Any) -> Path:
    from medmap.geometry import Geometry
    from medmap.image import Image
    from medmap.write import write

    grid = Geometry.from_spacing(image.shape, spacing)
    return write(Image(image, grid, quantity), folder / name)


def trained(folder: Path, spacing_mm: float, patch: int, epochs: int) -> Path:
    """A bundle that has learned from eight small volumes."""
    from medmap.augment import OFF
    from medmap.fit import FitSection
    from medmap.layouts import open_dataset
    from medmap.plan import EnsembleSection, NetworkSection, Run
    from medmap.prepare import PrepareSection
    from medmap.tasks.segment import SegmentSection
    from medmap.train import train

    data = folder / "small"
    data.mkdir()
    rows = ["case,patient,image,mask"]
    for n in range(8):
        spacing = tuple(1.3 * s for s in SPACING_MM)
        image, mask = volume((120, 120, 160), spacing, 4, n)
        saved(data, f"{n}.nii.gz", image, spacing, "HU")
        saved(data, f"{n}_mask.nii.gz", mask, spacing, "label")
        rows.append(f"c{n},p{n},{n}.nii.gz,{n}_mask.nii.gz")
    (data / "cases.csv").write_text("\n".join(rows) + "\n")
    (data / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: stones\ntask: segment\ninputs: {image: {modality: CT}}\n"
        "labels: {0: background, 1: stone}\n"
    )
    run = Run(
        task=SegmentSection(patches=4, foreground=0.3),
        prepare=PrepareSection(shape=(patch,) * 3, grid="spacing", spacing_mm=(spacing_mm,) * 3, intensity="range"),
        augment=OFF,
        network=NetworkSection(name="unet", width=0.25, norm="instance"),
        fit=FitSection(epochs=epochs, batch_size=4, learning_rate=1e-2, warmup_epochs=1, select="last", ema_epochs=1),
        ensemble=EnsembleSection(folds=0, members=1),
    )
    train(run, open_dataset(data), folder / "run", listener=lambda event: None)
    return folder / "run"


def resident_bytes(process: int) -> int:
    """Of a process and all its descendants."""
    total, waiting = 0, [process]
    while waiting:
        number = waiting.pop()
        try:
            status = Path(f"/proc/{number}/status").read_text()
            children = Path(f"/proc/{number}/task/{number}/children").read_text()
        except OSError:
            continue
        total += 1024 * int(status.partition("VmRSS:")[2].split()[0]) if "VmRSS:" in status else 0
        waiting += [int(child) for child in children.split()]
    return total


def watched(call: list[str]) -> tuple[int, float, int]:
    """Run a command: its exit code, seconds, and the largest resident memory of its tree."""
    start, most = time.monotonic(), 0
    with subprocess.Popen(call) as child:
        while child.poll() is None:
            most = max(most, resident_bytes(child.pid))
            time.sleep(0.05)
    return child.returncode, time.monotonic() - start, most


def judged(out: Path, mask: NDArray[np.uint8]) -> float:
    from medmap.read import read

    found = np.asarray(read(next(out.glob("*.nii.gz"))).array) > 0
    real = mask > 0
    return float(2 * np.count_nonzero(found & real) / (np.count_nonzero(found) + np.count_nonzero(real)))


def main() -> None:
    """Make, predict, measure, print."""
    parser = argparse.ArgumentParser(description="peak memory of a large CT through medmap predict")
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--spacing-mm", type=float, default=1.5)
    parser.add_argument("--format", default="json,csv,nifti")
    parser.add_argument("--packed", action="store_true", help="write the CT as .nii.gz")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    shape = tuple(n // 4 for n in SHAPE) if arguments.small else SHAPE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patch, epochs = (32, 4) if arguments.small else (48, 6)
        run = trained(folder, arguments.spacing_mm, patch, epochs)
        image, mask = volume(shape, SPACING_MM, 3 if arguments.small else 12, 99)
        ct = saved(folder, "ct.nii.gz" if arguments.packed else "ct.nii", image, SPACING_MM, "HU")
        size = image.nbytes
        del image
        out = folder / "out"
        call = [sys.executable, "-m", "medmap", "predict", str(run), str(ct), "-o", str(out)]
        code, took, most = watched([*call, "--memory", arguments.memory, "--format", arguments.format, "--quiet"])
        if code:
            sys.exit(code)
        row = {
            "name": f"CT of {' × '.join(map(str, shape))} float32 through medmap predict, network at "
            f"{arguments.spacing_mm:g} mm",
            "peer": "allowed",
            "ours": round(most / 2**30, 2),
            "theirs": arguments.memory,
            "unit": "GiB",
            "seconds": round(took, 1),
            "image_gb": round(size / 1e9, 2),
            "dice": round(judged(out, mask), 4),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
