"""COCO written: one JSON a split, pictures in one folder, boxes as x, y, width, height."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from medmap.dataset import Dataset
from medmap.layouts.coco import bbox_of_corners
from medmap.layouts.kept import KEPT_TABLE, kept_block, kept_table
from medmap.layouts.placing import Placing
from medmap.layouts.to_pictures import partly_annotated_note, place_picture, sizes_of_pictures

UNSPLIT = "all"


def write_coco(dataset: Dataset, placing: Placing) -> list[str]:
    """Place a dataset of pictures and boxes as COCO.

    Cases that nobody has looked at stand in an ``image_info`` file, without annotations. Ignored boxes are crowds.

    Raises:
        DatasetError: Volumes, several inputs, a case without its picture.
    """
    name, shapes = sizes_of_pictures(dataset, "COCO")
    files = [place_picture(case, name, placing, "images") for case in dataset]
    parts: dict[tuple[str, bool], list[int]] = {}
    for n, case in enumerate(dataset):
        looked_at = case.truth.boxes is not None
        parts.setdefault((case.split or UNSPLIT, looked_at), []).append(n)
    for (split, looked_at), numbers in parts.items():
        content = _content(dataset, numbers, files, shapes, looked_at)
        kind = "instances" if looked_at else "image_info"
        placing.text(f"annotations/{kind}_{split}.json", json.dumps(content, ensure_ascii=False) + "\n")
    placing.text(KEPT_TABLE, kept_table(dataset))
    return partly_annotated_note(dataset)


def _content(
    dataset: Dataset, numbers: Sequence[int], files: Sequence[str], shapes: Sequence[tuple[int, ...]], looked_at: bool
) -> dict[str, Any]:
    images = [
        {"id": n + 1, "file_name": files[n], "height": int(shapes[n][0]), "width": int(shapes[n][1])} for n in numbers
    ]
    content: dict[str, Any] = {
        "info": {"description": dataset.name, "medmap": kept_block(dataset)},
        "licenses": [{"id": 1, "name": dataset.licence, "url": ""}] if dataset.licence else [],
        "images": images,
        "categories": [{"id": i + 1, "name": label.name} for i, label in enumerate(dataset.labels)],
    }
    if not looked_at:
        return content
    annotations: list[dict[str, Any]] = []
    for n in numbers:
        truth = dataset.cases[n].truth
        rows = [(box, 0) for box in truth.boxes or ()] + [(box, 1) for box in truth.ignored]
        for (corners, label), crowd in rows:
            bbox = bbox_of_corners(corners)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": n + 1,
                    "category_id": label + 1,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": crowd,
                }
            )
    return {**content, "annotations": annotations}
