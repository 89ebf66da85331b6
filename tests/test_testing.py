"""The conformance checks pass on medmap's own and fail on what breaks a promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from medmap.augment import AugmentSection
from medmap.dataset import Case, Truth
from medmap.errors import ConformanceError
from medmap.fit import FitSection
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.prepare import PrepareSection
from medmap.read import read
from medmap.results import Label, ScoreKind
from medmap.tasks.classify import Classify, ClassifySection
from medmap.testing import check_reader, check_section, check_task


def cases(kind: ScoreKind, n: int = 4) -> list[Case]:
    if kind in ("multilabel", "regression"):
        return [Case(str(i), str(i), {}, Truth(True, values=(float(i % 2), 0.0 if i else 1.0))) for i in range(n)]
    return [Case(str(i), str(i), {}, Truth(True, label=i % 2)) for i in range(n)]


def examples(shape: tuple[int, ...] = (1, 16, 16), n: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"image": rng.normal(size=shape).astype(np.float32)} for _ in range(n)]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "ordinal", "regression"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16), (1, 8, 8, 8)])
def test_classification_keeps_its_promises(kind: ScoreKind, shape: tuple[int, ...]) -> None:
    names = ("a", "b", "c") if kind in ("ordinal", "multiclass") else ("a", "b")
    task = Classify(ClassifySection(), tuple(map(Label, names)), kind)
    check_task(task, examples(shape), cases(kind), width=0.25)


@dataclass(frozen=True, eq=False)
class Forgetful(Classify):
    """Draws differ for the same generator."""

    def draw(self, tensors: Any, rng: np.random.Generator) -> Any:
        return {"image": tensors["image"] + np.random.default_rng().normal()}


@dataclass(frozen=True, eq=False)
class Stubborn(Classify):
    """A loss that does not depend on the network."""

    def loss(self, net: Any, batch: Any) -> Any:
        import torch

        return torch.zeros((), requires_grad=True)


@dataclass(frozen=True, eq=False)
class Wordy(Classify):
    """Decodes to something that is no result."""

    def decode(self, logits: Any, **options: Any) -> Any:
        return "malignant, I think"


@pytest.mark.parametrize(
    ("kind", "promise"), [(Forgetful, "same draw"), (Stubborn, "gradient"), (Wordy, "result of medmap.results")]
)
def test_a_broken_promise_is_named(kind: type[Classify], promise: str) -> None:
    task = kind(ClassifySection(), (Label("a"), Label("b")), "binary")
    with pytest.raises(ConformanceError, match=promise):
        check_task(task, examples(), cases("binary"), width=0.25)


def to_nifti(image: Image, path: Path) -> None:
    ras = np.diag([-1, -1, 1, 1]) @ image.geometry.affine_lps_mm
    nibabel.save(nibabel.Nifti1Image(image.array, ras), f"{path}.nii")


def to_mha(image: Image, path: Path) -> None:
    out = SimpleITK.GetImageFromArray(np.ascontiguousarray(image.array.T))
    out.SetSpacing(image.spacing_mm)
    direction = image.geometry.affine_lps_mm[:3, :3] / np.array(image.spacing_mm)
    out.SetDirection(direction.flatten().tolist())
    out.SetOrigin(image.geometry.affine_lps_mm[:3, 3].tolist())
    SimpleITK.WriteImage(out, f"{path}.mha")


@pytest.mark.parametrize("write", [to_nifti, to_mha])
def test_readers_put_every_voxel_in_its_place(write: Any, tmp_path: Path) -> None:
    check_reader(write, read, tmp_path)


def flipped(path: Path) -> Image:
    image = read(path)
    return Image(image.array[::-1], image.geometry, image.quantity)


def careless(path: Path) -> Image:
    try:
        return read(path)
    except Exception:  # noqa: BLE001
        return Image(np.zeros((5, 7, 11), np.int16), Geometry.without_size((5, 7, 11)))


@pytest.mark.parametrize(("reader", "promise"), [(flipped, "where it was written"), (careless, "truncated")])
def test_a_reader_that_flips_or_swallows_is_found(reader: Any, promise: str, tmp_path: Path) -> None:
    with pytest.raises(ConformanceError, match=promise):
        check_reader(to_nifti, reader, tmp_path)


def test_sections_are_frozen_and_strict() -> None:
    for section in (AugmentSection, FitSection, PrepareSection, ClassifySection):
        check_section(section)
    with pytest.raises(ConformanceError, match="unknown keys"):
        check_section(type("Loose", (AugmentSection,), {"model_config": {"extra": "allow", "frozen": True}}))


def losses(task: Classify, seen: Sequence[Case]) -> float:
    import torch

    images, truth = task.collate(examples(n=len(seen)), seen)
    net = task.network("small_resnet", dimensions=2, in_channels=1, input_shape=(16, 16), width=0.25)
    from medmap.tasks import Batch

    with torch.no_grad():
        return float(task.loss(net.eval(), Batch(images, truth, tuple("abcd"))))


def test_unknown_labels_take_no_part() -> None:
    task = Classify(ClassifySection(), (Label("a"), Label("b")), "multilabel")
    known = cases("multilabel")
    nan = float("nan")
    half = [replace(c, truth=replace(c.truth, values=(c.truth.values[0], nan))) for c in known]  # type: ignore[index]
    other = [replace(c, truth=replace(c.truth, values=(c.truth.values[0], nan))) for c in half]  # type: ignore[index]
    assert losses(task, half) == losses(task, other)
    assert losses(task, half) != losses(task, known)
