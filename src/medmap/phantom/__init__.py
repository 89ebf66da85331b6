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
from medmap.phantom.chest_files import write_chest_dataset
from medmap.phantom.files import write_study
from medmap.phantom.nodules import ChestCase, Nodule, chest_case

__all__ = [
    "LABEL_NAMES",
    "SCANNERS",
    "STRUCTURES",
    "ChestCase",
    "Nodule",
    "PhantomCase",
    "chest_case",
    "classification",
    "ct_slice",
    "ct_volume",
    "detection",
    "enhancement",
    "mr_volume",
    "oblique",
    "segmentation",
    "ultrasound",
    "write_chest_dataset",
    "write_study",
]
