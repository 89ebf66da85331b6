"""Coarse to fine: the coarse network comes first, the other learns, is judged and answers where it found something."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from medmap.augment import OFF
from medmap.bundle import Bundle
from medmap.cli import run as medmap
from medmap.dataset import Case
from medmap.decision import ComponentRule
from medmap.errors import BundleError, ConfigError, DataError, InterruptedRun, MedmapError, UsageError
from medmap.evaluate import Options, evaluate
from medmap.feed import PreparedCase, build_patch_store
from medmap.fit import FitSection
from medmap.geometry import Geometry, Trace
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.plan import RESERVE_S, CoarseSection, EnsembleSection, NetworkSection, Run
from medmap.predict import predict
from medmap.predict.masks import MaskView, task_of
from medmap.prepare import PrepareSection, Recipe
from medmap.results import Label, Mask
from medmap.tasks.segment import Segment, SegmentSection
from medmap.tasks.structures import Structures
from medmap.train import Event, cascade, train
from medmap.train.events import Listener
from medmap.train.members import members
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


def cascaded(**more: object) -> Run:
    """Both networks; ``more`` of the fine one."""
    return one_run(1.0, coarse=CoarseSection.of(one_run(4.0)), **more)


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
    """Each coarse mask is that of the fold that left the case out, and no fine mask reaches beyond its box."""
    folder, bundle = trained / "coarse", Bundle.load(trained)
    assert bundle.coarse is not None
    data = open_dataset(pictures)
    pool = data.with_cases([case for case in data if case.split != "test"])
    store = build_patch_store(pool, Recipe.from_json(bundle.spec.members[0].recipe), memory_bytes=2**30)
    left_out = {store.cases[row].id: m.number for m in members(store, cascaded().ensemble, 0) for row in m.judge}
    by = {}
    for path in sorted((folder / "judged").glob("*.npz")):
        with np.load(path) as held:
            by[str(held["case"])] = int(path.stem.split("_")[1])
    assert by == left_out
    report = json.loads((trained / "evaluation" / "metrics.json").read_text())
    assert report["split"] == "oof"
    assert report["cases"] == len(pool)
    boxes = cascade.found(structures_of(bundle), folder, store, AROUND_MM)
    assert set(boxes) == set(by)
    for path in (trained / "judged").glob("*.npz"):
        with np.load(path) as held:
            mask, box = held["labels"], boxes[str(held["case"])]
        assert box is not None
        outside = np.ones(mask.shape, bool)
        outside[tuple(slice(*ends) for ends in box)] = False
        assert outside.any()
        assert not mask[outside].any()


def structures_of(bundle: Bundle) -> Structures:
    assert bundle.coarse is not None
    return task_of(bundle.coarse, (16, 16)).structures


def test_parts_are_kept_by_rules_that_did_not_see_the_case(trained: Path, pictures: Path, tmp_path: Path) -> None:
    """A stray part in the coarse mask: dropped only where the case's own rule, fitted without its fold, says so."""
    bundle, data = Bundle.load(trained), open_dataset(pictures)
    store = build_patch_store(
        data.with_cases([next(iter(data))]), Recipe.from_json(bundle.spec.members[0].recipe), memory_bytes=2**30
    )
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[20:30, 20:30] = 1
    labels[60, 60] = 1
    (tmp_path / "judged").mkdir()
    np.savez(tmp_path / "judged" / "000000_000.npz", labels=labels, case=np.str_("c0"))
    structures = structures_of(bundle)
    assert cascade.found(structures, tmp_path, store, 0.0)["c0"] == ((20, 61), (20, 61))
    cascade.write_rules(tmp_path, {"c0": {1: ComponentRule(smallest=5.0)}})
    assert cascade.found(structures, tmp_path, store, 0.0)["c0"] == ((20, 30), (20, 30))


@pytest.fixture
def any_coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of an epoch or two are relied on."""
    monkeypatch.setattr(cascade, "MOST_MISSED", 1.0)


@pytest.mark.usefixtures("any_coarse")
def test_a_case_that_no_coarse_network_judged_is_not_judged(pictures: Path, tmp_path: Path) -> None:
    """The clock took one of two coarse networks: half of the cases have no honest place to look."""
    data, short = open_dataset(pictures), FIT.model_copy(update={"epochs": 1})
    run = cascaded(fit=short).model_copy(update={"coarse": CoarseSection.of(one_run(4.0, fit=short))})
    with pytest.raises(InterruptedRun):
        train(run, data, tmp_path / "run", listener=stop("network", 1))
    gone = sorted((tmp_path / "run" / "coarse" / "judged").glob("*_001.npz"))
    for path in gone:
        path.unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint", ignore_errors=True)
    train(run, data, tmp_path / "run", resume=True, listener=lambda _: None)
    report = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert report["cases"] == 8 - len(gone) > 0


def test_a_box_that_leaves_part_of_a_structure_out_is_found(trained: Path, pictures: Path) -> None:
    """The same run asked with the margin that it had, and with none: the coarse edges cut into the structure."""
    bundle, data = Bundle.load(trained), open_dataset(pictures)
    pool = data.with_cases([case for case in data if case.split != "test"])
    store = build_patch_store(pool, Recipe.from_json(bundle.spec.members[0].recipe), memory_bytes=2**30)
    assert bundle.coarse is not None
    cut = []
    for around_mm in (AROUND_MM, 0.0):
        run = cascaded(task=SegmentSection(around_mm=around_mm))
        _, coarse = cascade.looked_at(store, run, bundle.coarse, trained / "coarse")
        assert coarse is not None
        cut.append(coarse.missed)
        for case, row in zip(pool, store.prepared, strict=True):
            box = coarse.boxes[case.id]
            assert box is not None
            mask = row.truth[tuple(slice(*ends) for ends in box)]
            assert (case.id in coarse.missed) == (np.count_nonzero(mask) < np.count_nonzero(row.truth))
    assert len(cut[0]) <= len(cut[1])


def prepared(mask: np.ndarray) -> PreparedCase:
    grid = Geometry.from_spacing(mask.shape, (2.0, 1.0))
    case = Case("a", "p", inputs={})
    return PreparedCase(case, np.zeros((1, *mask.shape), np.float16), mask, {}, Trace(grid, ()), "")


def test_looked_at_is_where_a_structure_is_or_the_coarse_network_saw_one() -> None:
    structures = Structures((Label("background"), Label("square")))
    mask = np.zeros((20, 30), np.uint8)
    mask[8:10, 12:15] = 1
    mask[0, 0] = 255  # ignored: no structure
    row = prepared(mask)
    there = cascade._occupied(structures, row)
    assert there == ((8, 10), (12, 15))
    alone = cascade._around(row, there, None, 4.0)
    assert (alone.inside, alone.judged_inside) == (((6, 12), (8, 19)), None)
    box = ((2, 9), (20, 25))
    both = cascade._around(row, there, box, 4.0)
    assert (both.inside, both.judged_inside) == (((2, 12), (8, 25)), box)
    nothing = cascade._around(row, None, box, 4.0)
    assert (nothing.inside, nothing.judged_inside) == (box, box)
    assert cascade._around(row, None, None, 4.0).inside is None


def test_values_of_no_region_are_no_structure() -> None:
    structures = Structures((Label("core"),), {"core": (2,)})
    mask = np.zeros((20, 30), np.uint8)
    mask[1, 1], mask[8:10, 12:15] = 1, 2
    assert cascade._occupied(structures, prepared(mask)) == ((8, 10), (12, 15))


def test_what_the_coarse_network_misses_is_told() -> None:
    boxes = {str(n): ((0, 9),) for n in range(20)}
    whole = cascade.Coarse(None, boxes)  # type: ignore[arg-type]
    assert whole.doubt is None
    some = cascade.Coarse(None, boxes, ("1", "2"))  # type: ignore[arg-type]
    assert some.reliable
    assert some.doubt is not None
    assert "2 of 20 cases that it did not learn from (1, 2);" in some.doubt
    many = cascade.Coarse(None, boxes, ("1", "2", "3"))  # type: ignore[arg-type]
    assert not many.reliable
    assert many.doubt is not None
    assert "it is left out" in many.doubt


def test_a_coarse_network_that_misses_structures_is_left_out(pictures: Path, tmp_path: Path) -> None:
    """A coarse network of no training finds nothing: structures are looked for everywhere, and everything says so."""
    short = FIT.model_copy(update={"epochs": 1, "learning_rate": 1e-6})
    run = cascaded(ensemble=EnsembleSection(folds=2, members=1))
    run = run.model_copy(update={"coarse": CoarseSection.of(one_run(4.0, fit=short))})
    told: list[str] = []
    bundle = train(run, open_dataset(pictures), tmp_path / "run", listener=lambda e: told.append(e.text))
    assert bundle.coarse is None
    assert bundle.spec.run["coarse"] is None
    assert any("it is left out" in text for text in told)
    assert any("it is left out" in text for text in bundle.spec.warnings)


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


def stop(where: str, at: int) -> Listener:
    """A listener that presses Ctrl-C at the so manyeth sign of progress."""
    count = [0]

    def listener(event: Event) -> None:
        if event.kind == "progress" and event.text.startswith(where):
            count[0] += 1
            if count[0] == at:
                raise KeyboardInterrupt

    return listener


@pytest.mark.usefixtures("any_coarse")
def test_a_run_stopped_in_either_network_or_between_them_goes_on(pictures: Path, tmp_path: Path) -> None:
    data, output = open_dataset(pictures), tmp_path / "run"
    short = FIT.model_copy(update={"epochs": 2})
    run = cascaded(fit=short, ensemble=EnsembleSection(folds=2, members=1))
    run = run.model_copy(update={"coarse": CoarseSection.of(one_run(4.0, fit=short))})
    with pytest.raises(InterruptedRun):
        train(run, data, output, listener=stop("coarse: network", 8))
    assert not (output / "bundle").exists()
    assert (output / "run.yaml").exists()
    with pytest.raises(KeyboardInterrupt):
        train(run, data, output, resume=True, listener=stop("preparing", 1))
    coarse = Bundle.load(output / "coarse").digest
    with pytest.raises(InterruptedRun):
        train(run, data, output, resume=True, listener=stop("network", 8))
    other = run.model_copy(update={"coarse": CoarseSection.of(one_run(4.0, fit=FIT))})
    with pytest.raises(DataError, match="another run"):
        train(other, data, output, resume=True, listener=lambda _: None)
    bundle = train(run, data, output, resume=True, listener=lambda _: None)
    assert bundle.coarse is not None
    assert bundle.coarse.digest == coarse


def test_a_wrong_network_is_found_before_the_coarse_one_is_trained(pictures: Path, tmp_path: Path) -> None:
    run = cascaded(network=NetworkSection(name="nope"))
    with pytest.raises(MedmapError, match="nope"):
        train(run, open_dataset(pictures), tmp_path / "run")
    assert not (tmp_path / "run" / "coarse").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("coarse.seed=3", "unknown key coarse.seed"),
        ("coarse.ensemble.folds=3", "unknown key coarse.ensemble"),
        ("coarse.coarse.time_share=0.2", "unknown key coarse.coarse"),
        ("coarse.time_share=1", "coarse.time_share"),
    ],
)
def test_a_coarse_network_is_dealt_as_the_run_is(text: str, words: str, tmp_path: Path) -> None:
    cascaded().save(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match=words):
        Run.load(tmp_path / "run.yaml", [text])


def test_what_is_set_of_the_run_holds_for_both(tmp_path: Path) -> None:
    cascaded(budget_s=1000).save(tmp_path / "run.yaml")
    texts = ["seed=4", "splits.test=0.3", "ensemble.folds=3", "ensemble.members=3", "fit.threads=2", "budget_s=400"]
    run = Run.load(tmp_path / "run.yaml", texts)
    coarse = run.coarse_run
    assert coarse is not None
    assert (coarse.seed, coarse.splits.test, coarse.ensemble.folds, coarse.fit.threads) == (4, 0.3, 3, 2)
    assert coarse.budget_s == 400 / 4 + RESERVE_S
    short = run.override(["budget_s=10"]).coarse_run
    assert short is not None
    assert short.budget_s == 10
    assert coarse.ensemble.members == 3
    many = run.override(["ensemble.members=9"]).coarse_run
    assert many is not None
    assert many.ensemble.members == 3


def test_only_masks_are_found_coarse_to_fine(tmp_path: Path) -> None:
    cascaded().save(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="coarse is for masks") as error:
        Run.load(tmp_path / "run.yaml", ["task={kind: classify}"])
    assert len(str(error.value)) < 300


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
    for name, part in (("stripped", "coarse/"), ("unsigned", "coarse/SHA256SUMS")):
        shutil.copytree(trained / "bundle", tmp_path / name)
        sums = tmp_path / name / "SHA256SUMS"
        lines = sums.read_text().splitlines(keepends=True)
        sums.write_text("".join(line for line in lines if not line.split("  ")[1].startswith(part)))
        if name == "stripped":
            shutil.rmtree(tmp_path / name / "coarse")
        else:
            (tmp_path / name / part).unlink()
        with pytest.raises(BundleError, match="is not whole"):
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


def test_a_broken_coarse_bundle_is_refused_before_anything_is_replaced(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "bundle", tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    states = [bundle.state_dict(n) for n in range(len(bundle.spec.members))]
    coarse = bundle.coarse
    assert coarse is not None
    whole = {f"coarse/{name}": data for name, data in coarse.contents().items()}
    for files in (
        {**whole, "coarse/CARD.md": b"better"},
        {name: data for name, data in whole.items() if not name.endswith("SUMS")},
        {name: data for name, data in whole.items() if not name.endswith("spec.json")},
    ):
        with pytest.raises(BundleError):
            Bundle.write(bundle.path, bundle.spec, states, card="", files=files, overwrite=True)
        assert Bundle.load(bundle.path).digest == bundle.digest


def test_bundles_that_look_in_different_places_do_not_answer_together(
    trained: Path, pictures: Path, tmp_path: Path
) -> None:
    one, image = Bundle.load(trained), pictures / "images" / "0.nii.gz"
    whole = predict(one, image)
    twice = predict([one, one], image)
    np.testing.assert_array_equal(whole.outputs["mask"].array, twice.outputs["mask"].array)  # type: ignore[union-attr]
    states = [one.state_dict(n) for n in range(len(one.spec.members))]
    run = {**one.spec.run, "coarse": None}
    alone = Bundle.write(tmp_path / "alone", one.spec.model_copy(update={"run": run}), states, card="")
    for pair in ([one, alone], [alone, one]):
        with pytest.raises(UsageError, match="different places"):
            predict(pair, image)


def test_both_networks_are_verified(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert medmap(["verify", str(trained)]) == 0
    assert "coarse network, torch float32: the same answer" in capsys.readouterr().out
