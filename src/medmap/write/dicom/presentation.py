"""Grayscale softcopy presentation states: outlines and boxes drawn over the images they were found on.

PS3.3 A.33.1, C.10.5 (Graphic Annotation), through highdicom. The images' own rescale and window are kept. Coordinates
are columns and rows of an image, 0, 0 its outer corner and 0.5, 0.5 the centre of its first pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmap.errors import DataError, GeometryError, UsageError
from medmap.geometry import Floats
from medmap.results import Boxes, Label, Mask, Prediction
from medmap.write.colours import colour_of
from medmap.write.dicom.made import series_of
from medmap.write.dicom.outlines import outlined
from medmap.write.dicom.source import About, Laid, Origin, cut_frames, equipment, laid_on
from medmap.write.dicom.structures import region_of


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Lines of one label on one source frame.

    Args:
        laid: The frame.
        label: What is drawn.
        lines: Each (points, 2): column and row, closed.
        text: What stands beside the first line.
    """

    laid: Laid
    label: Label
    lines: tuple[Floats, ...]
    text: str


def presentation_state(value: Prediction | Mask | Boxes, origin: Origin, about: About) -> Any:
    """A presentation state (a pydicom data set, not yet written) with masks as outlines, called boxes as rectangles.

    Each annotation refers to the slice it lies on, found by position; every label has a layer and a colour.

    Args:
        value: A prediction with masks or boxes, or one of these.
        origin: The series it was made from; grey images.
        about: Title, algorithm, bundle.

    Raises:
        UsageError: Neither mask nor box.
        GeometryError: Another frame of reference, or nothing that lies on the source's slices.
        DataError: Colour images, or nothing to draw.
    """
    import highdicom as hd

    if any(int(image.get("SamplesPerPixel") or 1) != 1 for image in origin.images):
        raise DataError("a grayscale presentation state shows grey images", got="colour images as source")
    outputs = list(value.outputs.values()) if isinstance(value, Prediction) else [value]
    shown = [o for o in outputs if isinstance(o, Mask | Boxes)]
    if not shown:
        got = ", ".join(type(o).__name__ for o in outputs) or "none"
        raise UsageError("a presentation state shows masks and boxes", got=got)
    drawings = [drawing for output in shown for drawing in _drawings(output, origin)]
    if not drawings:
        raise DataError("there is nothing to draw: no voxel is marked and no box is called")
    layers = _layers(drawing.label for drawing in drawings)
    device = equipment(about)
    try:
        state = hd.pr.GrayscaleSoftcopyPresentationState(
            referenced_images=list(origin.images),
            content_label="ANNOTATIONS",
            content_description=(about.title or "Annotations")[:64],
            graphic_annotations=[_annotation(d, layers[_key(d.label)], origin) for d in drawings],
            graphic_layers=list(layers.values()),
            specific_character_set="ISO_IR 192",
            **series_of(about, "PR"),
            **device,
        )
    except (ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError("no presentation state can be made of these images", got=reason) from error
    state.Laterality = origin.first.get("Laterality") or ""  # asked of every series that may show a paired part
    return state


def _key(label: Label) -> tuple[str, str | None]:
    return label.name, label.code


def _layers(labels: Iterable[Label]) -> dict[tuple[str, str | None], Any]:
    import highdicom as hd

    names = dict.fromkeys(_key(label) for label in labels)
    return {
        key: hd.pr.GraphicLayer(
            layer_name=f"LABEL{number}",
            order=number,
            description=key[0][:64],
            display_color=hd.color.CIELabColor.from_rgb(*colour_of(number - 1)),
        )
        for number, key in enumerate(names, 1)
    }


def _annotation(drawing: _Drawing, layer: Any, origin: Origin) -> Any:
    import highdicom as hd

    image = origin.images[drawing.laid.plane.image]
    several = int(image.get("NumberOfFrames") or 1) > 1
    units = hd.pr.AnnotationUnitsValues.PIXEL
    return hd.pr.GraphicAnnotation(
        referenced_images=[image],
        graphic_layer=layer,
        referenced_frame_number=drawing.laid.plane.frame + 1 if several else None,
        graphic_objects=[hd.pr.GraphicObject(hd.pr.GraphicTypeValues.POLYLINE, line, units) for line in drawing.lines],
        text_objects=[
            hd.pr.TextObject(
                drawing.text, units, anchor_point=tuple(drawing.lines[0].min(axis=0).tolist()),
                anchor_point_visible=False,
            )
        ],
    )  # fmt: skip


def _drawings(output: Mask | Boxes, origin: Origin) -> Iterator[_Drawing]:
    laid = laid_on(output.geometry, origin)
    if not laid:
        raise GeometryError(
            "the result does not lie on the slices of the source", got=f"grid of {output.geometry.shape}",
            expected=f"slices of {origin.size}", remedy="take it back to the grid of its source first",
        )  # fmt: skip
    return _outlines(output, laid, origin) if isinstance(output, Mask) else _rectangles(output, laid, origin)


def _outlines(mask: Mask, laid: list[Laid], origin: Origin) -> Iterator[_Drawing]:
    for value, label in mask.labels.items():
        frames = cut_frames(region_of(mask, value), mask.geometry, laid, origin.size)
        for one, frame in zip(laid, frames, strict=True):
            lines = [_closed(line) for area in outlined(frame) for line in area]
            if lines:
                yield _Drawing(one, label, tuple(lines), label.name)


def _closed(line: Floats) -> Floats:
    """Row and column at pixel centres to column and row from the outer corner, back to where it began."""
    closed: Floats = np.concatenate((line, line[:1]))[:, ::-1] + 0.5
    return closed


def _rectangles(given: Boxes, laid: list[Laid], origin: Origin) -> Iterator[_Drawing]:
    boxes = given.taken(given.called)
    n, across = boxes.geometry.ndim, laid[0].axes[2]
    reach = boxes.slices(across) if n == 3 else np.zeros((len(boxes.scores), 2), np.int64)
    for i, label_id in enumerate(boxes.label_ids.tolist()):
        label = boxes.labels[label_id]
        low, high = boxes.corners[i, :n], boxes.corners[i, n:]
        found = [one for one in laid if reach[i, 0] <= one.slice <= reach[i, 1]]
        if not found:
            raise GeometryError(
                f"box {i + 1} ({label.name}) lies on no slice of the source", got=boxes.corners[i].tolist()
            )
        for one in found:
            yield _Drawing(one, label, (rectangle(low, high, one, origin),), f"{label.name} {boxes.scores[i]:.2f}")


def rectangle(low: Floats, high: Floats, one: Laid, origin: Origin) -> Floats:
    """(5, 2): the outer edges of a box's voxels on a frame, as columns and rows, cut at the picture's edges."""
    edges = []
    for axis, sign, start, size in zip(one.axes[:2], one.signs, one.start, origin.size, strict=True):
        ends = sorted(float((edge - start) * sign) + 0.5 for edge in (low[axis] - 0.5, high[axis] + 0.5))
        edges.append(np.clip(ends, 0, size))
    (top, bottom), (left, right) = edges
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
