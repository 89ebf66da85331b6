"""From prepared cases to batches: drawn by seed, augmented, each batch knowing its cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medmap import augment
from medmap.errors import ConfigError
from medmap.feed.patches import PatchStore
from medmap.feed.whole import Store
from medmap.tasks.protocol import Batch, Task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Feed:
    """Batches of a store's cases, the same ones for the same (seed, epoch), whatever was drawn before.

    Args:
        store: Prepared cases, whole or with their masks.
        indices: Rows that take part.
        task: Says what one example is and how examples become a batch.
        batch_size: Images a batch.
        seed: With the epoch and the row it decides every draw.
        section: What may happen to an image.
        weights: Chance of each index to be drawn (balanced sampling), or None for each once an epoch.
        repeats: Examples of each case in an epoch.
    """

    store: Store | PatchStore
    indices: NDArray[np.intp]
    task: Task
    batch_size: int
    seed: int
    section: augment.AugmentSection
    weights: NDArray[np.float64] | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.section.mixup and self.task.moves in ("voxels", "boxes"):
            raise ConfigError(
                "images whose masks or boxes are learned are not mixed",
                got=f"augment.mixup {self.section.mixup:g}",
                expected="0",
                remedy="set augment.mixup to 0; boxes have augment.mosaic",
            )

    @property
    def steps(self) -> int:
        """Batches an epoch; a last batch of one image is left out (batch normalisation needs two)."""
        full, rest = divmod(len(self.indices) * self.repeats, self.batch_size)
        return max(1, full + (rest > 1))

    def order(self, epoch: int) -> NDArray[np.intp]:
        """The examples of an epoch in the order they are learned from: row + (which repeat) · (rows of the store)."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.weights is None:
            every = self.indices[None] + len(self.store) * np.arange(self.repeats)[:, None]
            return rng.permutation(every.ravel())
        chance = self.weights / self.weights.sum()
        return rng.choice(self.indices, len(self.indices) * self.repeats, replace=True, p=chance)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        order = self.order(number)
        for step in range(self.steps):
            yield self.batch(order[step * self.batch_size : (step + 1) * self.batch_size], number, step)

    def batch(self, examples: NDArray[np.intp], epoch: int, step: int) -> Batch:
        """One augmented batch: every draw depends on (seed, epoch, example) alone, mixup on (seed, epoch, step)."""
        import torch

        generators = [np.random.default_rng([self.seed, epoch, int(example)]) for example in examples]
        rows = examples % len(self.store)
        cases = [self.store.cases[int(row)] for row in rows]
        made = [self.task.draw(self.store[int(row)], rng) for row, rng in zip(rows, generators, strict=True)]
        images, truth = self.task.collate(made, cases)
        drawn = [augment.draw(self.section, rng, images.ndim - 2) for rng in generators]
        if self.task.moves == "voxels":
            images, truth = augment.apply_with_truth(images, truth, drawn)
        elif self.task.moves == "boxes":
            images, truth = augment.apply_with_boxes(images, truth, drawn)
            if self.section.mosaic:
                chosen = np.random.default_rng([self.seed, epoch, step, 2])
                looked = [case.truth.known for case in cases]  # not looked at is not the same as none
                images, truth = augment.mosaic(images, truth, self.section.mosaic, chosen, looked)
            truth = self.task.cut(truth)
        else:
            images = augment.apply(images, drawn)
        names = tuple(case.id for case in cases)
        weight = augment.mixup_weights(self.section, np.random.default_rng([self.seed, epoch, step, 1]), len(rows))
        if weight is None:
            return Batch(images, truth, names)
        own = torch.from_numpy(weight)
        share = own.reshape(-1, *[1] * (images.ndim - 1))
        return Batch(share * images + (1 - share) * images.roll(1, 0), truth, names, own)


def plain_batches(store: Store, indices: Sequence[int] | NDArray[np.intp], batch_size: int) -> Iterator[torch.Tensor]:
    """Images without augmentation, in order, for prediction."""
    import torch

    for start in range(0, len(indices), batch_size):
        yield torch.from_numpy(store.take(indices[start : start + batch_size]))
