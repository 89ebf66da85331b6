"""Image → boxes: where each finding is and how sure, learned from boxes, answered through windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medmap.config import Section
from medmap.errors import DatasetError
from medmap.geometry import Geometry
from medmap.metrics.average_precision import average_precisions
from medmap.metrics.boxes import match_boxes
from medmap.metrics.inputs import Patients
from medmap.results import Boxes, Label
from medmap.tasks.box_reading import Found, Reading, decided, listed, true_boxes
from medmap.tasks.box_targets import assigned, decoded, generalised_overlap, sampled
from medmap.tasks.protocol import Batch, Examples, Forward, Selection, Tensors

if TYPE_CHECKING:
    import torch

    from medmap.dataset import Case, Dataset
    from medmap.networks import NetworkSpec

SEEN = 0.5  # part of a box that a patch must hold to be learned from; what holds less teaches nothing there
GLIMPSED = 0.1  # part below which it is not there at all
RIGHT = {2: 0.5, 3: 0.1}  # IoU from which a box is right while epochs and engines are compared
SECOND_OF_AN_IMAGE = 48  # proposals of an image that the second stage learns from
SECOND_WEIGHT = 2.0
HARDEST_AT_LEAST, HARDEST_A_FINDING = 16, 3  # places without a finding that teach, where only the hardest do


class DetectSection(Section):
    """How the mapping image → boxes is learned; ``task:`` of run.yaml.

    Args:
        kind: detect.
        focal_gamma: How much the loss of classes turns away from places that are easy (Lin et al. 2017).
        focal_alpha: Share of places with a finding in the focal loss of ``retinanet``.
        negatives: ``all`` places without a finding teach, easy ones by the focal loss hardly anything; ``hardest``: of
            each image only the surest wrong ones do, three for each place with a finding, 16 at least, all with the
            same weight (hard-negative mining; Shrivastava et al. 2016, https://arxiv.org/abs/1604.03540).
        box: Weight of the loss of boxes (generalised IoU) beside that of classes.
        foreground: Share of patches that are drawn around a box, each class as often as another.
        patches: Patches of each case in an epoch.
        overlap: Share of a window's side that the next one looks at again.
        most_overlap: IoU from which of two boxes of one class the less sure one is dropped.
        fuse: IoU from which boxes of several networks or views are one finding.
        views: Whether an image is looked at mirrored, too, along the axes that training mirrored.
    """

    kind: Literal["detect"] = "detect"
    focal_gamma: float = Field(default=2.0, ge=0, le=10)
    focal_alpha: float = Field(default=0.25, gt=0, lt=1)
    negatives: Literal["all", "hardest"] = "all"
    box: float = Field(default=2.0, ge=0)
    foreground: float = Field(default=0.7, ge=0, le=1)
    patches: int = Field(default=1, ge=1, le=10_000)
    overlap: float = Field(default=0.3, ge=0, lt=0.9)
    most_overlap: float = Field(default=0.5, gt=0, lt=1)
    fuse: float = Field(default=0.4, gt=0, lt=1)
    views: bool = True


@dataclass(frozen=True, eq=False)
class Detect:
    """The task; ``make`` builds it from a dataset.

    A truth is (boxes, 2·ndim + 1 + classes) float32: edges in voxels (voxel ``i`` reaches from ``i`` to ``i + 1``),
    a state (1 there, 0 padding, −1 neither to be found nor wrong), and 1 for each class that it has.

    Args:
        section: Loss, sampling and windows.
        labels: The classes.
        spec: The network, whose places answer.
        known: Case → the classes that were looked at, for cases where that is not all of them.
    """

    section: DetectSection
    labels: tuple[Label, ...]
    spec: NetworkSpec
    known: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    moves: Literal["boxes"] = "boxes"

    @property
    def outputs(self) -> int:
        """One number a class, for each place."""
        return len(self.labels)

    @property
    def patch(self) -> tuple[int, ...]:
        """Voxels along each axis of what the network sees."""
        return self.spec.input_shape

    @property
    def _ndim(self) -> int:
        return self.spec.dimensions

    @cached_property
    def _priors(self) -> NDArray[np.float32]:
        from medmap.networks import priors

        return priors(self.spec)

    @cached_property
    def _places(self) -> tuple[int, ...]:
        from medmap.networks import places_per_map

        return places_per_map(self.spec)

    @property
    def _anchored(self) -> bool:
        return not self.spec.name.startswith("fcos")

    @property
    def _two_stage(self) -> bool:
        """Whether places only propose, and the answer is boxes already."""
        return self.spec.two_stage

    @cached_property
    def reading(self) -> Reading:
        """How the network's answers are read."""
        how = self.section
        return Reading(
            self._priors,
            self.patch,
            self.outputs,
            self._anchored,
            self._two_stage,
            how.overlap,
            how.most_overlap,
            how.fuse,
        )

    @property
    def _each(self) -> int:
        return max(1, len(self.spec.anchors[0])) if self._anchored and self.spec.anchors else 1

    def network(self, name: str, **options: Any) -> torch.nn.Module:
        """An untrained network; ``options`` are the other fields of ``NetworkSpec``."""
        from medmap.networks import NetworkSpec, build

        seed = options.pop("seed", 0)
        return build(NetworkSpec(name=name, outputs=self.outputs, **{**options, "boxes": True}), seed=seed)

    def draw(self, tensors: Tensors, rng: np.random.Generator) -> Tensors:
        """A patch: around a box of some class for ``foreground`` of them, else anywhere."""
        image, boxes = tensors["image"], np.asarray(tensors["boxes"], dtype=np.float32)
        n, sides = self._ndim, np.array(self.patch)
        shape = np.array(image.shape[-n:])
        room = np.maximum(shape - sides, 0)
        start = np.array([int(rng.integers(extra + 1)) for extra in room])
        there = boxes[boxes[:, 2 * n] > 0]
        if len(there) and rng.random() < self.section.foreground:
            classes = np.flatnonzero(there[:, 2 * n + 1 :].any(0))
            mine = there[there[:, 2 * n + 1 + int(rng.choice(classes))] > 0]
            low, high = np.split(mine[int(rng.integers(len(mine)))][: 2 * n], 2)
            ends = np.sort(np.stack([np.floor(high - sides), np.floor(low)]), axis=0).astype(int)
            start = np.clip([int(rng.integers(a, b + 1)) for a, b in ends.T], 0, room)
        part = np.asarray(image[(slice(None), *(slice(a, a + b) for a, b in zip(start, sides, strict=True)))])
        around = [(0, 0), *((0, int(b - have)) for b, have in zip(sides, part.shape[1:], strict=True))]
        if any(after for _, after in around):
            part = np.pad(part, around, constant_values=part.min())
        return {"image": part, "boxes": within(boxes, start, sides)}

    def collate(self, examples: Sequence[Tensors], cases: Sequence[Case]) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, channels, spatial …) images and (batch, boxes, 2·ndim + 1 + classes) truths, padded to one number."""
        import torch

        images = torch.from_numpy(np.stack([e["image"] for e in examples]).astype(np.float32))
        most = max([1, *(len(e["boxes"]) for e in examples)])
        truth = np.zeros((len(examples), most, 2 * self._ndim + 1 + self.outputs), dtype=np.float32)
        for row, example in zip(truth, examples, strict=True):
            row[: len(example["boxes"])] = example["boxes"]
        return images, torch.from_numpy(truth)

    def cut(self, truth: torch.Tensor) -> torch.Tensor:
        """Truths of a batch after their images moved: cut at the edge, spared where half of one is gone."""
        import torch

        rows = truth.numpy()
        kept = [cut(row[row[:, 2 * self._ndim] != 0], np.array(self.patch)) for row in rows]
        packed = np.zeros((len(rows), max([1, *map(len, kept)]), rows.shape[2]), dtype=np.float32)
        for row, mine in zip(packed, kept, strict=True):
            row[: len(mine)] = mine
        return torch.from_numpy(packed)

    def pretended(self, images: torch.Tensor) -> torch.Tensor:
        """One box of every class in the middle of each image."""
        import torch

        sides = torch.tensor(self.patch, dtype=torch.float32)
        row = torch.cat([sides * 0.4, sides * 0.6, torch.ones(1 + self.outputs)])
        boxes: torch.Tensor = row.repeat(len(images), 1, 1)
        return boxes

    def examples(self, store: Examples, rows: Sequence[int], seed: int) -> tuple[NDArray[np.float32], list[Any]]:
        """(rows, channels, patch …) patches drawn from prepared cases, and the boxes in each."""
        drawn = [self.draw(store[row], np.random.default_rng([seed, row])) for row in rows]
        images = np.stack([np.asarray(one["image"], dtype=np.float32) for one in drawn])
        return images, [one["boxes"] for one in drawn]

    # -- learning ------------------------------------------------------------------------------------------------

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Classes of every place, and boxes of the places that answer for a truth, a place at a time."""
        if not self._two_stage:
            return self._of_places(net(batch.images).float(), batch, self.outputs)
        two: Any = net
        maps = two.maps(batch.images)
        answers = two.heads(maps).float()
        return self._of_places(answers, batch, 1) + self._of_proposals(two, maps, answers, batch)

    def _of_places(self, numbers: torch.Tensor, batch: Batch, classes: int) -> torch.Tensor:
        """The loss of a dense answer; of one class where places only propose."""
        import torch

        n = self._ndim
        places = torch.from_numpy(self._priors).to(numbers.device)
        boxes = decoded(numbers[..., classes:], places, self._anchored)
        total, count = numbers.new_zeros(()), 0
        for row, (truth, case) in enumerate(zip(batch.truth.float(), batch.cases, strict=True)):
            there = (
                truth
                if classes == self.outputs
                else torch.cat([truth[:, : 2 * n + 1], truth[:, 2 * n : 2 * n + 1].abs()], 1)
            )
            loss, positives = self._of_image(numbers[row, :, :classes], boxes[row], there, places, self.known.get(case))
            total, count = total + loss, count + positives
        mean: torch.Tensor = total / max(1, count)
        return mean

    def _of_proposals(self, net: Any, maps: Any, answers: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of the second stage: what each of some proposals is, and where its box really lies."""
        import torch
        from torch.nn import functional

        from medmap.networks.two_stage import moved

        n, width = self._ndim, 2 * self._ndim + 1
        boxes, sure = net.proposed(answers)
        chosen, goals, weights = [], [], []
        for row, (truth, case) in enumerate(zip(batch.truth.float(), batch.cases, strict=True)):
            there, spared = truth[truth[:, 2 * n] > 0], truth[truth[:, 2 * n] < 0]
            found = torch.cat([there[:, : 2 * n], boxes[row][sure[row]]])
            one, goal, weight = sampled(found, there, spared, SECOND_OF_AN_IMAGE)
            if case in self.known:
                weight[:, [c for c in range(self.outputs) if c not in self.known[case]]] = 0
            chosen.append(one)
            goals.append(goal)
            weights.append(weight)
        goal, weight, rois = torch.cat(goals), torch.cat(weights), torch.stack(chosen)
        numbers = net.second(net.regions(maps, rois)).float()
        plain = functional.binary_cross_entropy_with_logits(
            numbers[:, : self.outputs], goal[:, width:], reduction="none"
        )
        real = goal[:, width:].any(1)
        loss = (plain * weight).sum() / max(1, int((weight > 0).any(1).sum()))
        if real.any():
            edges = moved(rois.flatten(0, 1)[real], numbers[real, self.outputs :])
            _, generalised = generalised_overlap(edges, goal[real, : 2 * n])
            loss = loss + self.section.box * (1 - generalised).sum() / max(1, len(real))
        total: torch.Tensor = loss * SECOND_WEIGHT
        return total

    def _of_image(
        self,
        logits: torch.Tensor,
        told: torch.Tensor,
        truth: torch.Tensor,
        places: torch.Tensor,
        known: tuple[int, ...] | None,
    ) -> tuple[torch.Tensor, int]:
        """The summed loss of one image, and how many places answer for something."""
        import torch

        n = self._ndim
        there, spared = truth[truth[:, 2 * n] > 0], truth[truth[:, 2 * n] < 0]
        which = assigned(there[:, : 2 * n], places, self._places, self._each)
        mine = (which >= 0).nonzero()[:, 0]
        target = torch.zeros_like(logits)
        loss = logits.new_zeros(())
        if len(mine):
            goal = there[which[mine]]
            iou, generalised = generalised_overlap(told[mine], goal[:, : 2 * n])
            loss = loss + self.section.box * (1 - generalised).sum()
            # an anchor's class is there or not; a place is the surer the better its box (Li et al. 2020), and sure by
            # half from the start: of small boxes in volumes the first overlaps are next to nothing
            sure = torch.ones_like(iou) if self._anchored else 0.5 + iou.detach().clamp(0, 1) / 2
            target[mine] = goal[:, 2 * n + 1 :] * sure[:, None]
        weight = logits.new_ones(logits.shape)
        if len(spared):
            centres = places[:, None, :n]
            inside = ((centres > spared[None, :, :n]) & (centres < spared[None, :, n : 2 * n])).all(-1).any(1)
            weight[inside & (which < 0)] = 0
        unseen = [c for c in range(self.outputs) if known is not None and c not in known]
        if self._two_stage and unseen:
            weight[which < 0] = 0  # what is proposed there may be of a class that nobody looked for
        elif unseen:
            weight[:, unseen] = 0
        return loss + self._of_classes(logits, target, weight), len(mine)

    def _of_classes(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Focal loss (Lin et al. 2017) of anchors; of places its form for targets between 0 and 1 (Li et al. 2020)."""
        import torch
        from torch.nn import functional

        plain = functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
        if self.section.negatives == "hardest":
            real = target > 0
            wrong = plain[~real]
            count = max(HARDEST_AT_LEAST, HARDEST_A_FINDING * int(real.any(1).sum()))
            hardest: torch.Tensor = plain[real].sum() + wrong.topk(min(count, len(wrong))).values.sum()
            return hardest
        loss = plain * (target - torch.sigmoid(logits)).abs() ** self.section.focal_gamma
        if self._anchored:
            alpha = self.section.focal_alpha
            loss = loss * (alpha * target + (1 - alpha) * (1 - target)) * 2
        return loss.sum()

    def sampling_weights(self, cases: Sequence[Case]) -> None:
        """Every case comes once an epoch; classes are balanced by where patches are drawn."""
        return

    # -- reading the answer ----------------------------------------------------------------------------------------

    def answers(
        self, forward: Forward, store: Examples, rows: Sequence[int]
    ) -> list[tuple[Found, NDArray[np.float32]]]:
        """For each case the boxes found and the true ones, both on the prepared grid."""
        found = []
        for row in rows:
            tensors = store[row]
            image = np.asarray(tensors["image"], dtype=np.float32)
            found.append((self.reading.found(forward, image), np.asarray(tensors["boxes"], dtype=np.float32)))
        return found

    def score(self, answers: list[tuple[Found, NDArray[np.float32]]], cases: Sequence[Case]) -> Selection:
        """What "best by validation" goes by: AP50 in pictures, AP10 in volumes (as nnDetection), mean over classes.

        Boxes of a class that a case was not looked at for are neither right nor wrong.
        """
        each = [_of_known(one, case) for (one, _), case in zip(answers, cases, strict=True)]
        found = listed(each, self._ndim)
        true = true_boxes([truth for _, truth in answers], self._ndim)
        patients = Patients.of([case.patient for case in cases], len(cases))
        least = RIGHT[self._ndim]
        values = average_precisions(match_boxes(found, true, (least,)), self.outputs, patients).values[0]
        known = values[np.isfinite(values)]
        value = float(known.mean()) if len(known) else 0.0
        return Selection(f"ap{100 * least:.0f}", value, value)

    def decode(self, logits: NDArray[np.float32], **options: Any) -> Boxes:
        """One window's boxes from (places, numbers) or (members, places, numbers).

        Args:
            logits: The network's answer.
            options: ``geometry``: the grid; without it one without a size. ``decision``: calibrates and calls.
        """
        geometry = options.get("geometry") or Geometry.without_size(self.patch)
        return decided(self.boxes(self.reading.of_patch(logits), geometry), options.get("decision"))

    def boxes(self, one: Found, geometry: Geometry) -> Boxes:
        """Boxes on a grid as a result, their scores as the network gives them."""
        return Boxes(one.corners, one.labels, one.scores, self.labels, geometry)

    def supports(self, dimensions: int, channels: int) -> str | None:
        """Pictures and volumes of any channel count."""
        return None if dimensions in (2, 3) else f"images of {dimensions} dimensions"


def _of_known(one: Found, case: Case) -> Found:
    if case.truth.known is None:
        return one
    kept = np.isin(one.labels, case.truth.known)
    return Found(one.corners[kept], one.scores[kept], one.labels[kept])


def within(boxes: NDArray[np.float32], start: NDArray[Any], sides: NDArray[Any]) -> NDArray[np.float32]:
    """Boxes as a patch holds them: moved, cut at its edge; what it holds only a part of is spared, or left out.

    Args:
        boxes: (n, 2·ndim + 1 + classes), as ``Detect`` says.
        start: First voxel of the patch along each axis.
        sides: Voxels of the patch along each axis.
    """
    n = len(sides)
    moved = boxes.copy()
    moved[:, : 2 * n] -= np.tile(start, 2)
    return cut(moved, sides)


def cut(boxes: NDArray[np.float32], sides: NDArray[Any]) -> NDArray[np.float32]:
    """Boxes cut at the edges of an image whose first voxel is 0; see ``within``."""
    n = len(sides)
    low, high = boxes[:, :n], boxes[:, n : 2 * n]
    size = np.maximum(high - low, 1e-6).prod(1)
    inner = np.concatenate([np.clip(low, 0, sides), np.clip(high, 0, sides)], axis=1)
    share = np.maximum(inner[:, n:] - inner[:, :n], 0).prod(1) / size
    result = boxes.copy()
    result[:, : 2 * n] = inner
    result[share < SEEN, 2 * n] = -np.abs(result[share < SEEN, 2 * n])
    kept: NDArray[np.float32] = result[share >= GLIMPSED]
    return kept


def make(
    section: DetectSection, dataset: Dataset, patch: Sequence[int] = (), network: Mapping[str, Any] | None = None
) -> Detect:
    """The task for a dataset (give the training cases).

    Args:
        section: ``task:`` of run.yaml.
        dataset: Cases with boxes.
        patch: Voxels along each axis of what the network sees.
        network: ``name`` and the other fields of ``NetworkSpec`` but ``outputs``; None for ``fcos``.

    Raises:
        DatasetError: No class, or no case that was looked at for boxes.
    """
    from medmap.networks import NetworkSpec

    if not dataset.labels:
        raise DatasetError(f"{dataset.name} names no class", remedy="name them in dataset.yaml, labels: {0: nodule}")
    if not any(case.truth.boxes for case in dataset):
        raise DatasetError(f"no case of {dataset.name} has a box", remedy="give boxes in cases.csv; check shows how")
    plain = {"name": "fcos", "dimensions": len(patch), "in_channels": 1, "input_shape": tuple(patch)}
    spec = NetworkSpec(**{**plain, **(network or {}), "outputs": len(dataset.labels), "boxes": True})
    known = {case.id: case.truth.known for case in dataset if case.truth.known is not None}
    return Detect(section, dataset.labels, spec, known)
