"""Windows over a volume and the way back to the source grid: time and memory, against MONAI, nnU-Net and torch.

    python benchmarks/inference_speed.py                       everything; a quarter of an hour on two idle cores
    python benchmarks/inference_speed.py --small               a tenth of each volume, as a test of the benchmark
    python benchmarks/inference_speed.py --nnunet PYTHON       an interpreter that has nnunetv2, for the peer

Four comparisons, for 14 and for 60 classes, on a CT of 512 × 512 × 300 at 0.78 × 0.78 × 1.0 mm whose network works at
1.5 mm with windows of 128³ and half of them shared:

* stitching: windows cut, weighted, summed and divided, against MONAI's ``SlidingWindowInferer`` (Gaussian). The network
  is a copy of one block of scores into memory that both may write to; its time is measured alone and taken off both.
* export: scores on the network's grid to a label map on the CT's, against nnU-Net's own export
  (``convert_predicted_logits_to_segmentation_with_correct_shape`` with its default resampling) and against torch
  (``interpolate`` and ``argmax``). The scores are smooth, synthetic ellipsoids. Ours comes in slabs of 64 planes, as
  from ``slide``. ``same_answer``: at most one voxel in 10,000 differs.
* the whole way: windows and export in one process, as a user has them, against MONAI's inferer and torch's export;
  the memory is what counts here, since the peer holds all scores twice, on the network's grid and on the CT's.
* memory: windows, export and all, of 300 and of 400 slices; ``theirs`` is the estimate made before the run.

Every side runs in a process of its own that may take 70 % of what is free on the machine. Where a peer runs out of
memory the number of slices is halved until it does not, for both; medmap is also measured alone at full size.
Times are the best of ``--rounds``. Prints one JSON line a comparison; ``ratio`` is theirs / ours.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
SOURCE = (300, 512, 512)
SPACING_MM = (1.0, 0.78, 0.78)
NETWORK_MM = 1.5
PATCH = 128
SLAB = 64
DIFFERENT = 1e-4
SPEED_GOALS = {("stitching", "MONAI"): 5, ("export", "nnU-Net"): 50, ("export", "torch"): 10}
MEMORY_GOAL = 4
PARTS = ["stitching", "whole", "nnunet", "torch", "alone"]


def network_grid(source: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(round(n * s / NETWORK_MM), 2) for n, s in zip(source, SPACING_MM, strict=True))


def ellipsoids(shape: tuple[int, ...], planes: slice, classes: int, planes_first: bool = False) -> Floats:
    """(classes, planes, A, B): scores of a background and of organs, smooth, with wavy borders.

    ``planes_first`` is how they stand in memory: as ``slide`` hands them over, not what is returned.
    """
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    z = z[planes]
    out: Floats = np.empty((classes, len(z), len(y), len(x)), np.float32)
    if planes_first:
        out = np.moveaxis(np.empty((len(z), classes, len(y), len(x)), np.float32), 0, 1)
    rng = np.random.default_rng(classes)
    out[0] = 0
    for c in range(1, classes):
        centre, radius = rng.uniform(-0.75, 0.75, 3), rng.uniform(0.15, 0.4, 3)
        parts = [((a - m) / r) ** 2 for a, m, r in zip((z, y, x), centre, radius, strict=True)]
        wave = [0.3 * np.sin(rng.uniform(8, 20) * a + c) for a in (y, x)]
        out[c] = 4 - 4 * (parts[0][:, None, None] + (parts[1] + wave[0])[:, None] + (parts[2] + wave[1]))
    return out


# -- the sides: each runs in a process of its own and returns seconds and, maybe, an answer --------------------------


def ours_stitch(shape: tuple[int, ...], classes: int, patch: int, folder: Path) -> float:
    from medmap.runtime import Windows, slide

    class Nothing:
        def add(self, slab: Floats, where: Any) -> None:
            if where.start == 0:
                np.save(folder / "ours.npy", slab[:, 0])

        def finish(self) -> None:
            return None

    block, copied = blocks(classes, patch)

    def network(batch: Floats) -> Floats:
        np.copyto(copied, block)
        return copied

    windows, image = Windows((patch,) * 3), noise(shape)
    slide(network, image[:, : patch + 1], windows, Nothing())  # compiled
    start = time.perf_counter()
    slide(network, image, windows, Nothing())
    return time.perf_counter() - start - network_alone(network, windows, shape)


def monai_stitch(shape: tuple[int, ...], classes: int, patch: int, folder: Path) -> float:
    import torch
    from monai.inferers import SlidingWindowInferer

    from medmap.runtime import Windows

    block, copied = (torch.from_numpy(a) for a in blocks(classes, patch))
    image = torch.from_numpy(noise(shape)[None])

    def network(batch: torch.Tensor) -> torch.Tensor:
        return copied.copy_(block)

    inferer = SlidingWindowInferer(patch, sw_batch_size=1, overlap=0.5, mode="gaussian")
    inferer(image[:, :, : patch + 1], network)  # whatever it does once
    start = time.perf_counter()
    with torch.inference_mode():
        out = inferer(image, network)
    took = time.perf_counter() - start
    np.save(folder / "theirs.npy", out[0, :, 0].numpy())
    return took - network_alone(network, Windows((patch,) * 3), shape)


def blocks(classes: int, patch: int) -> tuple[Floats, Floats]:
    block = ellipsoids((patch,) * 3, slice(None), classes)[None]
    return block, np.array(block)


def noise(shape: tuple[int, ...]) -> Floats:
    return np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)


def network_alone(network: Callable[[Any], Any], windows: Any, shape: tuple[int, ...]) -> float:
    count = int(np.prod([len(starts) for starts in windows.starts(shape)]))
    start = time.perf_counter()
    for _ in range(count):
        network(None)
    return time.perf_counter() - start


def ours_export(source: tuple[int, ...], classes: int, patch: int, folder: Path) -> float:
    from medmap.geometry import Geometry, Resample, Trace
    from medmap.runtime import LabelSink, Place

    grid = network_grid(source)

    def run(grid: tuple[int, ...], source: tuple[int, ...]) -> tuple[NDArray[Any], float]:
        sink, took = LabelSink(Trace(Geometry.without_size(source), (Resample(grid),))), 0.0
        for first in range(0, grid[0], SLAB):
            last = min(first + SLAB, grid[0])
            slab = ellipsoids(grid, slice(first, last), classes, planes_first=True)
            start = time.perf_counter()
            sink.add(slab, Place(0, first, last, tuple((0, n) for n in grid)))
            took += time.perf_counter() - start
            del slab
        start = time.perf_counter()
        out = sink.finish()
        return out, took + time.perf_counter() - start

    run((3, 4, 5), (5, 6, 7))  # compiled
    out, took = run(grid, source)
    np.save(folder / "ours.npy", out)
    return took


def torch_export(source: tuple[int, ...], classes: int, patch: int, folder: Path) -> float:
    import torch
    from torch.nn import functional

    scores = torch.from_numpy(ellipsoids(network_grid(source), slice(None), classes))
    start = time.perf_counter()
    with torch.inference_mode():
        fine = functional.interpolate(scores[None], source, mode="trilinear", align_corners=False)
        out = fine[0].argmax(0).to(torch.uint8).numpy()
    took = time.perf_counter() - start
    np.save(folder / "theirs.npy", out)
    return took


def nnunet_export(source: tuple[int, ...], classes: int, patch: int, folder: Path) -> float:
    import torch
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    def resampling(data: Any, new_shape: Any, current: Any, new: Any) -> Any:
        # what its planner writes by default for probabilities
        return resample_data_or_seg_to_shape(
            data, new_shape, current, new, is_seg=False, order=1, order_z=0, force_separate_z=None
        )

    scores = ellipsoids(network_grid(source), slice(None), classes)
    plans = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
    configuration = SimpleNamespace(spacing=[NETWORK_MM] * 3, resampling_fn_probabilities=resampling)
    labels = SimpleNamespace(
        foreground_labels=list(range(1, classes)),
        # LabelManager's, without regions
        convert_logits_to_segmentation=lambda logits: torch.from_numpy(logits).argmax(0),
    )
    properties = {
        "spacing": SPACING_MM,
        "shape_after_cropping_and_before_resampling": source,
        "shape_before_cropping": source,
        "bbox_used_for_cropping": [[0, n] for n in source],
    }
    start = time.perf_counter()
    out = convert_predicted_logits_to_segmentation_with_correct_shape(
        scores, plans, configuration, labels, properties, num_threads_torch=torch.get_num_threads()
    )
    took = time.perf_counter() - start
    np.save(folder / "theirs.npy", out)
    return took


def ours_whole(source: tuple[int, ...], classes: int, patch: int, folder: Path) -> float:
    from medmap.geometry import Geometry, Resample, Trace
    from medmap.runtime import LabelSink, Windows, slide

    grid = network_grid(source)
    block, copied = blocks(classes, patch)

    def network(batch: Floats) -> Floats:
        np.copyto(copied, block)
        return copied

    def run(image: Floats, source: tuple[int, ...]) -> NDArray[Any]:
        trace = Trace(Geometry.without_size(source), (Resample(image.shape[1:]),))
        return slide(network, image, windows, LabelSink(trace))

    windows, image = Windows((patch,) * 3), noise(grid)
    run(image[:, : patch + 1, : patch + 1, : patch + 1], (patch + 9,) * 3)  # compiled
    start = time.perf_counter()
    out = run(image, source)
    took = time.perf_counter() - start
    np.save(folder / "ours.npy", out)
    return took - network_alone(network, windows, grid)


def monai_whole(source: tuple[int, ...], classes: int, patch: int, folder: Path) -> float:
    import torch
    from monai.inferers import SlidingWindowInferer
    from torch.nn import functional

    from medmap.runtime import Windows

    grid = network_grid(source)
    block, copied = (torch.from_numpy(a) for a in blocks(classes, patch))
    image = torch.from_numpy(noise(grid)[None])

    def network(batch: torch.Tensor) -> torch.Tensor:
        return copied.copy_(block)

    inferer = SlidingWindowInferer(patch, sw_batch_size=1, overlap=0.5, mode="gaussian")
    inferer(image[:, :, : patch + 1, : patch + 1, : patch + 1], network)  # whatever it does once
    start = time.perf_counter()
    with torch.inference_mode():
        scores = inferer(image, network)
        fine = functional.interpolate(scores, source, mode="trilinear", align_corners=False)
        out = fine[0].argmax(0).to(torch.uint8).numpy()
    took = time.perf_counter() - start
    np.save(folder / "theirs.npy", out)
    return took - network_alone(network, Windows((patch,) * 3), grid)


def ours_memory(source: tuple[int, ...], classes: int, patch: int, folder: Path) -> float:
    from medmap.geometry import Geometry, Resample, Trace
    from medmap.runtime import LabelSink, Windows, plan_memory, slide

    grid = network_grid(source)
    sink, windows = LabelSink(Trace(Geometry.without_size(source), (Resample(grid),))), Windows((patch,) * 3)
    image, block = noise(grid), ellipsoids((patch,) * 3, slice(None), classes)[None]
    # what stands here before: the program, and the block of scores that is the network
    held = peak_bytes() - image.nbytes
    plan = plan_memory(windows, image.shape, classes, sink, held_bytes=held)
    (folder / "plan.txt").write_text(str(plan.bytes_needed))
    start = time.perf_counter()
    slide(lambda batch: block, image, windows, sink)
    return time.perf_counter() - start


_ALL = (
    ours_stitch, monai_stitch, ours_export, torch_export, nnunet_export, ours_whole, monai_whole, ours_memory
)  # fmt: skip
SIDES = {side.__name__: side for side in _ALL}


# -- processes ------------------------------------------------------------------------------------------------------


def peak_bytes() -> int:
    """The most this program held: getrusage would also count what stood in the process before it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def free_bytes() -> int:
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")]
    return int(line.split()[1]) * 1024


def child(order: str) -> None:
    work = json.loads(order)
    resource.setrlimit(resource.RLIMIT_DATA, (work["limit"], work["limit"]))
    took = SIDES[work["side"]](tuple(work["shape"]), work["classes"], work["patch"], Path(work["folder"]))
    print(json.dumps({"s": took, "bytes": peak_bytes()}))


def measure(python: str, side: str, shape: tuple[int, ...], classes: int, patch: int, folder: Path) -> dict | None:
    """Seconds and bytes of a side; None where it ran out of memory."""
    order = {"side": side, "shape": shape, "classes": classes, "patch": patch, "folder": str(folder)}
    order["limit"] = int(free_bytes() * 0.7)
    done = subprocess.run([python, __file__, "--child", json.dumps(order)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = done.stderr
    if done.returncode < 0 or "MemoryError" in said or "allocate memory" in said or "can't allocate" in said:
        return None
    raise SystemExit(f"{side} failed:\n{said[-3000:]}")


def best(python: str, side: str, rounds: int, *what: Any) -> dict | None:
    runs = [measure(python, side, *what)]
    while runs[-1] is not None and len(runs) < rounds:
        runs.append(measure(python, side, *what))
    return None if runs[-1] is None else min(runs, key=lambda run: run["s"])


def line(
    name: str, peer: str, ours: float, theirs: float | None, unit: str, goal: float | None = None, **more: Any
) -> None:
    ratio = None if theirs is None or not ours else round(theirs / ours, 2)
    row = {"name": name, "peer": peer, "ours": round(ours, 3), "theirs": theirs and round(theirs, 3), "unit": unit}
    met = {} if goal is None or ratio is None else {"goal": goal, "goal_met": ratio >= goal}
    print(json.dumps({**row, "ratio": ratio, **more, **met}), flush=True)


def compare(kind: str, peer: str, sides: tuple[str, str], pythons: tuple[str, str], arguments: Any) -> None:
    """One comparison at the largest size that the peer survives."""
    for classes in arguments.classes:
        shape = network_grid(arguments.source) if kind == "stitching" else arguments.source
        while True:
            with tempfile.TemporaryDirectory() as name:
                what = (shape, classes, arguments.patch, Path(name))
                theirs = best(pythons[1], sides[1], arguments.rounds, *what)
                if theirs is None and shape[0] >= 16:
                    print(f"{peer} runs out of memory: {kind}, {classes} classes, {shape}", file=sys.stderr)
                    shape = (shape[0] // 2, *shape[1:])
                    continue
                ours = best(pythons[0], sides[0], arguments.rounds, *what)
                if ours is None or theirs is None:
                    raise SystemExit(f"{kind}: not enough memory for {classes} classes, {shape}")
                a, b = (np.load(Path(name) / f"{side}.npy") for side in ("ours", "theirs"))
                same = np.abs(a - b).max() < 1e-4 if kind == "stitching" else (a != b).mean() <= DIFFERENT
            title = f"{kind}, {classes} classes, {' × '.join(map(str, shape))}"
            line(title, peer, ours["s"], theirs["s"], "s", SPEED_GOALS.get((kind, peer)), same_answer=bool(same))
            gib = [run["bytes"] / 2**30 for run in (ours, theirs)]
            line(f"memory of {title}", peer, *gib, "GiB", MEMORY_GOAL, same_answer=None)
            break


def alone(arguments: Any) -> None:
    """medmap by itself at full size: the export, and everything in one with its memory held against the plan."""
    for classes in arguments.classes:
        for slices in (arguments.source[0], arguments.source[0] * 4 // 3):
            shape = (slices, *arguments.source[1:])
            with tempfile.TemporaryDirectory() as name:
                what = (shape, classes, arguments.patch, Path(name))
                run = best(sys.executable, "ours_export", arguments.rounds, *what)
                title = f"{classes} classes, {' × '.join(map(str, shape))}"
                if run is not None:
                    line(f"export alone, {title}", "none", run["s"], None, "s", same_answer=None)
                run = best(sys.executable, "ours_memory", 1, *what)
                if run is None:
                    raise SystemExit(f"medmap runs out of memory: {title}")
                planned = int((Path(name) / "plan.txt").read_text()) / 2**30
            line(f"windows and export, {title}", "none", run["s"], None, "s", same_answer=None)
            line(f"all memory, {title}", "the plan", run["bytes"] / 2**30, planned, "GiB", same_answer=None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="windows and export: time and memory")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--classes", type=int, nargs="+", default=[14, 60])
    parser.add_argument("--nnunet", default=sys.executable, help="an interpreter that has nnunetv2 and medmap")
    parser.add_argument("--only", choices=PARTS, nargs="+")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    arguments.source = tuple(n // 10 for n in SOURCE) if arguments.small else SOURCE
    arguments.patch = PATCH // 8 if arguments.small else PATCH
    here, chosen = sys.executable, arguments.only or PARTS
    if "stitching" in chosen:
        compare("stitching", "MONAI", ("ours_stitch", "monai_stitch"), (here, here), arguments)
    if "whole" in chosen:
        compare("the whole way", "MONAI", ("ours_whole", "monai_whole"), (here, here), arguments)
    if "torch" in chosen:
        compare("export", "torch", ("ours_export", "torch_export"), (here, here), arguments)
    if "nnunet" in chosen:
        found = subprocess.run([arguments.nnunet, "-c", "import nnunetv2"], capture_output=True, check=False)
        if found.returncode == 0:
            compare("export", "nnU-Net", ("ours_export", "nnunet_export"), (here, arguments.nnunet), arguments)
        else:
            print("nnunetv2 is not installed (--nnunet PYTHON): its export is left out", file=sys.stderr)
    if "alone" in chosen:
        alone(arguments)


if __name__ == "__main__":
    main()
