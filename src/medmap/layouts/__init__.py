"""Datasets as their owners keep them, opened in place, and medmap's own: ``dataset.yaml`` beside ``cases.csv``."""

from medmap.layouts.described import Description, dataset_schema, write_dataset
from medmap.layouts.door import LAYOUTS, Layout, open_dataset
from medmap.layouts.fetching import PUBLIC, Public, fetch
from medmap.layouts.importing import import_dataset

__all__ = [
    "LAYOUTS",
    "PUBLIC",
    "Description",
    "Layout",
    "Public",
    "dataset_schema",
    "fetch",
    "import_dataset",
    "open_dataset",
    "write_dataset",
]
