"""All members of a bundle as one network, and so as one exported graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The members side by side: (N, members, outputs …).

    Args:
        members: Networks that map (N, C, *spatial) to (N, outputs …).
        shared_recipe: True where all members were prepared for by the same recipe: the input is (N, C, *spatial) and
            every member sees all of it. Otherwise the input is (N, members, C, *spatial), each member its own.
    """

    def __init__(self, members: Sequence[nn.Module], *, shared_recipe: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.shared_recipe = shared_recipe

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every member."""
        views = [x if self.shared_recipe else x[:, index] for index in range(len(self.members))]
        return torch.stack([member(view) for member, view in zip(self.members, views, strict=True)], dim=1)
