"""The plan of a segmentation: spacing, patch, depth and width from the fingerprint, epochs from the measured speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from medmap.config import validate
from medmap.dataset import Dataset
from medmap.errors import ConfigError, UsageError, counted
from medmap.networks import multiple_of, unet_strides
from medmap.plan import rules
from medmap.plan.cascade import cascade
from medmap.plan.fingerprint import Fingerprint
from medmap.plan.run import CoarseSection, EnsembleSection, NetworkSection, Run
from medmap.plan.slices import SLICES_OF_A_PATCH, Slicing, slicing
from medmap.prepare import MOST_VOXELS, PrepareSection
from medmap.runtime import available_cores
from medmap.tasks.segment import SegmentSection

# Voxels of a patch, by number of axes: what a step on two cores can bear, and what a GPU can.
PATCH_VOXELS = {"cpu": {2: 256**2, 3: 48**3}, "cuda": {2: 512**2, 3: 128**3}}
# A network has seen enough after so many steps; epochs are made of at least so many.
GOOD_STEPS = 2500
STEPS_AN_EPOCH = 24
LEARNING_RATE = 1e-2


def first_draft(pool: Dataset, facts: Fingerprint, recipe_name: str, words: dict[str, Any]) -> Run:
    """A run as the rules have it, before anything is measured.

    Args:
        pool: The cases to learn from.
        facts: Their fingerprint.
        recipe_name: ``rules``.
        words: ``seed``, ``device``, ``budget_s``, ``memory_bytes``; ``init`` where it was given; ``network``, what
            was set by hand of that section.

    Raises:
        UsageError: A classical recipe, which is for classes.
    """
    if recipe_name != "rules":
        raise UsageError("the classical recipes are for classes", got=recipe_name, expected="rules")
    facts = _at_spacing(facts, words.get("prepare") or {})
    fine = _draft(pool, facts, words)
    found = None if fine.network.slices else cascade(pool, facts, fine.prepare.shape)
    if found is None:
        return fine
    if isinstance(found, str):
        return fine.model_copy(update={"reasons": {**fine.reasons, "coarse": found}})
    by_hand = (words.get("coarse") or {}).get("prepare") or {}
    seen_at = _at_spacing(found.facts, by_hand)
    coarse = _draft(pool, seen_at, {**words, "init": None, "network": {}, "prepare": by_hand})
    seen = " × ".join(f"{step:.3g}" for step in seen_at.spacing_mm or ())
    told = {"prepare.spacing_mm": f"{seen} mm: the field in a few patches, the structures still some voxels across"}
    reasons = {f"coarse.{where}": why for where, why in {**coarse.reasons, **told}.items()}
    task = fine.task.model_copy(update={"around_mm": found.around_mm})
    reasons = {**fine.reasons, "coarse": found.reason, **reasons}
    return fine.model_copy(update={"coarse": CoarseSection.of(coarse), "task": task, "reasons": reasons})


def _draft(pool: Dataset, facts: Fingerprint, words: dict[str, Any]) -> Run:
    """One network's run."""
    where = "cuda" if _device(words["device"]) == "cuda" else "cpu"
    by = slicing(facts, words.get("network") or {})
    prepare, strides, reasons = _grid(facts, where, by, words.get("prepare") or {})
    section, why_intensity = _with_intensity(prepare, facts)
    augmentation, why_augment = rules.augment_section(facts, pool)
    augmentation = augmentation.model_copy(update={**_AUGMENT, "rotate_deg": max(15.0, augmentation.rotate_deg)})
    if by.thick:
        augmentation = augmentation.model_copy(update={"flat_axis": by.axis})
        reasons["augment.flat_axis"] = "slices are thick or few: images are turned and zoomed in their plane alone"
    if by.reason:
        reasons["network.slices"] = by.reason
    batch = _batch(prepare.shape, by)
    steps = math.ceil(facts.training / batch)
    patches = max(1, math.ceil(STEPS_AN_EPOCH / steps))
    given = {name: words[name] for name in ("seed", "device", "budget_s", "memory_bytes")}
    width = 0.5 if where == "cpu" else 1.0
    network = NetworkSection(
        name="unet",
        width=width,
        strides=strides,
        norm="instance",
        init=words.get("init"),
        slices=by.slices,
        slice_axis=2 if by.axis is None else by.axis,
    )
    run = validate(Run, {**given, "task": {"kind": "segment"}, "prepare": section.model_dump()}, "the plan")
    fit = run.fit.model_copy(
        update={
            "batch_size": batch,
            "threads": available_cores(),
            "learning_rate": 5e-4 if network.init else LEARNING_RATE,
        }
    )
    reasons |= {**why_intensity, **why_augment}
    reasons["task.patches"] = f"{counted(facts.training, 'case')}, {patches} a case and epoch: epochs of many steps"
    reasons["fit.batch_size"] = f"{counted(batch, 'patch', 'patches')} of {rules.times(prepare.shape)} a step"
    reasons["network.norm"] = f"{counted(batch, 'patch', 'patches')} a step: each is normalised by itself"
    pictures, wide = " for pictures" if by.slices else "", "half as wide, for a CPU" if where == "cpu" else "full width"
    reasons["network.name"] = f"a U-Net of {len(strides) + 1} stages{pictures}; {wide}"
    task = SegmentSection(patches=patches)
    update = {"augment": augmentation, "network": network, "fit": fit, "task": task, "reasons": reasons}
    return run.model_copy(update=update)


_AUGMENT: dict[str, Any] = {"scale": 0.2, "shift": 0.0, "gamma": 0.3, "noise": 0.1, "cutout": 0.0, "blur_voxels": 0.7}


def _device(name: str) -> str:
    import torch

    return "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"


def _grid(
    facts: Fingerprint, where: str, by: Slicing, given: Mapping[str, Any] = MappingProxyType({})
) -> tuple[PrepareSection, tuple[tuple[int, ...], ...], dict[str, str]]:
    """The spacing that images are brought to, the patch, and how the network reduces it; ``given`` is set by hand."""
    turn = facts.dimensions == 3 and facts.patient_space
    spacing = facts.spacing_mm
    shape = np.array(facts.shape, dtype=np.float64)
    size = np.array(spacing or (1.0,) * facts.dimensions)
    seen = [axis for axis in range(facts.dimensions) if not by.slices or axis != by.axis]
    if "shape" in given:
        patch, strides = given["shape"], dividing([given["shape"][axis] for axis in seen], size[seen])
    else:
        plane, strides = halved(shape[seen], size[seen], PATCH_VOXELS[where][len(seen)])
        sides = dict(zip(seen, plane, strict=True))
        patch = tuple(sides.get(axis, min(SLICES_OF_A_PATCH, facts.shape[axis])) for axis in range(facts.dimensions))
    reasons = {}
    if spacing is not None:
        spacing = tuple(round(s, 4) for s in spacing)
        shown = " × ".join(f"{s:g}" for s in spacing)
        reasons["prepare.spacing_mm"] = f"the median spacing of the images: {shown} mm"
    else:
        reasons["prepare.grid"] = "the images state no spacing: pixels as they are"
    whole = "the median image as a whole" if (np.array(patch) >= shape).all() else "a part of the median image"
    reasons["prepare.shape"] = f"patches of {rules.times(patch)}: {whole} of {rules.times(facts.shape)}"
    if turn:
        reasons["prepare.orientation"] = "volumes in a patient's space are turned the same way round"
    section = PrepareSection(
        shape=patch,
        grid="native" if spacing is None else "spacing",
        spacing_mm=spacing,
        orientation="LPS" if turn else None,
        channels=facts.channels,
    )
    return section, strides, reasons


def halved(
    shape: np.ndarray[Any, Any], size: np.ndarray[Any, Any], voxels: int
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The patch and the strides of a network that halves it as often as it bears."""
    patch = _patch(shape, size, voxels)
    step = np.array(multiple_of(unet_strides(patch, tuple(size))) or (1,) * len(patch))
    patch = tuple(int(v) for v in np.ceil(np.array(patch) / step) * step)
    return patch, unet_strides(patch, tuple(size))


def dividing(patch: Sequence[int], size: np.ndarray[Any, Any]) -> tuple[tuple[int, ...], ...]:
    """The strides of a network for a patch that is given: an axis is halved while that leaves no rest.

    Example:
        >>> dividing((24, 20), np.ones(2))
        ((2, 2), (2, 2))
        >>> dividing((96, 30), np.ones(2))
        ((2, 2), (2, 1), (2, 1), (2, 1))
    """
    left, found = list(patch), []
    for step in unet_strides(patch, tuple(size)):
        own = tuple(by if side % by == 0 else 1 for side, by in zip(left, step, strict=True))
        if max(own) == 1:
            break
        found.append(own)
        left = [side // by for side, by in zip(left, own, strict=True)]
    return tuple(found) or ((1,) * len(patch),)


def _at_spacing(facts: Fingerprint, given: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint as the images are at a spacing set by hand."""
    spacing = given.get("spacing_mm")
    if spacing is None or facts.spacing_mm is None:
        return facts
    shape = np.round(np.array(facts.shape) * np.array(facts.spacing_mm) / np.array(spacing))
    if shape.prod() > MOST_VOXELS:
        raise ConfigError(
            "prepare.spacing_mm makes the images too large", got=rules.times(tuple(int(side) for side in shape)),
            expected=f"at most {MOST_VOXELS} voxels", remedy="a larger spacing",
        )  # fmt: skip
    return replace(facts, spacing_mm=tuple(spacing), shape=tuple(int(side) for side in np.maximum(1, shape)))


def _patch(shape: np.ndarray[Any, Any], spacing: np.ndarray[Any, Any], voxels: int) -> tuple[int, ...]:
    """The largest box of about the given voxels inside the image, its edges as equal in mm as the image allows."""
    side = (voxels * spacing.prod()) ** (1 / len(shape))
    low, high = 0.0, float((shape * spacing).max())
    for _ in range(60):  # the common edge at which what does not fit the image on one axis is spent on the others
        side = (low + high) / 2
        patch = np.minimum(shape, side / spacing)
        if patch.prod() > voxels:
            high = side
        else:
            low = side
    return tuple(int(v) for v in np.maximum(8, np.floor(np.minimum(shape, low / spacing) + 1e-6)))


def _with_intensity(prepare: PrepareSection, facts: Fingerprint) -> tuple[PrepareSection, dict[str, str]]:
    plain, reasons = rules.prepare_section(facts)
    told = {"prepare.intensity": reasons["prepare.intensity"]}
    return prepare.model_copy(update={"intensity": plain.intensity}), told


def _batch(shape: tuple[int, ...], by: Slicing) -> int:
    """Patches a step: few large ones, more small ones; of slices, as many as make a batch of pictures."""
    voxels = math.prod(shape)
    if len(shape) == 2:
        return 8 if voxels > 128**2 else 16
    if by.slices and by.axis is not None:
        depth = shape[by.axis]
        return max(2, _batch((voxels // depth, 1), Slicing()) // depth)
    return 4 if voxels > 32**3 else 8


def arranged(run: Run, step_s: float, facts: Fingerprint, left_s: float | None, folds: int | None) -> rules.Arrangement:
    """How the time left is spent at the measured speed: all folds first, then epochs."""
    patches = run.task.patches if isinstance(run.task, SegmentSection) else 1
    cases = facts.training * patches
    return rules.arrange(step_s, run.fit.batch_size, cases, left_s, folds, rules.Enough(GOOD_STEPS, 20, 1000, rounds=1))


def settled(run: Run, spent: rules.Arrangement, facts: Fingerprint, name: str, folds: int | None) -> Run:
    """The run with its epochs, members and folds."""
    update = {
        "epochs": spent.epochs,
        "warmup_epochs": max(1.0, round(spent.epochs * 0.05, 1)),
        "select": "last",
        "validate_every": max(1, spent.epochs // 8),
    }
    reasons = {**run.reasons, "fit.epochs": spent.reason}
    reasons["fit.select"] = "the averaged weights of the last epoch are kept; validation shows the way there"
    reasons["ensemble.folds"] = rules.folds_in_words(spent, folds is not None)
    ensemble = EnsembleSection(folds=spent.folds, members=spent.members)
    return run.model_copy(update={"fit": run.fit.model_copy(update=update), "ensemble": ensemble, "reasons": reasons})
