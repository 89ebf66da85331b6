"""Image → mask: a label for every pixel or voxel, learned from patches, answered through windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medmap.config import Section
from medmap.errors import DatasetError
from medmap.geometry import Geometry, Trace
from medmap.results import Label, Mask, ScoreKind
from medmap.runtime import Box, Windows, slide
from medmap.tasks.mask_losses import boundary_loss, centre_line_loss, class_terms, region_terms, tversky_loss
from medmap.tasks.protocol import IGNORED, Batch, Examples, Forward, Selection, Tensors
from medmap.tasks.structures import Structures

if TYPE_CHECKING:
    import torch

    from medmap.dataset import Case, Dataset

SCORING_OVERLAP = 0.25  # part of a window that the next one shares while epochs are compared
WINDOWS_AT_ONCE = 2


class SegmentSection(Section):
    """How the mapping image → mask is learned; ``task:`` of run.yaml.

    Args:
        kind: segment.
        dice: Weight of the soft Dice loss (Milletari et al. 2016; over the batch, the foreground alone).
        cross_entropy: Weight of the cross-entropy.
        focal_gamma: How much the cross-entropy turns away from easy voxels (Lin et al. 2017); 0 is plain.
        tversky_beta: Weight of missed against invented voxels in the Dice term: 0.5 is Dice, above it misses count
            more (Salehi et al. 2017).
        boundary: Weight of the distance between boundaries (Kervadec et al. 2019), beside Dice for small structures.
        cldice: Weight of soft clDice (Shit et al. 2021): whether vessels, airways, nerves hold together.
        cldice_iterations: About half the diameter of the thickest tube, in voxels.
        foreground: Share of patches that are drawn around a voxel of a class, each class as often as another.
        patches: Patches of each case in an epoch.
        deep_supervision: Whether lower stages of the network learn too, each half as much as the one above.
        overlap: Share of a window's side that the next one looks at again.
        around_mm: With a coarse network (``coarse:``), how far around what it finds this one looks, mm.
    """

    kind: Literal["segment"] = "segment"
    dice: float = Field(default=1.0, ge=0)
    cross_entropy: float = Field(default=1.0, ge=0)
    focal_gamma: float = Field(default=0.0, ge=0, le=10)
    tversky_beta: float = Field(default=0.5, gt=0, lt=1)
    boundary: float = Field(default=0.0, ge=0)
    cldice: float = Field(default=0.0, ge=0)
    cldice_iterations: int = Field(default=3, ge=1, le=50)
    foreground: float = Field(default=0.5, ge=0, le=1)
    patches: int = Field(default=1, ge=1, le=10_000)
    deep_supervision: bool = True
    overlap: float = Field(default=0.5, ge=0, lt=0.9)
    around_mm: float = Field(default=20.0, ge=0, le=1000)


@dataclass(frozen=True)
class Looking:
    """How one case is looked at.

    Args:
        windows: How it is covered; None: as the task's section says.
        inside: (first, after last) voxel along each axis of the prepared image beyond which nothing is; None: all.
        uncertainty: Whether the uncertainty of each voxel is wanted.
        told: Called with windows done and windows in all.
    """

    windows: Windows | None = None
    inside: Box | None = None
    uncertainty: bool = False
    told: Callable[[int, int], None] | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen in one case.

    Args:
        mask: On the case's own grid: a map of labels, or a bool channel a region.
        expected_dice: Mean expected Dice of the structures by the probabilities; None where no structure is there.
        uncertainty: Likewise on its own grid, 0 sure to 1: entropy, where it was wanted.
    """

    mask: NDArray[Any]
    expected_dice: float | None
    uncertainty: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Segment:
    """The task; ``make`` builds it from a dataset.

    Args:
        section: Loss and sampling.
        labels: The classes in the order of the values of a mask, 0 the background; of regions, those.
        patch: Voxels along each axis of what the network sees.
        known: Case → the values that were looked at, for cases where that is not all of them.
        regions: Region → the values of a true mask that belong to it, where structures overlap: one output a region,
            each for itself.
    """

    section: SegmentSection
    labels: tuple[Label, ...]
    patch: tuple[int, ...]
    known: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    moves: Literal["voxels"] = "voxels"

    @property
    def outputs(self) -> int:
        """One a class, the background's among them; or one a region."""
        return len(self.labels)

    @property
    def kind(self) -> ScoreKind | None:
        """``multilabel`` where a voxel may be of several regions."""
        return "multilabel" if self.regions else None

    @cached_property
    def structures(self) -> Structures:
        """What the outputs stand for."""
        return Structures(self.labels, self.regions)

    def network(self, name: str, **options: Any) -> torch.nn.Module:
        """An untrained network; ``options`` are the other fields of ``NetworkSpec``."""
        from medmap.networks import NetworkSpec, build

        seed = options.pop("seed", 0)
        return build(NetworkSpec(name=name, outputs=self.outputs, **{**options, "dense": True}), seed=seed)

    def draw(self, tensors: Tensors, rng: np.random.Generator) -> Tensors:
        """A patch: around a voxel of some class for ``foreground`` of them, else anywhere, or anywhere ``inside``."""
        image, truth = tensors["image"], tensors["truth"]
        shape = np.array(truth.shape)
        classes = sorted(name for name in tensors if name.startswith("places_") and len(tensors[name]))
        room = shape - np.array(self.patch)
        if classes and rng.random() < self.section.foreground:
            places = tensors[classes[int(rng.integers(len(classes)))]]
            centre = places[int(rng.integers(len(places)))]
            # anywhere such that the voxel is inside, so that structures are seen at every place of a patch
            start = centre - np.array([int(rng.integers(side)) for side in self.patch])
        else:
            first, after = np.array(tensors["inside"]).T if "inside" in tensors else (np.zeros_like(shape), shape)
            free = after - first - np.array(self.patch)  # below 0 the patch may lie as far around it
            start = first + np.array([int(rng.integers(min(extra, 0), max(1, extra + 1))) for extra in free])
        start = np.where(room > 0, np.clip(start, 0, np.maximum(room, 0)), room // 2)  # a small image in the middle
        return {
            "image": patch_of(image, start, self.patch),
            "truth": patch_of(truth, start, self.patch, 0),
        }

    def collate(self, examples: Sequence[Tensors], cases: Sequence[Case]) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, channels, spatial …) images and (batch, spatial …) label maps."""
        import torch

        images = torch.from_numpy(np.stack([e["image"] for e in examples]).astype(np.float32))
        return images, torch.from_numpy(np.stack([e["truth"] for e in examples]).astype(np.int16))

    def examples(
        self, store: Examples, rows: Sequence[int], seed: int
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """(rows, channels, patch …) patches drawn from prepared cases, and (rows, patch …) their truth.

        Of regions the truth is (rows, regions, patch …) 0 or 1, 255 where it is ignored or was not looked at.
        """
        drawn = [self.draw(store[row], np.random.default_rng([seed, row])) for row in rows]
        images = np.stack([np.asarray(one["image"], dtype=np.float32) for one in drawn])
        truths = [np.asarray(one["truth"], dtype=np.uint8) for one in drawn]
        if self.regions:
            truths = [self._by_region(t, store.cases[row].id) for t, row in zip(truths, rows, strict=True)]
        return images, np.stack(truths)

    def _by_region(self, truth: NDArray[np.uint8], case: str) -> NDArray[np.uint8]:
        there = np.stack([self.structures.true(truth, n) for n in self.structures.named]).astype(np.uint8)
        there[:, truth == IGNORED] = IGNORED
        looked = self.structures.looked_at(self.known.get(case))
        there[[n - 1 for n in self.structures.named if n not in looked]] = IGNORED
        return there

    def pretended(self, images: torch.Tensor) -> torch.Tensor:
        """Stripes of all values that a mask may have."""
        import torch

        stripes = torch.arange(images.shape[-1], dtype=torch.int16) % self.structures.true_values
        return stripes.expand(len(images), *images.shape[2:]).contiguous()

    # -- learning ------------------------------------------------------------------------------------------------

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The losses asked for, of every stage that answers; ignored voxels and classes not looked at take no part."""
        import torch

        answers = net(batch.images)
        stages = list(answers) if isinstance(answers, list | tuple) else [answers]
        stages = stages if self.section.deep_supervision else stages[:1]
        weights = [0.5**depth for depth in range(len(stages))]
        total = torch.zeros((), device=batch.images.device)
        for stage, (weight, logits) in enumerate(zip(weights, stages, strict=True)):
            truth = _at_resolution(batch.truth, logits.shape[2:])
            loss = self._stage(logits.float(), truth, batch.cases, whole=not stage)
            total = total + weight / sum(weights) * loss
        return total

    def _stage(self, logits: torch.Tensor, truth: torch.Tensor, cases: Sequence[str], whole: bool) -> torch.Tensor:
        """The loss of one stage; boundaries and centre lines exist at full resolution (``whole``) alone."""
        import torch

        section = self.section
        counted = truth != IGNORED
        target = torch.where(counted, truth, 0).long()
        weight = self._counting(counted, cases).to(logits.dtype)
        chance, there, terms = (self._regions if self.regions else self._classes)(logits, target, cases)
        total = logits.new_zeros(())
        if section.cross_entropy:
            each = weight.expand_as(terms) if self.regions else counted
            total = total + section.cross_entropy * (terms * each).sum() / each.sum().clamp_min(1)
        if section.dice:
            total = total + section.dice * tversky_loss(chance, there, weight, section.tversky_beta)
        if section.boundary and whole:
            total = total + section.boundary * boundary_loss(chance, there, weight)
        if section.cldice and whole:
            total = total + section.cldice * centre_line_loss(chance, there, weight, section.cldice_iterations)
        return total

    def _classes(self, logits: torch.Tensor, target: torch.Tensor, cases: Sequence[str]) -> tuple[torch.Tensor, ...]:
        """Of structures that exclude each other: their chances, where they are, and each voxel's cross-entropy."""
        from torch.nn import functional

        log_chance = self._log_chance(logits, cases)
        chance = log_chance[:, 1:].exp()
        there = functional.one_hot(target, self.outputs).movedim(-1, 1)[:, 1:].to(chance.dtype)
        return chance, there, class_terms(log_chance, target, self.section.focal_gamma)

    def _regions(self, logits: torch.Tensor, target: torch.Tensor, cases: Sequence[str]) -> tuple[torch.Tensor, ...]:
        """The same of regions, each for itself."""
        there = self.structures.membership(target).to(logits.dtype)
        return logits.sigmoid(), there, region_terms(logits, there, self.section.focal_gamma)

    def _counting(self, counted: torch.Tensor, cases: Sequence[str]) -> torch.Tensor:
        """(batch, structures, spatial …) or the like with one structure: 0 where a voxel says nothing about one."""
        import torch

        if not any(case in self.known for case in cases):
            return counted[:, None]
        looked_at = [self.structures.looked_at(self.known.get(case)) for case in cases]
        looked = [[float(number in some) for number in self.structures.named] for some in looked_at]
        seen = torch.tensor(looked, device=counted.device)
        return counted[:, None] * seen.reshape(*seen.shape, *[1] * (counted.ndim - 1))

    def _log_chance(self, logits: torch.Tensor, cases: Sequence[str]) -> torch.Tensor:
        """Log probabilities; where a class was not looked at its share is the background's, as the truth has it."""
        import torch

        log_chance = torch.log_softmax(logits, 1)
        if not any(case in self.known for case in cases):
            return log_chance
        rows = []
        for row, case in zip(log_chance, cases, strict=True):
            unseen = [c for c in range(1, self.outputs) if c not in self.known.get(case, range(self.outputs))]
            merged = torch.logsumexp(row[[0, *unseen]], dim=0, keepdim=True)
            rows.append(torch.cat([merged, row[1:]]))
        return torch.stack(rows)

    def sampling_weights(self, cases: Sequence[Case]) -> None:
        """Every case comes once an epoch; classes are balanced by where patches are drawn."""
        return

    # -- reading the answer ----------------------------------------------------------------------------------------

    def answers(self, forward: Forward, store: Examples, rows: Sequence[int]) -> NDArray[np.int64]:
        """(rows, outputs, 3) voxels that are hit, missed and invented, on the prepared grid."""
        found = np.zeros((len(rows), self.outputs, 3), dtype=np.int64)
        for number, row in enumerate(rows):
            tensors = store[int(row)]
            image = np.asarray(tensors["image"], dtype=np.float32)
            here = Trace(Geometry.without_size(image.shape[1:]), ())
            how = Looking(self.windows(image, SCORING_OVERLAP), _box(tensors.get("judged_inside")))
            mask = self.labelled(forward, image, here, how)
            found[number] = self._counts(mask, np.asarray(tensors["truth"]), store.cases[int(row)].id)
        return found

    def windows(self, image: NDArray[np.float32], overlap: float | None = None) -> Windows:
        """How a prepared image (channels, spatial …) is covered; ``overlap`` None is the section's."""
        shared = self.section.overlap if overlap is None else overlap
        return Windows(self.patch, shared, WINDOWS_AT_ONCE, fill=float(image.min()))

    def labelled(
        self, network: Forward, image: NDArray[np.float32], trace: Trace, how: Looking | None = None
    ) -> NDArray[Any]:
        """The mask of one case on its own grid: a map of labels, or a bool channel a region.

        Args:
            network: (batch, channels, patch …) to (batch, outputs, patch …).
            image: (channels, spatial …) prepared.
            trace: The way from the case's own grid to that of ``image``.
            how: Windows, and where to look.
        """
        how = how or Looking()
        sink: Any = self.structures.sinks(trace).sinks["mask"]
        found: NDArray[Any] = slide(network, image, how.windows or self.windows(image), sink, inside=how.inside)
        return found

    def seen(self, network: Forward, image: NDArray[np.float32], trace: Trace, how: Looking | None = None) -> Seen:
        """As ``labelled``, with what the probabilities say of the mask, and its uncertainty where ``how`` wants it."""
        how = how or Looking()
        sinks = self.structures.sinks(trace, how.uncertainty)
        windows = how.windows or self.windows(image)
        found = slide(network, image, windows, sinks, inside=how.inside, progress=how.told)
        return Seen(found["mask"], self.structures.expected_dice(found["overlap"].dice), found.get("uncertainty"))

    def _counts(self, mask: NDArray[Any], truth: NDArray[np.uint8], case: str) -> NDArray[np.int64]:
        counted, counts = truth != IGNORED, np.zeros((self.outputs, 3), dtype=np.int64)
        offset = 0 if self.regions else 1
        for number in self.structures.looked_at(self.known.get(case)):
            real = self.structures.true(truth, number) & counted
            found = self.structures.one(mask, number) & counted
            hit = np.count_nonzero(real & found)
            counts[number - 1 + offset] = hit, np.count_nonzero(real) - hit, np.count_nonzero(found) - hit
        return counts

    def score(self, answers: NDArray[np.int64], cases: Sequence[Case]) -> Selection:
        """What "best by validation" goes by: mean Dice over cases and structures there or found."""
        hit, missed, invented = np.moveaxis(answers[:, self.structures.channels].astype(np.float64), -1, 0)
        size = 2 * hit + missed + invented
        known = size > 0
        value = float((2 * hit[known] / size[known]).mean()) if known.any() else 0.0
        return Selection("dice", value, value)

    def decode(self, logits: NDArray[Any], **options: Any) -> Mask:
        """One case's mask from (outputs, spatial …) numbers on the grid given.

        Args:
            logits: Summed or averaged over networks and views.
            options: ``geometry``: the grid; without it one without a size.
        """
        scores = np.asarray(logits)
        grid = options.get("geometry") or Geometry.without_size(scores.shape[1:])
        return self.structures.mask(self.structures.decided(scores), grid)

    def supports(self, dimensions: int, channels: int) -> str | None:
        """Pictures and volumes of any channel count."""
        return None if dimensions in (2, 3) else f"images of {dimensions} dimensions"


def patch_of(array: Any, start: Sequence[int], shape: Sequence[int], fill: float | None = None) -> Any:
    """A patch of an array whose last axes are the spatial ones, padded where it reaches beyond them.

    Args:
        array: In memory or on disk; only the patch is read.
        start: Index of the first voxel along each spatial axis; may lie outside.
        shape: Voxels along each axis.
        fill: What lies beyond the array; None for its smallest value in the patch.
    """
    n = len(shape)
    sides = array.shape[-n:]
    low = [max(0, int(s)) for s in start]
    high = [min(side, int(s) + length) for side, s, length in zip(sides, start, shape, strict=True)]
    lead = (slice(None),) * (array.ndim - n)
    part = np.asarray(array[(*lead, *(slice(a, b) for a, b in zip(low, high, strict=True)))])
    before = [a - int(s) for a, s in zip(low, start, strict=True)]
    after = [length - b - (h - a) for length, b, h, a in zip(shape, before, high, low, strict=True)]
    if not any((*before, *after)):
        return part
    around = [(0, 0)] * len(lead) + list(zip(before, after, strict=True))
    return np.pad(part, around, constant_values=part.min() if fill is None else fill)


def _box(inside: NDArray[Any] | None) -> Box | None:
    return None if inside is None else tuple((int(first), int(after)) for first, after in inside)


def voxel_size(geometry: Geometry) -> float:
    """Of a voxel in mm³, of a pixel in mm²; 1 where a grid has no size."""
    return float(np.prod(geometry.spacing_mm)) if geometry.has_size else 1.0


def _at_resolution(truth: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A label map at a lower stage's resolution: the nearest voxel's label."""
    from torch.nn import functional

    if tuple(truth.shape[1:]) == tuple(shape):
        return truth
    return functional.interpolate(truth[:, None].float(), size=tuple(shape), mode="nearest")[:, 0].to(truth.dtype)


def make(
    section: SegmentSection, dataset: Dataset, patch: Sequence[int] = (), network: Mapping[str, Any] | None = None
) -> Segment:
    """The task for a dataset (give the training cases).

    Args:
        section: ``task:`` of run.yaml.
        dataset: Cases with masks.
        patch: Voxels along each axis of what the network sees.
        network: Not asked here.

    Raises:
        DatasetError: No structure, no mask, or a region of values that no structure has.
    """
    if len(dataset.labels) < 2:
        raise DatasetError(
            f"{dataset.name} names no structure",
            got=[label.name for label in dataset.labels],
            remedy="name the values of the masks in dataset.yaml, labels: {0: background, 1: …}; check lists them",
        )
    if not any(case.truth.masks for case in dataset):
        raise DatasetError(f"no case of {dataset.name} has a mask")
    known = {case.id: case.truth.known for case in dataset if case.truth.known is not None}
    structures = Structures.of(dataset)
    return Segment(section, structures.labels, tuple(patch), known, structures.regions)
