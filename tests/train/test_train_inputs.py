"""Cases of two inputs, some without one of them: learned from, judged, and asked with either missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmap.augment import OFF
from medmap.bundle import Bundle
from medmap.evaluate import evaluate
from medmap.fit import FitSection
from medmap.geometry import Geometry, Resample
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.plan import EnsembleSection, NetworkSection, Run, plan
from medmap.predict import FailedCase, predict_cases
from medmap.prepare import PrepareSection
from medmap.tasks.segment import SegmentSection
from medmap.train import train
from medmap.write import write

CASES = 18


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that the first input hardly shows and the second, on a coarser grid, shows well."""
    folder = tmp_path_factory.mktemp("contrasts")
    rng = np.random.default_rng(3)
    rows = ["case,patient,split,t1,flair,mask"]
    for n in range(CASES):
        shape = (36, 32)
        mask = np.zeros(shape, np.uint8)
        row, column = (2 * int(v) for v in rng.integers(2, 10, 2))
        mask[row : row + 10, column : column + 8] = 1
        fine = Geometry.from_spacing(shape, (1.0, 1.0))
        coarse = Resample((18, 16)).apply(fine)
        write(Image(mask, fine, "label"), folder / f"{n}_mask.nii.gz")
        write(Image((rng.normal(0, 30, shape) + 20 * mask).astype(np.float32), fine), folder / f"{n}_t1.nii.gz")
        # without the first input the truth lies on the second one's grid
        grid, shown = (fine, mask) if n == 3 else (coarse, mask.reshape(18, 2, 16, 2).mean((1, 3)))
        bright = rng.normal(0, 10, grid.shape) + 90 * shown
        write(Image(bright.astype(np.float32), grid), folder / f"{n}_flair.nii.gz")
        t1 = "" if n in (3, CASES - 1) else f"{n}_t1.nii.gz"
        flair = "" if n == CASES - 1 else f"{n}_flair.nii.gz"
        rows.append(f"c{n},p{n},{'test' if n >= CASES - 5 else 'train'},{t1},{flair},{n}_mask.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: contrasts\ntask: segment\ninputs: {t1: {modality: MR}, flair: {modality: MR}}\n"
        "labels: {0: background, 1: lesion}\n"
    )
    return folder


def test_two_inputs_are_learned_from_and_one_may_be_missing(contrasts: Path, tmp_path: Path) -> None:
    data = open_dataset(contrasts)
    run = Run(
        task=SegmentSection(patches=6, foreground=0.7),
        prepare=PrepareSection(shape=(16, 16), grid="spacing", spacing_mm=(1.0, 1.0), intensity="zscore", channels=2),
        augment=OFF.model_copy(update={"drop_inputs": 0.2}),
        network=NetworkSection(name="unet", width=0.25),
        fit=FitSection(
            epochs=8, batch_size=8, learning_rate=5e-3, warmup_epochs=1, threads=1, select="last", ema_epochs=1
        ),
        ensemble=EnsembleSection(folds=2, members=2),
    )
    train(run, data, tmp_path / "run", listener=lambda event: None)
    bundle = Bundle.load(tmp_path / "run")
    assert list(bundle.spec.inputs) == ["t1", "flair"]
    assert [spec.channels for spec in bundle.spec.inputs.values()] == [1, 1]
    report = evaluate(bundle, data)
    dice = next(row.value for row in report.rows if row.name == "dice" and row.group == "all")
    assert dice is not None
    assert dice > 0.75
    assert [failure.case for failure in report.failed] == [f"c{CASES - 1}"]
    assert "none of the inputs was acquired" in report.failed[0].reason
    some = data.with_cases([data["c3"], data["c4"], data[f"c{CASES - 1}"]])
    without, whole, nothing = predict_cases([bundle], some)
    assert not isinstance(without, FailedCase)
    assert "t1 was not acquired: the network sees the others" in without.warnings
    assert not isinstance(whole, FailedCase)
    assert not whole.warnings
    assert whole.outputs["mask"].geometry.shape == (36, 32)  # type: ignore[union-attr]
    assert isinstance(nothing, FailedCase)


def test_the_plan_joins_inputs_and_withholds_some(contrasts: Path) -> None:
    run = plan(open_dataset(contrasts), budget_s=60)
    assert run.prepare.channels == 2
    assert run.prepare.intensity == "zscore"
    assert run.augment.drop_inputs == 0.2
    assert "t1, flair" in run.reasons["prepare.intensity"]
