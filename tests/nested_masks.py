"""Small images of a bright disc or ball with a brighter core, their masks, and a run that learns them in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medmap.augment import OFF, AugmentSection
from medmap.fit import FitSection
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.plan import EnsembleSection, NetworkSection, Run
from medmap.prepare import PrepareSection
from medmap.tasks.segment import SegmentSection
from medmap.write import write

SPACING = {2: (1.0, 1.5), 3: (1.0, 1.5, 2.0)}
PATCH = {2: (16, 16), 3: (8, 16, 16)}


def write_nested(folder: Path, count: int = 16, dimensions: int = 2, regions: bool = False, seed: int = 5) -> Path:
    """A dataset of rims (1) around cores (2); with ``regions`` they are named as the overlapping whole and core."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = ["case,patient,split,image,mask"]
    sides = {2: (28, 40), 3: (16, 24)}[dimensions]
    for n in range(count):
        shape = tuple(int(side) for side in rng.integers(*sides, dimensions))
        centre = np.array([rng.uniform(0.35, 0.65) * side for side in shape])
        at = np.moveaxis(np.indices(shape), 0, -1) - centre
        far = np.sqrt((at**2).sum(-1))
        radius = rng.uniform(0.22, 0.3) * min(shape)
        mask = ((far < radius).astype(np.uint8) + (far < 0.55 * radius)).astype(np.uint8)
        image = rng.normal(0, 15, shape) + np.choose(mask, [0, 80, 160])
        grid = Geometry.from_spacing(shape, SPACING[dimensions])
        write(Image(image.astype(np.float32), grid), folder / f"images/{n}.nii.gz")
        write(Image(mask, grid, "label"), folder / f"images/{n}_mask.nii.gz")
        rows.append(f"c{n},p{n},{'test' if n >= count - 4 else 'train'},images/{n}.nii.gz,images/{n}_mask.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: nested\ntask: segment\ninputs: {image: {modality: OT}}\n"
        "labels: {0: background, 1: rim, 2: core}\n" + ("regions: {whole: [1, 2], core: [2]}\n" if regions else "")
    )
    return folder


def nested_run(dimensions: int = 2, augment: AugmentSection = OFF, epochs: int = 6, **task: object) -> Run:
    """Two folds of a few epochs."""
    return Run(
        task=SegmentSection(patches=6, foreground=0.7).model_copy(update=task),
        prepare=PrepareSection(
            shape=PATCH[dimensions], grid="spacing", spacing_mm=SPACING[dimensions], intensity="zscore"
        ),
        augment=augment,
        network=NetworkSection(name="unet", width=0.25, norm="instance"),
        fit=FitSection(
            epochs=epochs, batch_size=8, learning_rate=1e-2, warmup_epochs=1, threads=1, select="last", ema_epochs=1
        ),
        ensemble=EnsembleSection(folds=2, members=2),
    )
