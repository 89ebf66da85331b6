"""Datasets as their owners keep them, opened in place, and medmap's own: ``dataset.yaml`` beside ``cases.csv``."""

from medmap.layouts.boxes import gathering
from medmap.layouts.described import Description, dataset_schema, write_dataset
from medmap.layouts.dicom import UNMATCHED, Archive, dicom_dataset, recognise_dicom
from medmap.layouts.difference import Change, Difference, difference
from medmap.layouts.door import LAYOUTS, Layout, layout_of, open_dataset
from medmap.layouts.exporting import EXPORTS, Export, convert_dataset
from medmap.layouts.fetching import PUBLIC, Public, fetch
from medmap.layouts.importing import import_dataset
from medmap.layouts.instances import boxes_from_masks, component_boxes, open_for_boxes
from medmap.layouts.placing import require_free
from medmap.layouts.points import boxes_from_points

__all__ = [
    "EXPORTS",
    "LAYOUTS",
    "PUBLIC",
    "UNMATCHED",
    "Archive",
    "Change",
    "Description",
    "Difference",
    "Export",
    "Layout",
    "Public",
    "boxes_from_masks",
    "boxes_from_points",
    "component_boxes",
    "convert_dataset",
    "dataset_schema",
    "dicom_dataset",
    "difference",
    "fetch",
    "gathering",
    "import_dataset",
    "layout_of",
    "open_dataset",
    "open_for_boxes",
    "recognise_dicom",
    "require_free",
    "write_dataset",
]
