"""From cases to batches: prepared once into a store, drawn by seed, augmented, each batch knowing its cases."""

from medmap.feed.batches import Feed, plain_batches
from medmap.feed.patches import PatchStore, PreparedCase, build_box_store, build_patch_store
from medmap.feed.reading import case_image
from medmap.feed.whole import Progress, Store, build_store

__all__ = [
    "Feed",
    "PatchStore",
    "PreparedCase",
    "Progress",
    "Store",
    "build_box_store",
    "build_patch_store",
    "build_store",
    "case_image",
    "plain_batches",
]
