"""Whether volumes are looked at as volumes, or slice by slice with neighbours: by how few and how thick slices are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medmap.plan.fingerprint import Fingerprint

# Fewer slices than this cannot be halved once; the patch of a volume would be padded.
FEW_SLICES = 8
# From this ratio of a slice's distance to its pixels on, slices are thick …
THICK = 3.0
# … and with fewer than this, a convolution across them hardly ever sees one whole neighbourhood. A judgement, not a
# measurement: nnU-Net's 2-D and 3-D networks come out alike there (Isensee et al. 2021, cardiac MR of about ten thick
# slices), and a picture's network is several times faster on a processor. With more slices its 3-D network won.
FEW_THICK_SLICES = 16
NEIGHBOURS = 3
SLICES_OF_A_PATCH = 4


@dataclass(frozen=True)
class Slicing:
    """How a volume is looked at.

    Args:
        slices: See ``NetworkSection``; 0 is a network of volumes.
        axis: The axis across the slices; None for pictures.
        thick: Whether the slices lie so far apart that nothing should be turned across them.
        reason: Why, in words; None where nobody would ask.
    """

    slices: int = 0
    axis: int | None = None
    thick: bool = False
    reason: str | None = None


def slicing(facts: Fingerprint, asked: Mapping[str, Any]) -> Slicing:
    """Choose by the fingerprint, unless ``network.slices`` was set by hand.

    Args:
        facts: The dataset's.
        asked: What was set by hand of ``network:``. A decoder over a picture's encoder (``unet+timm:…``) goes by
            slices.

    Returns:
        2.5-D for fewer than eight slices, and for fewer than sixteen that are three times as thick as their pixels.
    """
    if facts.dimensions != 3:
        return Slicing()
    size = facts.spacing_mm or (1.0, 1.0, 1.0)
    chosen = asked.get("slice_axis")
    axis = chosen if chosen in (0, 1, 2) else max(range(3), key=lambda a: (size[a], -facts.shape[a]))
    ratio = size[axis] / max(size[a] for a in range(3) if a != axis)
    thick, count = ratio >= THICK, facts.shape[axis]
    by_hand = asked.get("slices")
    if isinstance(by_hand, int):  # a wrong number is refused where the run is checked
        return Slicing(by_hand, axis, thick or by_hand > 0, "set by hand")
    if "+" in str(asked.get("name", "")):
        why = f"{asked['name']} takes pictures: each slice with a neighbour on either side"
        return Slicing(NEIGHBOURS, axis, True, why)
    if "name" in asked:
        return Slicing(0, axis, thick)
    if count < FEW_SLICES:
        why = f"{count} slices are too few for a network of volumes: each is seen with a neighbour on either side"
        return Slicing(NEIGHBOURS, axis, True, why)
    if thick and count < FEW_THICK_SLICES:
        why = (
            f"{count} slices, {ratio:.1f} times as thick as their pixels: each is seen with a neighbour on either "
            "side; 0 takes a network of volumes"
        )
        return Slicing(NEIGHBOURS, axis, True, why)
    if thick:
        why = (
            f"slices are {ratio:.1f} times as thick as their pixels, but there are {count}: a network of volumes keeps "
            "them apart until their plane is as coarse; 3 sees each with its neighbours, faster"
        )
        return Slicing(0, axis, True, why)
    return Slicing(0, axis)
