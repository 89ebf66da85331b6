"""Judging of masks against MONAI, surface-distance and MedPy, of boxes against pycocotools: best of rounds in turns.

* HD95, ASSD and NSD together, of one organ (a label map of 320 × 320 × 200) and of 14, on the grid of a CT.
* Dice of all classes: one confusion matrix against MONAI's ``compute_dice`` on one-hot tensors (making them counts,
  since label maps are what there is) and against its ``DiceHelper``.
* The oblique phantom against brute force over all pairs of surface voxels.
* AP50:95 of three classes in 3,000 images, from lists of boxes in memory, and the time of its 1,000 draws of patients.
* How far definitions lie apart where a prediction has a stray island: ours are the larger of the two directed 95th
  percentiles and the mean over both surfaces together; peers are called as their documentation shows.

surface-distance (``pip install surface-distance-based-measures``) and MedPy (``pip install medpy``; GPL, never a part
of medmap) take part where they can be imported; ``--peers FOLDER`` adds a folder that they were installed into with
``pip install --no-deps --target FOLDER``.

Prints one JSON line a comparison (``name peer ours theirs unit ratio same_answer``); ``ratio`` is theirs / ours, so
above 1 medmap is faster. ``goal`` and ``goal_met`` stand where there is a goal, ``difference`` where answers differ.
``--small`` takes a quarter of each axis; ``--large`` adds 60 structures in 512 × 512 × 300 for medmap alone, with the
memory it took beyond the two maps; ``--boxes`` takes the boxes alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.metrics import (
    DiceHelper,
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from numpy.typing import NDArray
from scipy import ndimage

from medmap.geometry import Geometry
from medmap.metrics import (
    Bootstrap,
    BoxList,
    average_precisions,
    confusion,
    mask_scores,
    match_boxes,
    surface_distances,
)
from medmap.metrics.inputs import Patients
from medmap.metrics.masks import MaskRules
from medmap.phantom import oblique

Labels = NDArray[np.uint8]
SPACING_MM = (0.8, 0.8, 1.5)
TOLERANCE_MM = 2.0
GOAL = 3.0


def rough(shape: tuple[int, ...], seed: int, grain: int = 12) -> NDArray[np.float32]:
    """Smooth noise, so that surfaces are bumpy."""
    coarse = np.random.default_rng(seed).standard_normal((grain,) * 3, dtype=np.float32)
    return np.asarray(ndimage.zoom(coarse, [n / grain for n in shape], order=1))


def organs(shape: tuple[int, ...], count: int) -> tuple[Labels, Labels]:
    """Truth and a prediction that is about as good as a network's: ellipsoids with bumps, later ones on top."""
    rng = np.random.default_rng(7)
    bumps = rough(shape, 1), rough(shape, 2)
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    truth, prediction = np.zeros((2, *shape), np.uint8)
    for value in range(1, count + 1):
        centre = rng.uniform(-0.6, 0.6, 3) if count > 1 else np.zeros(3)
        radius = rng.uniform(0.12, 0.35, 3) if count > 1 else np.array([0.6, 0.5, 0.7])
        square = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True))
        truth[square + 0.12 * bumps[0] < 1] = value
        prediction[square + 0.12 * bumps[0] + 0.08 * bumps[1] < 1] = value
    return truth, prediction


def best(calls: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Shortest time of each call and its answer; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    answers = {}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            answers[name] = call()
            taken[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in taken.items()}, answers


def line(name: str, peer: str | None, ours: float, theirs: float | None, unit: str, **more: object) -> None:
    """One comparison."""
    ratio = None if theirs is None or unit != "s" else round(theirs / ours, 2)
    shown = None if theirs is None else round(theirs, 5)
    row = {"name": name, "peer": peer, "ours": round(ours, 5), "theirs": shown, "unit": unit, "ratio": ratio}
    print(json.dumps({**row, **more}), flush=True)


def one_hot(labels: Labels, count: int) -> torch.Tensor:
    """(1, classes, …) without the background, as MONAI takes it."""
    return torch.from_numpy(np.stack([labels == value for value in range(1, count + 1)])[None])


def by_medmap(truth: Labels, prediction: Labels, count: int) -> NDArray[np.float64]:
    """(structures, 3): HD95, ASSD, NSD; the lesions and overlaps come along."""
    grid = Geometry.from_spacing(truth.shape, SPACING_MM)
    names = {value: f"organ {value}" for value in range(1, count + 1)}
    scores = mask_scores(truth, prediction, grid, names, rules=MaskRules(TOLERANCE_MM))
    return np.array([(score.hd95_mm, score.assd_mm, score.nsd) for score in scores])


def by_monai(truth: torch.Tensor, prediction: torch.Tensor, count: int) -> NDArray[np.float64]:
    """The same three from MONAI, on one-hot tensors that are there already."""
    more: dict[str, Any] = {"include_background": True, "spacing": SPACING_MM}
    found = (
        compute_hausdorff_distance(prediction, truth, percentile=95, **more),
        compute_average_surface_distance(prediction, truth, symmetric=True, **more),
        compute_surface_dice(prediction, truth, [TOLERANCE_MM] * count, **more),
    )
    return np.stack([values[0].numpy() for values in found], axis=1)


def by_surface_distance(
    library: Any, truth: NDArray[np.bool_], guess: NDArray[np.bool_], spacing: tuple[float, ...] = SPACING_MM
) -> NDArray[np.float64]:
    """The three from surface-distance; its mean distance is given for each direction, here their mean."""
    found = library.compute_surface_distances(truth, guess, spacing)
    mean = float(np.mean(library.compute_average_surface_distance(found)))
    near = library.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)
    return np.array([library.compute_robust_hausdorff(found, 95), mean, near])


def by_medpy(
    library: Any, truth: NDArray[np.bool_], guess: NDArray[np.bool_], spacing: tuple[float, ...] = SPACING_MM
) -> NDArray[np.float64]:
    """HD95 and ASSD from MedPy, which has no NSD."""
    return np.array([m(guess, truth, voxelspacing=spacing) for m in (library.hd95, library.assd)] + [np.nan])


def optional_peers(folder: str | None) -> dict[str, Callable[..., NDArray[np.float64]]]:
    """The peers that are there: (truth, prediction) → HD95, ASSD, NSD."""
    if folder is not None:
        sys.path.append(folder)
    found: dict[str, Callable[..., NDArray[np.float64]]] = {}
    for name, module, call in (
        ("surface-distance", "surface_distance", by_surface_distance),
        ("MedPy", "medpy.metric.binary", by_medpy),
    ):
        try:
            library = importlib.import_module(module)
        except ImportError:
            print(f"{name} is not installed here and does not take part", file=sys.stderr)
            continue
        found[name] = lambda *given, call=call, library=library, **more: call(library, *given, **more)
    return found


def differences(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, float]:
    """Largest difference of each measure; none where a peer has none."""
    apart = np.abs(np.atleast_2d(ours) - np.atleast_2d(theirs)).max(axis=0)
    return {n: round(float(v), 6) for n, v in zip(("hd95_mm", "assd_mm", "nsd"), apart, strict=True) if not np.isnan(v)}


def compare_surfaces(shape: tuple[int, ...], count: int, rounds: int, peers: dict[str, Any]) -> None:
    """HD95, ASSD and NSD together."""
    truth, prediction = organs(shape, count)
    tensors = one_hot(truth, count), one_hot(prediction, count)
    calls: dict[str, Callable[[], Any]] = {
        "medmap": lambda: by_medmap(truth, prediction, count),
        "MONAI": lambda: by_monai(*tensors, count),
    }
    for name, call in peers.items():
        calls[name] = lambda call=call: np.array(
            [call(truth == value, prediction == value) for value in range(1, count + 1)]
        )
    took, answers = best(calls, rounds)
    for peer in calls.keys() - {"medmap"}:
        apart = differences(answers["medmap"], answers[peer])
        more: dict[str, object] = {"goal": GOAL, "goal_met": took[peer] >= GOAL * took["medmap"]}
        title = f"HD95 + ASSD + NSD: {count} structure{'s' if count > 1 else ''}, {' × '.join(map(str, shape))}"
        same = max(apart.values()) < 1e-4  # MONAI answers in single precision
        line(title, peer, took["medmap"], took[peer], "s", same_answer=same, difference=apart, **more)


def compare_dice(shape: tuple[int, ...], count: int, rounds: int) -> None:
    """Dice of all classes."""
    truth, prediction = organs(shape, count)

    def ours() -> NDArray[np.float64]:
        table = confusion(truth, prediction, range(1, count + 1))
        return (2 * np.diag(table) / (table.sum(0) + table.sum(1)))[1:]

    def theirs() -> NDArray[np.float64]:
        y, guess = one_hot(truth, count), one_hot(prediction, count)
        return compute_dice(guess, y, include_background=True)[0].numpy()

    helper = DiceHelper(include_background=False, apply_argmax=False, num_classes=count + 1, reduction="none")
    maps = [torch.from_numpy(labels)[None, None] for labels in (prediction, truth)]
    calls = {"medmap": ours, "MONAI compute_dice": theirs, "MONAI DiceHelper": lambda: helper(*maps)[0]}
    took, answers = best(calls, rounds)
    for peer in calls.keys() - {"medmap"}:
        apart = float(np.abs(answers["medmap"] - np.asarray(answers[peer]).reshape(-1)).max())
        title = f"Dice of {count} classes, {' × '.join(map(str, shape))}"
        line(title, peer, took["medmap"], took[peer], "s", same_answer=apart < 1e-5, difference=apart)


def compare_brute_force() -> None:
    """The oblique phantom: every pair of surface voxels in the world."""
    image = oblique()
    truth = image.array > 150
    prediction = np.roll(truth, 1, axis=1) | (image.array < 15)

    def brute() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        edges = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, prediction)]
        first, second = (image.geometry.to_world(np.argwhere(edge)) for edge in edges)
        apart = np.linalg.norm(first[:, None] - second[None], axis=2)
        return apart.min(axis=1), apart.min(axis=0)

    took, answers = best({"ours": lambda: surface_distances(truth, prediction, image.geometry), "brute": brute}, 3)
    there, back = answers["brute"]
    expected = np.array([max(np.percentile(d, 95) for d in (there, back)), np.concatenate([there, back]).mean()])
    found = answers["ours"]
    apart = float(np.abs(np.array([found.hd95_mm, found.assd_mm]) - expected).max())
    line("oblique phantom", "brute force", took["ours"], took["brute"], "s", same_answer=apart < 1e-6, difference=apart)


def compare_definitions(peers: dict[str, Any]) -> None:
    """A ball found well, and a stray island far away: what each calls HD95 and mean distance."""
    shape = (120, 120, 120)
    x, y, z = np.ogrid[tuple(slice(0, n) for n in shape)]
    truth = (x - 30) ** 2 + (y - 30) ** 2 + (z - 30) ** 2 < 20**2
    island = (x - 110) ** 2 + (y - 110) ** 2 + (z - 110) ** 2 < 5.5**2
    guess = truth | island
    grid = Geometry.from_spacing(shape, (1.0, 1.0, 1.0))
    found = surface_distances(truth, guess, grid)
    ours = np.array([found.hd95_mm, found.assd_mm, found.nsd(TOLERANCE_MM)])
    tensors = [torch.from_numpy(mask)[None, None] for mask in (guess, truth)]
    more: dict[str, Any] = {"include_background": True, "spacing": (1.0, 1.0, 1.0)}
    calls = {"MONAI": lambda: float(compute_hausdorff_distance(*tensors, percentile=95, **more))}
    calls |= {n: lambda call=call: float(call(truth, guess, spacing=(1.0, 1.0, 1.0))[0]) for n, call in peers.items()}
    for peer, call in calls.items():
        theirs = call()
        same = bool(abs(theirs - ours[0]) < 1e-4)
        line("definition of HD95: a ball and a stray island", peer, float(ours[0]), theirs, "mm", same_answer=same)


def boxes(images: int, seed: int = 5) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True boxes (image, x, y, w, h, class) and found ones (…, score), of pictures of 640 × 480."""
    rng = np.random.default_rng(seed)
    true, found = [], []
    for image in range(images):
        for _ in range(rng.integers(0, 12)):
            box, label = np.append(rng.uniform(0, 400, 2), rng.uniform(8, 160, 2)), rng.integers(3)
            true.append((image, *box, label))
            for _ in range(rng.integers(0, 4)):
                moved = box + rng.normal(0, 5, 4)
                found.append((image, *moved[:2], *np.maximum(moved[2:], 2), label, rng.random()))
        for _ in range(rng.integers(0, 8)):
            found.append((image, *rng.uniform(0, 400, 2), *rng.uniform(8, 160, 2), rng.integers(3), rng.random()))
    return np.array(true), np.array(found)


def compare_boxes(images: int, rounds: int) -> None:
    """AP50:95 of all classes against pycocotools."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        print("pycocotools is not installed here and does not take part", file=sys.stderr)
        return
    true, found = boxes(images)
    who = Patients.of(None, images)

    def listed(rows: NDArray[np.float64]) -> BoxList:
        corners = np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5] - 1], axis=1)
        return BoxList(
            rows[:, 0].astype(int), corners, rows[:, 5].astype(int), rows[:, 6] if rows.shape[1] > 6 else None
        )

    lists = listed(found), listed(true)

    def ours(draws: Bootstrap | None = None) -> float:
        return float(average_precisions(match_boxes(*lists), 3, who, draws).values.mean())

    def entry(number: int, row: NDArray[np.float64]) -> dict[str, Any]:
        plain = {"id": number + 1, "image_id": int(row[0]), "bbox": row[1:5].tolist(), "category_id": int(row[5])}
        return {**plain, "iscrowd": 0, "area": row[3] * row[4]} if len(row) == 6 else {**plain, "score": row[6]}

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(images)],
            "categories": [{"id": number} for number in range(3)],
            "annotations": [entry(number, row) for number, row in enumerate(true)],
        }
        truth.createIndex()
        answers = truth.loadRes([entry(number, row) for number, row in enumerate(found)])

    def theirs() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            judged = COCOeval(truth, answers, "bbox")
            judged.params.areaRng, judged.params.areaRngLbl = judged.params.areaRng[:1], ["all"]
            judged.evaluate()
            judged.accumulate()
        return float(judged.eval["precision"][:, :, :, 0, 2].mean())

    took, answered = best({"ours": ours, "theirs": theirs}, rounds)
    apart = abs(answered["ours"] - answered["theirs"])
    title = f"AP50:95 of {len(found)} boxes in {images} images"
    line(title, "pycocotools", took["ours"], took["theirs"], "s", same_answer=apart < 1e-6, difference=apart)
    start = time.perf_counter()
    ours(Bootstrap(1000))
    line(f"{title}, 1,000 draws of patients", None, time.perf_counter() - start, None, "s", same_answer=None)


def alone() -> None:
    """60 structures of a whole body scan: time and memory of medmap."""
    shape = (512, 512, 300)
    truth, prediction = organs(shape, 60)
    start = time.perf_counter()
    by_medmap(truth, prediction, 60)
    took = time.perf_counter() - start
    tracemalloc.start()  # NumPy's arrays are counted; the process's own peak is that of making the maps
    by_medmap(truth, prediction, 60)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    name = "all scores of 60 structures, 512 × 512 × 300"
    line(name, None, took, None, "s", same_answer=None, peak_mib=round(peak), one_map_mib=round(truth.nbytes / 2**20))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="speed of judging masks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--boxes", action="store_true")
    parser.add_argument("--peers", help="a folder with surface-distance and MedPy")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*always_return_as_numpy")  # MONAI's own call
    compare_boxes(300 if arguments.small else 3000, arguments.rounds)
    if arguments.boxes:
        return
    shape = (80, 80, 50) if arguments.small else (320, 320, 200)
    peers = optional_peers(arguments.peers)
    compare_brute_force()
    compare_definitions(peers)
    compare_surfaces(shape, 1, arguments.rounds, peers)
    # MedPy looks at whole volumes for each structure: minutes
    quick = {name: call for name, call in peers.items() if name != "MedPy"}
    compare_surfaces(shape, 14, arguments.rounds, peers if arguments.small else quick)
    compare_dice(shape, 14, arguments.rounds)
    if arguments.large:
        alone()


if __name__ == "__main__":
    main()
