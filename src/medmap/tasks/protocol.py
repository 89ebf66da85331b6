"""What a task is: seven things that make a mapping learnable, and the batch they speak about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from medmap.results import Output

if TYPE_CHECKING:
    import torch

    from medmap.dataset import Case

Tensors = Mapping[str, NDArray[Any]]
IGNORED = 255  # in a prepared label map: a voxel that no loss and no score looks at


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loss is computed on.

    Args:
        images: (batch, channels, spatial …) float32, prepared and augmented.
        truth: As the task collates it; first axis is the batch.
        cases: Identifiers, in order: whoever finds a NaN can name them.
        own_share: (batch,) share of each image in its mixup, the rest being the neighbour's before it; None without.
    """

    images: torch.Tensor
    truth: torch.Tensor
    cases: tuple[str, ...]
    own_share: torch.Tensor | None = None


class Examples(Protocol):
    """Prepared cases, as a task may look at them."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases, in the order of the rows."""
        ...

    def __getitem__(self, row: int) -> Tensors:
        """One prepared case."""
        ...


# (batch, channels, spatial …) float32 to the network's numbers, without augmentation and gradients
Forward = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Selection:
    """What "best by validation" compares.

    Args:
        name: Name of the metric.
        value: Larger is better.
        shown: The same for people, in the metric's own direction.
    """

    name: str
    value: float
    shown: float


class Task(Protocol):
    """A mapping that can be learned. ``loss`` is the seam: everything a task needs hides behind it."""

    @property
    def outputs(self) -> int:
        """Numbers the network puts out (channels of its output)."""
        ...

    @property
    def moves(self) -> Literal["nothing", "voxels", "boxes"]:
        """What of a truth moves with the image when it is augmented."""
        ...

    def network(self, name: str, **options: Any) -> torch.nn.Module:
        """An untrained network for this task."""
        ...

    def draw(self, tensors: Tensors, rng: np.random.Generator) -> Tensors:
        """What one training example is: the image, a patch, a positive crop."""
        ...

    def collate(self, examples: Sequence[Tensors], cases: Sequence[Case]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and truth of a batch, the truth as ``moves`` says."""
        ...

    def cut(self, truth: torch.Tensor) -> torch.Tensor:
        """A truth of boxes cut at the edge of the images, after they moved; asked of tasks that move boxes alone."""
        ...

    def pretended(self, images: torch.Tensor) -> torch.Tensor:
        """A made-up truth for images of noise, on which a step is timed."""
        ...

    def loss(self, net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The scalar to minimise."""
        ...

    def decode(self, logits: NDArray[np.float32], **options: Any) -> Output:
        """The network's numbers for one case as a result."""
        ...

    def answers(self, forward: Forward, store: Examples, rows: Sequence[int]) -> Any:
        """What ``score`` looks at, for some prepared cases: the network's numbers, or what is left of them."""
        ...

    def score(self, answers: Any, cases: Sequence[Case]) -> Selection:
        """How good the answers are, for choosing among epochs."""
        ...

    def supports(self, dimensions: int, channels: int) -> str | None:
        """None when such images are welcome, else the reason why not."""
        ...
