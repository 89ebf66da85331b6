"""The sheet of augmented images says what one looks at, in its colours, with the outlines of what is to be found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train_detect import small_run, write_discs

from medmap.augment import OFF
from medmap.dataset import Dataset
from medmap.geometry import Geometry
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.plan import NetworkSection, Run, make_task, sample_images
from medmap.prepare import PrepareSection, fit
from medmap.read import read
from medmap.train import CRAFTS, sheet
from medmap.train.sheet import TILE, VIEWS, write_contact_sheet
from medmap.write import write
from medmap.write.captions import LINE
from medmap.write.colours import COLOURS
from nested_masks import nested_run, write_nested

CAPTION = LINE + 4
TITLE = "Training images (left) and 7 augmented views of each, as the network may see them"
FLESH = (200, 90, 30)
Sheet = Callable[[Dataset, Run], np.ndarray]


@pytest.fixture
def drawn(tmp_path: Path) -> Sheet:
    """The sheet of a dataset's cases by a run."""

    def sheet_of(data: Dataset, run: Run) -> np.ndarray:
        recipe = fit(run.prepare, sample_images(data, 100))
        store = CRAFTS[run.task.kind].store(run, data, recipe, tmp_path / "store", lambda done, total: None)
        path = tmp_path / "augmented.png"
        write_contact_sheet(path, store, make_task(run, data), run, recipe)
        return np.asarray(read(path).array)

    return sheet_of


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the captions say."""
    rows: list[list[str]] = []
    lines = sheet.caption
    monkeypatch.setattr(sheet, "caption", lambda said, wide: rows.append([w for _, w in said]) or lines(said, wide))
    return rows


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=-1).any())


def tile(picture: np.ndarray, row: int, view: int, legend: int, size: tuple[int, int]) -> np.ndarray:
    """One view without its black edge, of a sheet with so many structures in the legend."""
    top = CAPTION + LINE * legend + row * (CAPTION + size[0] + 2) + CAPTION + 1
    left = view * (size[1] + 2) + 1
    return picture[top : top + size[0], left : left + size[1]]


def write_colours(folder: Path) -> Path:
    """Photographs of one colour with a darker square and its mask."""
    (folder / "images").mkdir(parents=True)
    rows = ["case,patient,split,image,mask"]
    for n in range(6):
        mask = np.zeros((40, 40), np.uint8)
        mask[10:22, 12:24] = 1
        picture = np.full((40, 40, 3), FLESH, np.uint8) // (1 + mask[..., None])
        picture[:4] = 0
        grid = Geometry.without_size((40, 40))
        write(Image(picture, grid, "colour", ("red", "green", "blue")), folder / f"images/{n}.png")
        write(Image(mask, grid, "label"), folder / f"images/{n}_mask.png")
        rows.append(f"c{n},p{n},train,images/{n}.png,images/{n}_mask.png")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: flesh\ntask: segment\ninputs: {image: {modality: OP}}\n"
        "labels: {0: background, 1: square}\n"
    )
    return folder


@pytest.mark.parametrize("intensity", ["range", "zscore"])
def test_colours_keep_their_proportions(intensity: str, drawn: Sheet, tmp_path: Path) -> None:
    prepare = PrepareSection(shape=(40, 40), grid="native", intensity=intensity, channels=3)  # type: ignore[arg-type]
    run = nested_run().model_copy(update={"prepare": prepare})
    picture = drawn(open_dataset(write_colours(tmp_path / "data")), run)
    zoom = TILE // 40
    one = tile(picture, 0, 0, 1, (40 * zoom, 40 * zoom)).astype(float)
    ground = one[30 * zoom, 5 * zoom]
    if intensity == "range":
        np.testing.assert_allclose(ground / ground[0], np.array(FLESH) / FLESH[0], atol=0.02)
        np.testing.assert_allclose(one[15 * zoom, 15 * zoom], ground / 2, atol=2)
        assert one[zoom, 5 * zoom].max() <= 1  # black stays black
    else:
        assert one[zoom, 5 * zoom].max() < ground.min()


@pytest.mark.parametrize("regions", [False, True])
def test_masks_are_outlined_in_the_colours_of_their_structures(
    regions: bool, drawn: Sheet, told: list[list[str]], tmp_path: Path
) -> None:
    run = nested_run(augment=OFF.model_copy(update={"flip_axes": (0, 1)}), foreground=1.0)
    picture = drawn(open_dataset(write_nested(tmp_path / "data", 6, regions=regions)), run)
    names = ["whole", "core"] if regions else ["rim", "core"]
    assert told[-1] == [f"{TITLE}, with masks", *names]
    assert told[:6] == [[f"case c{n}"] for n in range(6)]
    for row in range(6):
        for view in range(VIEWS + 1):
            one = tile(picture, row, view, 2, (TILE, TILE))
            rim = (one == COLOURS[0]).all(axis=-1)
            assert rim.any()
            grey = np.ptp(one.astype(int), axis=-1) == 0
            assert one[~grey].size  # nothing but outlines is in colour
            assert {tuple(c) for c in one[~grey].tolist()} <= {COLOURS[0], COLOURS[1]}
    assert has(tile(picture, 0, 0, 2, (TILE, TILE)), COLOURS[1])


def test_a_volume_shows_the_slice_with_most_of_its_mask(drawn: Sheet, told: list[list[str]], tmp_path: Path) -> None:
    run = nested_run(3, foreground=1.0)
    picture = drawn(open_dataset(write_nested(tmp_path / "data", 6, dimensions=3)), run)
    assert told[-1][0] == f"{TITLE}, with masks; slices with most of the mask"
    size = (8 * TILE // 16, TILE)
    assert all(has(tile(picture, row, view, 2, size), COLOURS[0]) for row in range(6) for view in range(VIEWS + 1))


@pytest.mark.parametrize(("held", "at"), [([0, 2, 5, 5, 5, 1], 3), ([0, 0, 0, 0], 2), ([0, 0, 0, 1], 3)])
def test_the_fullest_slice_is_shown(held: list[int], at: int) -> None:
    assert sheet._fullest(np.array(held)) == at


@pytest.mark.parametrize("ndim", [2, 3])
def test_boxes_are_outlined_where_they_lie(ndim: int, drawn: Sheet, told: list[list[str]], tmp_path: Path) -> None:
    data = open_dataset(write_discs(tmp_path / "data", 8, ndim))
    picture = drawn(data, small_run(ndim=ndim))
    assert told[-1] == [f"{TITLE}, with boxes" + ("; slices with most boxes" if ndim == 3 else ""), "bright", "dark"]
    assert not has(tile(picture, 0, 0, 2, (TILE, TILE)), COLOURS[0])  # a case without boxes
    within: list[Any] = []
    for row in (1, 2, 3, 5, 6, 7):
        one = tile(picture, row, 0, 2, (TILE, TILE))
        for colour, light in ((COLOURS[0], 1), (COLOURS[1], -1)):
            where = np.argwhere((one == colour).all(axis=-1))
            if len(where):
                (top, left), (bottom, right) = where.min(0), where.max(0)
                middle = one[(top + bottom) // 2, (left + right) // 2].astype(float).mean()
                within.append(light * (middle - 128) > 60)
    assert len(within) >= 6
    assert np.mean(within) > 0.6  # blobs may hide each other


def test_a_classification_has_nothing_to_outline(data: Dataset, run: Run, drawn: Sheet, told: list[list[str]]) -> None:
    picture = drawn(data, run.model_copy(update={"network": NetworkSection(name="small_resnet", width=0.25)}))
    assert told[-1] == [TITLE]
    assert picture.shape == (CAPTION + 8 * (CAPTION + TILE + 2), 8 * (TILE + 2), 3)
    assert not np.ptp(picture[CAPTION + CAPTION :][:TILE].astype(int), axis=-1).any()  # grey stays grey
    assert picture[:CAPTION].max() > 200  # there are letters
