"""Coarse to fine: the coarse network comes first, the other learns, is judged and answers where it found something."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from medmap.augment import OFF
from medmap.bundle import Bundle
from medmap.cli import run as medmap
from medmap.dataset import Case
from medmap.errors import BundleError, ConfigError, InterruptedRun
from medmap.evaluate import Options, evaluate
from medmap.feed import PatchStore, PreparedCase, build_patch_store
from medmap.fit import FitSection
from medmap.geometry import Geometry, Trace
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.plan import EnsembleSection, NetworkSection, Run
from medmap.predict import predict
from medmap.predict.masks import MaskView
from medmap.prepare import PrepareSection, Recipe
from medmap.results import Label, Mask
from medmap.tasks.segment import Segment, SegmentSection
from medmap.train import Event, cascade, train
from medmap.write import write

SIDE, CASES = 64, 12
FIT = FitSection(epochs=10, batch_size=8, learning_rate=1e-2, warmup_epochs=1, threads=1, select="last", ema_epochs=1)
AROUND_MM = 6.0


def write_pictures(folder: Path) -> Path:
    """Large pictures of noise with one small bright square, which alone is the structure."""
    rng = np.random.default_rng(6)
    (folder / "images").mkdir(parents=True)
    rows = ["case,patient,split,image,mask"]
    for n in range(CASES):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        row, column = rng.integers(4, SIDE - 16, 2)
        mask[row : row + 12, column : column + 10] = 1
        image = rng.normal(0, 20, mask.shape) + 90 * mask
        grid = Geometry.from_spacing(mask.shape, (1.0, 1.0))
        write(Image(image.astype(np.float32), grid), folder / f"images/{n}.nii.gz")
        write(Image(mask, grid, "label"), folder / f"images/{n}_mask.nii.gz")
        rows.append(f"c{n},p{n},{'test' if n >= CASES - 4 else 'train'},images/{n}.nii.gz,images/{n}_mask.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: squares\ntask: segment\ninputs: {image: {modality: OT}}\n"
        "labels: {0: background, 1: square}\n"
    )
    return folder


def one_run(step_mm: float, **more: object) -> Run:
    return Run(
        task=SegmentSection(patches=6, foreground=0.7, around_mm=AROUND_MM),
        prepare=PrepareSection(shape=(16, 16), grid="spacing", spacing_mm=(step_mm, step_mm), intensity="zscore"),
        augment=OFF,
        network=NetworkSection(name="unet", width=0.25),
        fit=FIT,
        ensemble=EnsembleSection(folds=2, members=2),
    ).model_copy(update=more)


def cascaded() -> Run:
    return one_run(1.0, coarse=one_run(4.0))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="module")
def trained(pictures: Path) -> Path:
    output = pictures.parent / "run"
    train(cascaded(), open_dataset(pictures), output)
    return output


def test_the_bundle_holds_its_coarse_one_and_finds_the_structure(trained: Path, pictures: Path) -> None:
    bundle = Bundle.load(trained)
    assert bundle.coarse is not None
    assert bundle.coarse.digest == Bundle.load(trained / "coarse").digest
    assert bundle.coarse.spec.run["prepare"]["spacing_mm"] == [4.0, 4.0]
    report = evaluate(bundle, open_dataset(pictures), split="test")
    (dice,) = [row for row in report.rows if row.name == "dice" and row.group == "all"]
    assert dice.value is not None
    assert dice.value > 0.9
    assert "coarse network" in (bundle.path / "CARD.md").read_text()


def test_nothing_is_found_beyond_what_the_coarse_network_found(trained: Path) -> None:
    bundle = Bundle.load(trained)
    rng = np.random.default_rng(1)
    array = rng.normal(0, 20, (SIDE, SIDE)).astype(np.float32)
    array[6:18, 6:16] += 90
    image = Image(array, Geometry.from_spacing(array.shape, (1.0, 1.0)))
    seen: list[object] = []
    masks = import_module("medmap.predict.masks")
    real = masks.box_on_prepared

    def remembered(ends: object, trace: Trace, margin_mm: float) -> object:
        seen.append((margin_mm, box := real(ends, trace, margin_mm)))
        return box

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "box_on_prepared", remembered)
        answer = predict(bundle, image)
    ((margin, box),) = seen  # type: ignore[misc]
    assert margin == AROUND_MM
    assert all(first > 0 or after < SIDE for first, after in box)
    mask = answer.outputs["mask"]
    assert isinstance(mask, Mask)
    assert mask.array[8:16, 8:14].mean() > 0.8
    outside = np.ones((SIDE, SIDE), bool)
    outside[tuple(slice(*ends) for ends in box)] = False
    assert outside.any()
    assert not mask.array[outside].any()


def test_the_whole_image_can_be_looked_at_all_the_same(
    trained: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the coarse bundle was asked")

    monkeypatch.setattr(import_module("medmap.predict.masks"), "box_on_prepared", never)
    report = evaluate(
        Bundle.load(trained), open_dataset(pictures), split="test", options=Options(masks=MaskView(whole=True))
    )
    (dice,) = [row for row in report.rows if row.name == "dice" and row.group == "all"]
    assert dice.value is not None
    assert dice.value > 0.7


def test_cases_are_judged_where_networks_that_never_saw_them_say(trained: Path, pictures: Path) -> None:
    """Every case of the pool has a coarse mask of the fold that left it out, and only such a box is used."""
    folder = trained / "coarse" / "judged"
    cases = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as held:
            cases.append(str(held["case"]))
    assert sorted(cases) == sorted(case.id for case in open_dataset(pictures) if case.split != "test")
    report = json.loads((trained / "evaluation" / "metrics.json").read_text())
    assert report["split"] == "oof"
    assert report["cases"] == len(cases)


def test_a_box_that_leaves_part_of_a_structure_out_is_found(trained: Path, pictures: Path) -> None:
    """The same run asked with the margin that it had, and with none: the coarse edges cut into the structure."""
    bundle, data = Bundle.load(trained), open_dataset(pictures)
    pool = data.with_cases([case for case in data if case.split != "test"])
    store = build_patch_store(pool, Recipe.from_json(bundle.spec.members[0].recipe), memory_bytes=2**30)
    assert bundle.coarse is not None
    wide = cascade.found(bundle.coarse, trained / "coarse", store, AROUND_MM)
    assert len(wide.boxes) == len(pool)
    narrow = cascade.found(bundle.coarse, trained / "coarse", store, 0.0)
    assert len(wide.cut) <= len(narrow.cut)
    for case, row in zip(pool, store.prepared, strict=True):
        mask = row.truth[tuple(slice(*ends) for ends in narrow.boxes[case.id])]
        assert (case.id in narrow.cut) == (np.count_nonzero(mask) < np.count_nonzero(row.truth))


def test_threads_are_those_of_the_run_after_the_coarse_one(pictures: Path, tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []
    short = {"ensemble": EnsembleSection(folds=2, members=1)}
    fits = [FIT.model_copy(update={"epochs": 1, "threads": threads}) for threads in (1, 2)]
    run = one_run(1.0, fit=fits[0], coarse=one_run(4.0, fit=fits[1], **short), **short)

    def listener(event: Event) -> None:
        if event.kind == "progress" and "epoch" in event.text:
            seen.append((event.text.startswith("coarse"), torch.get_num_threads()))

    train(run, open_dataset(pictures), tmp_path / "run", listener=listener)
    torch.set_num_threads(before)
    assert set(seen) == {(True, 2), (False, 1)}


def stored(mask: np.ndarray, inside: tuple[tuple[int, int], ...] | None = None) -> PatchStore:
    grid = Geometry.from_spacing(mask.shape, (2.0, 1.0))
    case = Case("a", "p", inputs={})
    pixels = np.zeros((1, *mask.shape), np.float16)
    return PatchStore((PreparedCase(case, pixels, mask, {}, Trace(grid, ()), "", inside=inside),), "digest")


def test_looked_at_is_where_a_structure_is_or_the_coarse_network_saw_one() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[8:10, 12:15] = 1
    mask[0, 0] = 255  # ignored: no structure
    only = cascade.Coarse(None, {})  # type: ignore[arg-type]
    assert cascade.around(stored(mask), only, 4.0).prepared[0].inside == ((6, 12), (8, 19))
    both = cascade.Coarse(None, {"a": ((2, 9), (20, 25))})  # type: ignore[arg-type]
    assert cascade.around(stored(mask), both, 4.0).prepared[0].inside == ((2, 12), (8, 25))
    nothing = np.zeros_like(mask)
    assert cascade.around(stored(nothing), both, 4.0).prepared[0].inside == ((2, 9), (20, 25))
    assert cascade.around(stored(nothing), only, 4.0).prepared[0].inside is None


def test_what_the_coarse_network_cuts_is_told() -> None:
    whole = cascade.Coarse(None, {"a": ((0, 9), (0, 9))})  # type: ignore[arg-type]
    assert whole.doubt is None
    some = cascade.Coarse(None, {"a": ((0, 9),), "b": ((0, 9),)}, ("b",))  # type: ignore[arg-type]
    assert some.doubt is not None
    assert "1 of 2 cases" in some.doubt
    assert "(b)" in some.doubt


@pytest.mark.parametrize("inside", [((6, 30), (10, 40)), ((6, 10), (10, 12)), ((0, 40), (0, 50)), ((36, 40), (0, 5))])
def test_patches_are_drawn_where_is_looked(inside: tuple[tuple[int, int], ...]) -> None:
    task = Segment(SegmentSection(foreground=0.0), (Label("background"), Label("square")), (16, 12))
    where = np.stack(np.meshgrid(np.arange(40), np.arange(50), indexing="ij")).astype(np.float32)
    tensors = {"image": where, "truth": np.zeros((40, 50), np.uint8), "inside": np.array(inside)}
    firsts = []
    for seed in range(200):
        drawn = task.draw(tensors, np.random.default_rng(seed))
        first = drawn["image"][:, 0, 0]
        firsts.append(first)
        for start, side, patch, (low, high) in zip(first, (40, 50), (16, 12), inside, strict=True):
            assert 0 <= start <= side - patch
            # within the box where it is larger than the patch, else around it as far as the image allows
            assert start >= min(low, max(0, high - patch))
            assert start <= max(low, high - patch)
    spread = np.ptp(np.array(firsts), axis=0)
    room = [
        max(min(max(low, high - patch), side - patch) - max(min(low, high - patch), 0), 0)
        for side, patch, (low, high) in zip((40, 50), (16, 12), inside, strict=True)
    ]
    np.testing.assert_array_equal(spread, room)


def test_a_run_stopped_in_either_network_goes_on(pictures: Path, tmp_path: Path) -> None:
    data, told = open_dataset(pictures), []

    def stop(where: str, at: int) -> object:
        count = [0]

        def listener(event: Event) -> None:
            told.append(event.text)
            if event.kind == "progress" and event.text.startswith(where):
                count[0] += 1
                if count[0] == at:
                    raise KeyboardInterrupt

        return listener

    short = {"fit": FIT.model_copy(update={"epochs": 2}), "ensemble": EnsembleSection(folds=2, members=1)}
    run = one_run(1.0, coarse=one_run(4.0, **short), **short)
    with pytest.raises(InterruptedRun):
        train(run, data, tmp_path / "run", listener=stop("coarse: network", 8))  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "bundle").exists()
    assert (tmp_path / "run" / "run.yaml").exists()
    with pytest.raises(InterruptedRun):
        train(run, data, tmp_path / "run", resume=True, listener=stop("network", 8))  # type: ignore[arg-type]
    coarse = Bundle.load(tmp_path / "run" / "coarse").digest
    bundle = train(run, data, tmp_path / "run", resume=True, listener=lambda _: None)
    assert bundle.coarse is not None
    assert bundle.coarse.digest == coarse


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, "coarse.seed"),
        ({"ensemble": EnsembleSection(folds=3, members=2)}, "coarse.ensemble.folds"),
        ({"coarse": one_run(8.0)}, "coarse.coarse"),
    ],
)
def test_a_coarse_run_is_of_the_same_splits_and_alone(change: dict[str, object], words: str, tmp_path: Path) -> None:
    run = one_run(1.0, coarse=one_run(4.0, **change))
    run.save(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match=words):
        Run.load(tmp_path / "run.yaml")


def test_a_run_with_a_coarse_one_is_written_and_read(tmp_path: Path) -> None:
    cascaded().save(tmp_path / "run.yaml")
    assert Run.load(tmp_path / "run.yaml") == cascaded()
    assert Run.load(tmp_path / "run.yaml", ["coarse.fit.epochs=3"]).coarse.fit.epochs == 3  # type: ignore[union-attr]
    assert Run.load(tmp_path / "run.yaml", ["coarse=null"]).coarse is None


def test_a_changed_coarse_bundle_is_refused(trained: Path, tmp_path: Path) -> None:
    for name, change, words in (
        ("changed", lambda f: (f / "coarse" / "CARD.md").write_text("better"), "was changed"),
        ("extra", lambda f: (f / "coarse" / "more.json").write_text("{}"), "does not belong"),
        ("gone", lambda f: (f / "coarse" / "spec.json").unlink(), "is missing"),
        ("folder", lambda f: (f / "coarse" / "coarse").mkdir(), "link, a folder"),
    ):
        shutil.copytree(trained / "bundle", tmp_path / name)
        change(tmp_path / name)
        with pytest.raises(BundleError, match=words):
            Bundle.load(tmp_path / name)
    shutil.copytree(trained / "bundle", tmp_path / "link")
    shutil.move(tmp_path / "link" / "coarse", tmp_path / "elsewhere")
    (tmp_path / "link" / "coarse").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="link"):
        Bundle.load(tmp_path / "link")


def test_an_exported_copy_keeps_the_coarse_bundle(trained: Path, pictures: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "exported")
    assert medmap(["export", str(trained), "-o", out, "--to", "openvino", "--dataset", str(pictures)]) == 0
    assert Bundle.load(out).coarse.digest == Bundle.load(trained).coarse.digest  # type: ignore[union-attr]


def test_a_copied_bundle_keeps_its_coarse_one(trained: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(trained)
    copied = bundle.copied(tmp_path / "kept", {"note.txt": b"why"})
    assert copied.digest == bundle.digest
    assert copied.coarse is not None
