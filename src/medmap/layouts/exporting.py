"""A dataset in another layout, whole or not at all: nnU-Net raw, Decathlon, BIDS; COCO, Pascal VOC, YOLO, LUNA16.

What a layout cannot hold is refused, or, where it can be kept beside the layout's own files (``kept.py``), said in a
warning for whoever hands the export to another program.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medmap.dataset import Dataset, TaskName
from medmap.errors import DatasetError, QualityWarning, UsageError
from medmap.layouts.door import open_dataset
from medmap.layouts.placing import Placing, whole_folder
from medmap.layouts.to_bids import write_bids
from medmap.layouts.to_coco import write_coco
from medmap.layouts.to_luna import write_luna
from medmap.layouts.to_msd import write_msd
from medmap.layouts.to_nnunet import handed_over, write_nnunet
from medmap.layouts.to_voc import write_voc
from medmap.layouts.to_yolo import write_yolo


@dataclass(frozen=True)
class Export:
    """One row of the table of exports.

    Args:
        name: What ``--layout`` calls it; also the name of the layout that opens it again.
        task: The task whose truth it holds.
        write: Places the files; gives sentences about what the layout's own programs will not see.
        handed_over: What is left to do with a folder before the layout's own programs find it; None: nothing.
    """

    name: str
    task: TaskName
    write: Callable[[Dataset, Placing], list[str]]
    handed_over: Callable[[Path], str | None] = lambda folder: None


EXPORTS: tuple[Export, ...] = (
    Export("nnunet", "segment", write_nnunet, handed_over),
    Export("msd", "segment", write_msd),
    Export("coco", "detect", write_coco),
    Export("bids", "segment", write_bids),
    Export("voc", "detect", write_voc),
    Export("yolo", "detect", write_yolo),
    Export("luna16", "detect", write_luna),
)


def convert_dataset(dataset: Dataset, dest: str | Path, layout: str, *, link: bool = False) -> Dataset:
    """Write a dataset in another layout and open it again.

    Files are copied (or linked), and rewritten only where the layout asks for another format, for one channel a file,
    or for other label values. The sources are not touched.

    Args:
        dataset: What to write.
        dest: A folder that does not exist yet, or is empty.
        layout: nnunet, msd, coco, bids, voc, yolo or luna16.
        link: Hard links instead of copies, where the file system allows; then an edited export edits the source.

    Returns:
        The export, opened again: as many cases, the same truth, splits and labels, but for what a warning says.

    Raises:
        UsageError: An unknown layout, or a destination that holds something or cannot be written; nothing is left.
        DatasetError: What the layout cannot hold.
        ReadError: A file that has to be rewritten and cannot be read.
    """
    row = next((row for row in EXPORTS if row.name == layout), None)
    if row is None:
        raise UsageError("no such layout to export to", got=repr(layout), expected=", ".join(r.name for r in EXPORTS))
    if dataset.task != row.task:
        raise DatasetError(
            f"the layout {layout} holds no truth for this task",
            got=dataset.task,
            expected=row.task,
            remedy=_that_would_do(dataset.task),
        )
    dest = Path(dest)
    with whole_folder(dest) as aside:
        notes = row.write(dataset, Placing(dataset, aside, link=link))
    for note in notes:
        warnings.warn(f"{layout}: {note}", QualityWarning, stacklevel=2)
    return open_dataset(dest, layout=layout)


def _that_would_do(task: TaskName) -> str:
    names = [row.name for row in EXPORTS if row.task == task]
    if names:
        return f"--layout {' or '.join(names)} holds it"
    return (
        "none of these layouts holds it; medmap's own (dataset.yaml beside cases.csv) does: medmap import DATASET DEST"
    )
