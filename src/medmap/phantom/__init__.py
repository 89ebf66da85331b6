"""Synthetic images with exact truth, from a seed, by simple physics: what demo, tests and parity checks run on.

Every image is made up. No patient, no hospital and no real scanner stands behind any of them.
"""

from medmap.phantom.cases import (
    LABEL_NAMES,
    SCANNERS,
    STRUCTURES,
    PhantomCase,
    classification,
    ct_slice,
    ct_volume,
    detection,
    enhancement,
    mr_volume,
    oblique,
    segmentation,
    ultrasound,
)
from medmap.phantom.files import write_study

__all__ = [
    "LABEL_NAMES",
    "SCANNERS",
    "STRUCTURES",
    "PhantomCase",
    "classification",
    "ct_slice",
    "ct_volume",
    "detection",
    "enhancement",
    "mr_volume",
    "oblique",
    "segmentation",
    "ultrasound",
    "write_study",
]
