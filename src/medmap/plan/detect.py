"""The plan of a detection: grid, maps and anchors from how large the boxes are, epochs from the measured speed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmap.config import validate
from medmap.dataset import Dataset
from medmap.errors import ConfigError, DataError, UsageError, counted
from medmap.feed import case_image
from medmap.geometry import Trace
from medmap.networks import NetworkSpec, unet_strides
from medmap.plan import rules
from medmap.plan.fingerprint import Fingerprint
from medmap.plan.run import NetworkSection, Run
from medmap.plan.segment import halved, settled
from medmap.prepare import PrepareSection, geometric_steps
from medmap.runtime import available_cores
from medmap.tasks.detect import DetectSection

__all__ = ["arranged", "first_draft", "settled"]

# Voxels of a patch, by number of axes: what a step on two cores can bear, and what a GPU can.
PATCH_VOXELS = {"cpu": {2: 320 * 320, 3: 48**3}, "cuda": {2: 800 * 800, 3: 128**3}}
# The smaller boxes (the smallest tenth of the smallest class) keep so many voxels along each side.
SMALLER = 10
SMALLEST_SIDE = {2: 18.0, 3: 6.0}
PLACES_A_SIDE = 1.2  # places of the finest map that a small box spans along each axis, at least
WHOLE_IMAGE = 2.0  # a picture of up to so many patches is looked at as a whole
SAMPLED = 60
GOOD_STEPS = 2500
STEPS_AN_EPOCH = 24
LEARNING_RATE = 2e-3
MOSAIC_BELOW = 1000
ANCHORS = 2


@dataclass(frozen=True)
class BoxSizes:
    """How large the training boxes are.

    Args:
        sides: (boxes, ndim) voxels along each axis, of volumes in a patient's space after they were turned to LPS.
        sides_mm: The same in mm, where the images have a size; else in voxels.
        labels: (boxes,) classes.
    """

    sides: NDArray[np.float64]
    sides_mm: NDArray[np.float64]
    labels: NDArray[np.int64]

    @property
    def small_mm(self) -> NDArray[np.float64]:
        """(ndim,) tenth percentile of the sides of the class whose boxes are smallest."""
        each = [np.percentile(self.sides_mm[self.labels == label], SMALLER, axis=0) for label in np.unique(self.labels)]
        return np.asarray(min(each, key=lambda sides: float(sides.prod())))


def box_sizes(dataset: Dataset, turned: bool) -> BoxSizes:
    """Measure the boxes of a sample of the cases.

    Raises:
        DataError: No case with a box can be read.
    """
    with_boxes = [case for case in dataset if case.truth.boxes]
    sides: list[NDArray[np.float64]] = []
    sizes: list[NDArray[np.float64]] = []
    labels: list[int] = []
    for at in np.unique(np.linspace(0, len(with_boxes) - 1, min(SAMPLED, len(with_boxes))).astype(int)):
        case = with_boxes[int(at)]
        try:
            image = case_image(dataset, case)
        except DataError:
            continue  # the fingerprint and the store name it
        n = image.ndim
        section = PrepareSection(shape=(1,) * n, grid="native", orientation="LPS" if turned else None)
        trace = Trace(image.geometry, geometric_steps(image, section))
        corners = np.array([box for box, _ in case.truth.boxes or ()], dtype=np.float64)
        mine = (corners[:, n:] - corners[:, :n] + 1) @ np.abs(np.asarray(trace.index_matrix)[:n, :n]).T
        sides.append(mine)
        labels += [label for _, label in case.truth.boxes or ()]
        sizes.append(mine * np.array(trace.target.spacing_mm if trace.target.has_size else (1.0,) * n))
    if not sides:
        raise DataError(f"no case of {dataset.name} with a box can be read", remedy="`medmap check` shows why")
    return BoxSizes(np.concatenate(sides), np.concatenate(sizes), np.array(labels))


def first_draft(pool: Dataset, facts: Fingerprint, recipe_name: str, words: dict[str, Any]) -> Run:
    """A run as the rules have it; arguments as ``medmap.plan.segment.first_draft``.

    Raises:
        UsageError: A classical recipe, which is for classes.
        DataError: No box.
    """
    if recipe_name != "rules":
        raise UsageError("the classical recipes are for classes", got=recipe_name, expected="rules")
    import torch

    gpu = words["device"] == "cuda" or (words["device"] == "auto" and torch.cuda.is_available())
    where = "cuda" if gpu else "cpu"
    if not any(case.truth.boxes for case in pool):
        raise DataError(f"no case of {pool.name} has a box", remedy="give boxes in cases.csv; check shows how")
    boxes = box_sizes(pool, facts.dimensions == 3 and facts.patient_space)
    prepare, strides, small, reasons = _grid(facts, where, boxes)
    plain, why_intensity = rules.prepare_section(facts)
    prepare = prepare.model_copy(update={"intensity": plain.intensity})
    reasons["prepare.intensity"] = why_intensity["prepare.intensity"]
    augmentation, why_augment = _augment(facts, pool)
    network, why_network = _network(words, prepare, strides, small, boxes, where)
    batch = _batch(prepare.shape)
    patches = max(1, math.ceil(STEPS_AN_EPOCH / math.ceil(facts.training / batch)))
    given = {name: words[name] for name in ("seed", "device", "budget_s", "memory_bytes")}
    run = validate(Run, {**given, "task": {"kind": "detect"}, "prepare": prepare.model_dump()}, "the plan")
    rate = 5e-4 if network.init else LEARNING_RATE
    fit = run.fit.model_copy(update={"batch_size": batch, "threads": available_cores(), "learning_rate": rate})
    reasons |= {**why_augment, **why_network}
    reasons["task.patches"] = f"{counted(facts.training, 'case')}, {patches} a case and epoch: epochs of many steps"
    reasons["fit.batch_size"] = f"{counted(batch, 'patch', 'patches')} of {rules.times(prepare.shape)} a step"
    task = DetectSection(patches=patches, views=facts.dimensions == 2)
    update = {"augment": augmentation, "network": network, "fit": fit, "task": task, "reasons": reasons}
    return run.model_copy(update=update)


def _augment(facts: Fingerprint, pool: Dataset) -> tuple[Any, dict[str, str]]:
    section, reasons = rules.augment_section(facts, pool)
    update: dict[str, Any] = {"scale": 0.25, "shift": 0.1, "gamma": 0.2, "noise": 0.1, "cutout": 0.0, "mixup": 0.0}
    if facts.dimensions == 3 and not section.flip_axes and not _sided(pool):
        update["flip_axes"] = (0, 1, 2)
        reasons["augment.flip_axes"] = "a finding is one on either side: volumes are mirrored for learning alone"
    if facts.dimensions == 2 and facts.training < MOSAIC_BELOW:
        update["mosaic"] = 0.3
        reasons["augment.mosaic"] = "few pictures: some are put together of parts of several"
    return section.model_copy(update=update), reasons


def _sided(pool: Dataset) -> bool:
    """Whether a class is named for a side, or is another's mirror image."""
    words = {word for name in pool.label_names for word in name.lower().replace("_", " ").replace("-", " ").split()}
    return bool(pool.mirror_pairs) or not words.isdisjoint({"left", "right"})


def _grid(
    facts: Fingerprint, where: str, boxes: BoxSizes
) -> tuple[PrepareSection, tuple[tuple[int, ...], ...], NDArray[np.float64], dict[str, str]]:
    """The grid, how the network reduces it, and how many voxels a small box spans there along each axis."""
    n = facts.dimensions
    budget = PATCH_VOXELS[where][n]
    turn = n == 3 and facts.patient_space
    small_mm = boxes.small_mm
    common: dict[str, Any] = {"orientation": "LPS" if turn else None, "channels": facts.channels}
    told = " × ".join(f"{v:.3g}" for v in small_mm)
    unit = "mm" if facts.spacing_mm is not None else "pixels"
    if facts.spacing_mm is not None:
        spacing = np.maximum(np.array(facts.spacing_mm), small_mm.min() / SMALLEST_SIDE[n])
        shape = np.array(facts.shape) * np.array(facts.spacing_mm) / spacing
        patch, strides = halved(np.maximum(shape, 8), spacing, budget)
        section = PrepareSection(
            shape=patch, grid="spacing", spacing_mm=tuple(round(float(s), 4) for s in spacing), **common
        )
        small = small_mm / spacing
        shown = " × ".join(f"{s:.3g}" for s in spacing)
        reasons = {"prepare.spacing_mm": f"the smaller boxes are {told} {unit}: looked at in {shown} mm"}
        reasons["prepare.shape"] = f"patches of {rules.times(patch)} voxels"
        return section, strides, small, reasons
    scale = min(1.0, SMALLEST_SIDE[n] / float(small_mm.min()))
    shape = np.array(facts.shape) * scale
    if shape.prod() <= WHOLE_IMAGE * budget:
        whole = tuple(max(32, math.ceil(side / 32) * 32) for side in shape)
        reasons = {"prepare.shape": f"the smaller boxes are {told} pixels: the whole picture at {scale:.2f}"}
        section = PrepareSection(shape=whole, grid="whole", **common)
        return section, unet_strides(whole), small_mm * scale, reasons
    patch, strides = halved(np.array(facts.shape, dtype=np.float64), np.ones(n), budget)
    reasons = {"prepare.shape": f"the smaller boxes are {told} pixels: patches of {rules.times(patch)}"}
    return PrepareSection(shape=patch, grid="native", **common), strides, small_mm, reasons


def _network(
    words: dict[str, Any],
    prepare: PrepareSection,
    strides: tuple[tuple[int, ...], ...],
    small: NDArray[np.float64],
    boxes: BoxSizes,
    where: str,
) -> tuple[NetworkSection, dict[str, str]]:
    """A detector whose finest map suits the smallest boxes, with anchors where its kind has them.

    Raises:
        ConfigError: An unknown name, strides or a finest map by hand that cannot be.
    """
    from medmap.networks.detectors import map_steps

    asked = words.get("network") or {}
    name = str(asked.get("name", "fcos"))
    strides = tuple(tuple(int(by) for by in step) for step in asked.get("strides") or strides)
    dimensions: Any = len(prepare.shape)
    spec = NetworkSpec(name, dimensions, prepare.channels, 1, prepare.shape, strides=strides, boxes=True, finest=0)
    steps = map_steps(spec)
    fitting = [depth for depth, step in enumerate(steps) if (np.array(step) * PLACES_A_SIDE <= small).all()]
    finest = min(max(fitting, default=0), max(0, len(steps) - 2))
    anchors: tuple[tuple[tuple[float, ...], ...], ...] = ()
    finest = int(asked.get("finest", finest))
    if not 0 <= finest < len(steps):
        raise ConfigError("network.finest lies beyond the encoder", got=finest, expected=f"0 to {len(steps) - 1}")
    spanned = " × ".join(f"{side:.3g}" for side in small)
    reasons = {
        "network.name": "one box for each place, without anchors: the fewest choices for few and small boxes",
        "network.finest": f"small boxes span {spanned} voxels: looked for every {rules.times(steps[finest])} voxels",
    }
    if name.startswith(("retinanet", "faster_rcnn")):
        anchors = anchors_for(boxes, prepare, tuple(steps[finest:]))
        reasons["network.anchors"] = f"{ANCHORS} a place and map, from the sides of the training boxes"
    network = NetworkSection(
        name="fcos",
        width=0.5 if where == "cpu" else 1.0,
        strides=strides,
        norm="batch" if len(prepare.shape) == 2 else "instance",
        init=words.get("init"),
        finest=finest,
        anchors=anchors,
    )
    return network, reasons


def anchors_for(
    boxes: BoxSizes, prepare: PrepareSection, steps: tuple[tuple[int, ...], ...]
) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Sides of the anchors of each map: of the boxes that are as large as its places suit, a small and a large one.

    Args:
        boxes: The training boxes.
        prepare: The grid that they are looked at on.
        steps: Voxels between the places of each map along each axis.
    """
    if prepare.spacing_mm is not None:
        sides = boxes.sides_mm / np.array(prepare.spacing_mm)
    else:
        sides = boxes.sides * (1.0 if prepare.grid == "native" else _shrunk(boxes, prepare))
    size = sides.prod(1) ** (1 / sides.shape[1])
    suits = np.array([4 * float(np.prod(step)) ** (1 / len(step)) for step in steps])
    nearest = np.abs(np.log(size)[:, None] - np.log(suits)[None]).argmin(1)
    rows = []
    for level, suit in enumerate(suits):
        mine = sides[nearest == level]
        if len(mine) < 2 * ANCHORS:  # hardly any box here: as wide as places suit, in the boxes' usual proportions
            usual = np.median(sides, axis=0) / np.median(size)
            found = [usual * suit * by for by in (0.8, 1.25)]
        else:
            found = [np.percentile(mine, share, axis=0) for share in (25, 75)]
        rows.append(tuple(tuple(round(float(max(1.0, v)), 1) for v in one) for one in found))
    return tuple(rows)


def _shrunk(boxes: BoxSizes, prepare: PrepareSection) -> float:
    """How a picture without a size is scaled when it is looked at as a whole."""
    return min(1.0, SMALLEST_SIDE[len(prepare.shape)] / float(boxes.small_mm.min()))


def _batch(shape: tuple[int, ...]) -> int:
    voxels = math.prod(shape)
    if len(shape) == 2:
        return 8 if voxels <= 512**2 else 4
    return 4 if voxels <= 48**3 else 2


def arranged(run: Run, step_s: float, facts: Fingerprint, left_s: float | None, folds: int | None) -> rules.Arrangement:
    """How the time left is spent at the measured speed: all folds first, then epochs."""
    patches = run.task.patches if isinstance(run.task, DetectSection) else 1
    enough = rules.Enough(GOOD_STEPS, 30, 1000, rounds=1)
    return rules.arrange(step_s, run.fit.batch_size, facts.training * patches, left_s, folds, enough)
