"""What a network's numbers for a voxel stand for: one structure of several, or regions that may overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.decision import ComponentRule, Parts, kept_parts, parts_of
from medmap.errors import DatasetError
from medmap.geometry import Geometry, Trace
from medmap.results import Label, Mask
from medmap.runtime import CertaintySink, ExpectedOverlapSink, LabelSink, RegionSink, Several, mean_dice

if TYPE_CHECKING:
    import torch

    from medmap.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Structures:
    """The structures of a task, and how a mask holds them.

    A mask is a map of labels, 0 for the background; where there are regions it is bool with a channel a region.

    Args:
        labels: One for each output: the background and the structures, or the regions.
        regions: Region → the values of a true mask that belong to it; empty where a voxel is of one structure.
    """

    labels: tuple[Label, ...]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset) -> Structures:
        """Those of a dataset: its regions where it has any.

        Raises:
            DatasetError: A region without a value, of the background, or of a value that is not named.
        """
        if not dataset.regions:
            return cls(dataset.labels)
        for name, values in dataset.regions.items():
            if not values or min(values) < 1 or max(values) >= len(dataset.labels):
                raise DatasetError(
                    f"the region {name} of {dataset.name} is made of values that no structure has",
                    got=list(values),
                    expected=f"1 to {len(dataset.labels) - 1}",
                    remedy="name the values of the masks under labels in dataset.yaml",
                )
        return cls(tuple(Label(name) for name in dataset.regions), dict(dataset.regions))

    @property
    def named(self) -> dict[int, Label]:
        """Number → structure, from 1."""
        return dict(enumerate(self.labels if self.regions else self.labels[1:], start=1))

    @property
    def channels(self) -> range:
        """Which outputs are structures: all of them, or all but the background's."""
        return range(0 if self.regions else 1, len(self.labels))

    @property
    def true_values(self) -> int:
        """How many values a true mask has, the background's among them."""
        return 1 + max(max(values) for values in self.regions.values()) if self.regions else len(self.labels)

    def looked_at(self, known: Sequence[int] | None) -> tuple[int, ...]:
        """Numbers of the structures that a truth speaks of; a region needs all its values looked at.

        Args:
            known: The values that were looked at; None: all.
        """
        if known is None:
            return tuple(self.named)
        if not self.regions:
            return tuple(number for number in self.named if number in known)
        return tuple(n for n, values in enumerate(self.regions.values(), start=1) if set(values) <= set(known))

    # -- truths ----------------------------------------------------------------------------------------------------

    def true(self, truth: NDArray[Any], number: int) -> NDArray[np.bool_]:
        """Where a structure is in a true map of labels."""
        values = tuple(self.regions.values())[number - 1] if self.regions else (number,)
        return np.asarray(truth == number if values == (number,) else np.isin(truth, values))

    def membership(self, truth: torch.Tensor) -> torch.Tensor:
        """(batch, regions, spatial …) bool of a true (batch, spatial …) map of labels."""
        import torch

        each = [torch.stack([truth == value for value in values]).any(0) for values in self.regions.values()]
        return torch.stack(each, dim=1)

    # -- masks -----------------------------------------------------------------------------------------------------

    def sinks(self, trace: Trace, uncertainty: bool = False) -> Several:
        """What becomes of scores: ``mask`` on the source's grid, its ``overlap`` with the probabilities.

        Args:
            trace: From the source's grid to the network's.
            uncertainty: Whether ``uncertainty`` is made too: entropy on the source's grid, of regions the largest.
        """
        overlap = ExpectedOverlapSink(exclusive=not self.regions)
        mask: Any = RegionSink(trace) if self.regions else LabelSink(trace)
        if not uncertainty:
            return Several(mask=mask, overlap=overlap)
        doubt = CertaintySink(trace, "region_entropy" if self.regions else "entropy")
        return Several(mask=mask, overlap=overlap, uncertainty=doubt)

    def expected_dice(self, dice: NDArray[np.float64]) -> float | None:
        """Mean over the structures that are there; None where there is none."""
        return mean_dice(dice, self.channels)

    def decided(self, scores: NDArray[Any]) -> NDArray[Any]:
        """The mask of (outputs, spatial …) numbers."""
        return np.moveaxis(scores > 0, 0, -1) if self.regions else scores.argmax(0).astype(np.uint8)

    def one(self, array: NDArray[Any], number: int) -> NDArray[np.bool_]:
        """Where a structure is in a mask."""
        return np.asarray(array[..., number - 1] if self.regions else array == number)

    def mask(self, array: NDArray[Any], geometry: Geometry) -> Mask:
        """A mask as a result."""
        return Mask(array, geometry, self.named)

    def parts(self, array: NDArray[Any], truth: NDArray[Any], number: int, voxel: float, ignored: int | None) -> Parts:
        """The connected parts of one structure beside a true map of labels, as ``decision.parts_of``."""
        if not self.regions:
            return parts_of(array, truth, number, voxel, ignored)
        beside = self.true(truth, number).astype(np.uint8)
        if ignored is not None:
            beside[truth == ignored] = 2
        return parts_of(self.one(array, number).astype(np.uint8), beside, 1, voxel, None if ignored is None else 2)

    def kept(self, array: NDArray[Any], rules: Mapping[int, ComponentRule], voxel: float) -> NDArray[Any]:
        """A mask with the parts that rules keep, as ``decision.kept_parts``; by number of the structure."""
        if not self.regions:
            return kept_parts(array, rules, voxel)[0]
        out = array
        for number, rule in rules.items():
            kept, dropped = kept_parts(self.one(array, number).astype(np.uint8), {1: rule}, voxel)
            if dropped:
                out = np.array(array) if out is array else out
                out[..., number - 1] = kept > 0
        return out
