"""Private attributes that say nothing about a patient (PS3.15 Table E.3.10-1), as far as they are known for certain.

The standard calls a private attribute safe by its creator, group and last two digits. The rows here are the scanner
settings that later processing needs most: diffusion, dose, pitch and SUV factors. What is not listed is removed.
"""

from __future__ import annotations

# private creator -> (group, last two digits of the element)
SAFE: dict[str, frozenset[tuple[int, int]]] = {
    "Philips PET Private Group": frozenset({(0x7053, 0x00), (0x7053, 0x09)}),
    "Philips Imaging DD 001": frozenset({(0x2001, 0x03), (0x2001, 0x04)}),
    "SIEMENS MR HEADER": frozenset({(0x0019, 0x0C), (0x0019, 0x0D), (0x0019, 0x0E), (0x0019, 0x27)}),
    "GEMS_ACQU_01": frozenset({(0x0019, 0x23), (0x0019, 0x24), (0x0019, 0x27), (0x0019, 0x9E)}),
    "GEMS_SERS_01": frozenset({(0x0025, 0x07)}),
    "GEMS_PARM_01": frozenset({(0x0043, 0x27), (0x0043, 0x39), (0x0043, 0x6F)}),
    "GEMS_HELIOS_01": frozenset({(0x0045, 0x01), (0x0045, 0x02)}),
    "GEIIS PACS": frozenset({(0x0903, 0x10), (0x0903, 0x11), (0x0903, 0x12)}),
    "ELSCINT1": frozenset(
        {(0x00E1, 0x21), (0x00E1, 0x50), (0x01E1, 0x26), (0x01F1, 0x01), (0x01F1, 0x07), (0x01F1, 0x26), (0x01F1, 0x27)}
    ),
}


def is_safe(creator: str, tag: int) -> bool:
    """Whether a private attribute may stay under the Retain Safe Private Option.

    Args:
        creator: The private creator that reserved its block.
        tag: The attribute.

    Example:
        >>> is_safe("SIEMENS MR HEADER", 0x0019100C), is_safe("SIEMENS CSA HEADER", 0x00291020)
        (True, False)
    """
    return (tag >> 16, tag & 0xFF) in SAFE.get(creator.strip(), frozenset())
