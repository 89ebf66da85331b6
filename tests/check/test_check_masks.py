"""Masks that do not fit their image, and `--fix geometry`: nothing is lost, what cannot be mended is said."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from volume_cases import SHAPE, SPACING, Chests, chest, relocated, values

from grids import oblique_geometry
from medmap.check import check, mend_geometry
from medmap.check.masks import fit_of_flips, mask_facts, related
from medmap.check.truths import header_text, sided_pairs
from medmap.cli import run as medmap
from medmap.dataset import Ref
from medmap.errors import UsageError
from medmap.geometry import Crop, Flip, Geometry, Permute, Resample
from medmap.image import Image
from medmap.layouts import open_dataset, write_dataset
from medmap.read import read_ref
from medmap.results import Label


@pytest.fixture
def chests(tmp_path):
    (tmp_path / "data").mkdir()
    return Chests(tmp_path / "data")


def issue_of(issues, code):
    (found,) = [issue for issue in issues if issue.code == code]
    return found


def codes(issues):
    return {issue.code for issue in issues}


def test_grids_that_do_not_match_show_both_headers(chests):
    chests.masks[2] = relocated((0, 0, 40))
    issue = issue_of(check(chests.write()), "grid_mismatch")
    assert issue.cases == ("c02",)
    (row,) = issue.details["rows"]
    assert row["apart_mm"] == pytest.approx(40)
    assert row["image_header"] in issue.message
    assert row["mask_header"] in issue.message
    assert row["image_header"] != row["mask_header"]
    assert "--fix geometry" in issue.remedy


@pytest.mark.parametrize("voxels", [(1, 0, 0), (0, -3, 0), (2, 4, -1)])
def test_a_header_some_whole_voxels_off_is_a_mismatch_and_is_mended(chests, tmp_path, voxels):
    """A lost origin is often whole voxels away: nothing needs interpolating, and the structure is elsewhere."""
    chests.masks[2] = relocated(tuple(np.multiply(voxels, SPACING)))
    dataset = chests.write()
    issue = issue_of(check(dataset), "grid_mismatch")
    assert issue.cases == ("c02",)
    assert issue.details["fixable"]
    assert mend_geometry(dataset, tmp_path / "mended").mended == (("c02", "mask"),)


@pytest.mark.parametrize(("start", "told"), [(1, False), (24, True)])
def test_a_cropped_mask_is_a_mismatch_only_where_it_marks_what_its_image_lacks(chests, tmp_path, start, told):
    """Cropping to the structure loses nothing; an image cropped within the structure does not fit the mask."""
    size = (SHAPE[0] - start, *SHAPE[1:])
    chests.images[2] = lambda image: image.moved(Crop((start, 0, 0), size))
    dataset = chests.write()
    assert ("grid_mismatch" in codes(check(dataset))) == told
    mending = mend_geometry(dataset, tmp_path / "mended")
    assert mending.mended == ()
    assert len(mending.left) == told


def test_another_number_of_voxels_is_not_called_fixable(chests):
    chests.masks[2] = lambda mask: mask.moved(Resample((20, 18, 12)), order=0)
    issue = issue_of(check(chests.write()), "grid_mismatch")
    assert not issue.details["fixable"]
    assert "--fix" not in issue.remedy


def test_a_mask_flipped_together_with_its_header_is_no_mismatch(chests):
    chests.masks[2] = lambda mask: mask.oriented("RAS")
    assert not {"grid_mismatch", "mirrored_mask"} & codes(check(chests.write()))


def test_a_mask_flipped_without_its_header_is_suspected(chests):
    chests.masks[3] = values(lambda a: a[::-1])
    issue = issue_of(check(chests.write()), "mirrored_mask")
    assert issue.cases == ("c03",)
    assert issue.details["axis"] == 0
    assert "left and right" in issue.message


def test_labels_outside_the_list_fractions_and_empty_masks(chests):
    chests.masks[1] = values(lambda a: np.where(a == 2, 7, a))
    chests.masks[4] = lambda mask: mask.with_array(mask.array * np.float32(0.5), "halved")
    chests.masks[5] = values(np.zeros_like)
    issues = check(chests.write())
    outside = issue_of(issues, "label_outside_list")
    assert outside.cases == ("c01",)
    assert outside.severity == "error"
    assert list(outside.details["values"]) == ["7"]
    assert issue_of(issues, "fractional_mask").cases == ("c04",)
    assert issue_of(issues, "empty_mask").cases == ("c05",)


def test_masks_of_several_channels_are_named(chests):
    chests.masks[3] = lambda mask: Image(
        np.stack([mask.array, mask.array], -1), mask.geometry, "label", channels=("a", "b")
    )
    issues = check(chests.write())
    issue = issue_of(issues, "mask_with_channels")
    assert (issue.cases, issue.severity) == (("c03",), "error")
    assert issue.details["channels"] == {"c03": 2}
    assert "fractional_mask" not in codes(issues)


def test_the_ignored_value_and_regions_are_no_strangers(chests):
    chests.masks[1] = values(lambda a: np.where(a == 2, 255, a))
    dataset = replace(chests.write(), ignore=255)
    assert "label_outside_list" not in codes(check(dataset))


def test_a_structure_that_nobody_drew(chests):
    chests.names = (*chests.names, "heart")
    issue = issue_of(check(chests.write()), "structure_without_voxels")
    assert issue.details["structures"] == ["heart"]


def test_exchanged_sides(chests):
    chests.masks[6] = values(lambda a: np.choose(a, [0, 2, 1]).astype(np.uint8))
    issue = issue_of(check(replace(chests.write(), mirror_pairs=())), "sides_exchanged")
    assert issue.cases == ("c06",)
    assert issue.severity == "error"


def test_names_tell_sides():
    def pairs(*names, mirror_pairs=()):
        dataset = Chests.__new__(Chests)
        from medmap.dataset import Case, Dataset, InputSpec

        dataset = Dataset(
            "d", "segment", (Case("a", "a", {}),), {"image": InputSpec()}, tuple(map(Label, names)),
            mirror_pairs=mirror_pairs,
        )  # fmt: skip
        return sided_pairs(dataset)

    assert pairs("background", "lung_left", "lung_right") == [(1, 2)]
    assert pairs("background", "kidney R", "kidney L", "liver") == [(2, 1)]
    assert pairs("background", "cleft", "bright") == []
    assert pairs("background", "right eye", "Left Eye", mirror_pairs=(("right eye", "Left Eye"),)) == [(2, 1)]


def test_a_mask_that_cannot_be_read_is_said_to_be(chests):
    dataset = chests.write()
    (chests.folder / "c01_mask.nii.gz").write_bytes(b"no image")
    (chests.folder / "c02_mask.nii.gz").unlink()
    issues = check(dataset)
    assert issue_of(issues, "unreadable_file").cases == ("c01",)
    assert issue_of(issues, "missing_file").cases == ("c02",)


# -- relations of grids -----------------------------------------------------------------------------------------------


def test_how_grids_lie_to_each_other():
    grid = oblique_geometry()
    assert related(grid, grid) == ("same", 0)
    assert related(grid, None)[0] == "unknown"
    turned = Permute((2, 0, 1)).apply(Flip((1,)).apply(grid))
    assert related(turned, grid)[0] == "exact"
    moved = Geometry(grid.shape, grid.affine_lps_mm + np.array([[0, 0, 0, 0.5]] + [[0] * 4] * 3))
    relation, apart = related(moved, grid)
    assert relation == "header"
    assert apart == pytest.approx(0.5)
    assert related(Resample((5, 7, 12)).apply(grid), grid)[0] == "shape"
    assert related(Geometry.without_size((5, 7)), Geometry.without_size((5, 7)))[0] == "same"
    assert related(Geometry.without_size((5, 7)), Geometry.without_size((7, 5)))[0] == "shape"


@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_the_fit_of_a_mirrored_mask_is_the_inverse_of_the_right_one(seed, axis):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(9, 11, 13))
    mask = np.zeros(image.shape, bool)
    corner = rng.integers(0, 4, 3)
    mask[tuple(slice(c, c + 5) for c in corner)] = True
    right, flipped = fit_of_flips(mask, image), fit_of_flips(np.flip(mask, axis), image)
    assert right is not None
    assert flipped is not None
    assert right[axis] * flipped[axis] == pytest.approx(1, rel=1e-6)


def test_centres_are_where_the_structure_is():
    grid = oblique_geometry()
    array = np.zeros(grid.shape, np.uint8)
    array[1:3, 2:5, 6:10] = 4
    facts = mask_facts("c", 0, "m", Image(array, grid, "label"), None)
    np.testing.assert_allclose(facts.centres_mm[4], grid.to_world([[1.5, 3, 7.5]])[0], atol=1e-9)
    assert facts.counts == {4: 24}


def test_a_header_in_words_tells_grids_apart():
    grid = oblique_geometry()
    assert header_text(grid).startswith("5 × 7 × 11 voxels of 0.7 × 1.3 × 2.9 mm")
    left_back_up = Geometry.from_spacing((4, 5, 6), (1, 1, 2), origin_mm=(7, -10, 0))
    assert "first voxel at (7, -10, 0) mm LPS = (-7, 10, 0) mm RAS, axes LPS" in header_text(left_back_up)
    detector = Geometry.from_spacing((4, 5), (0.1, 0.1), kind="detector")
    assert "LPS =" not in header_text(detector)
    assert header_text(Geometry.without_size((5, 7))) == "5 × 7 voxels without a size"


# -- --fix geometry ---------------------------------------------------------------------------------------------------


def test_mended_masks_have_their_images_header_and_keep_the_old_one(chests, tmp_path):
    chests.masks[2] = relocated((0, 0, 40))
    chests.masks[3] = lambda mask: mask.moved(Resample((20, 18, 12)), order=0)
    dataset = chests.write()
    before = {p: hashlib.sha256(p.read_bytes()).digest() for p in chests.folder.iterdir()}
    mending = mend_geometry(dataset, tmp_path / "mended")
    assert mending.mended == (("c02", "mask"),)
    assert [case for case, _ in mending.left] == ["c03"]
    assert {p: hashlib.sha256(p.read_bytes()).digest() for p in chests.folder.iterdir()} == before
    write_dataset(mending.dataset, tmp_path / "mended")
    again = open_dataset(tmp_path / "mended")
    mask = read_ref(again, again["c02"].truth.masks[0])
    image = read_ref(again, again["c02"].inputs["image"])
    assert mask.geometry.same_grid(image.geometry)
    np.testing.assert_array_equal(mask.array, chest(2)[1].array)
    (mended_file,) = (tmp_path / "mended" / "masks").iterdir()
    theirs = nibabel.load(mended_file)
    np.testing.assert_array_equal(np.asarray(theirs.dataobj), chest(2)[1].array)
    np.testing.assert_allclose(theirs.affine, nibabel.load(chests.folder / "c02.nii.gz").affine, atol=1e-4)
    (kept,) = (tmp_path / "mended" / "headers").iterdir()
    old = json.loads(kept.read_text())
    assert Geometry.from_json(old["old_header"]).same_grid(relocated((0, 0, 40))(chest(2)[1]).geometry)
    assert old["sha256"] == before[chests.folder / "c02_mask.nii.gz"].hex()
    assert issue_of(check(again), "grid_mismatch").cases == ("c03",)
    assert len(again) == len(dataset)


def test_a_mirrored_mask_is_not_made_to_match(chests, tmp_path):
    def flipped_and_relocated(mask):
        return relocated((0, 0, 40))(values(lambda a: a[::-1])(mask))

    chests.masks[2] = flipped_and_relocated
    mending = mend_geometry(chests.write(), tmp_path / "mended")
    assert mending.mended == ()
    assert "mirrored" in mending.left[0][1]
    assert not (tmp_path / "mended").exists()


def test_mending_overwrites_nothing(chests, tmp_path):
    (tmp_path / "mended").mkdir()
    (tmp_path / "mended" / "mine").write_text("x")
    with pytest.raises(UsageError, match="in use"):
        mend_geometry(chests.write(), tmp_path / "mended")


def test_hostile_case_names_stay_inside_the_folder(chests, tmp_path):
    chests.masks[2] = relocated()
    dataset = chests.write()
    cases = [replace(c, id="../../" + c.id) for c in dataset]
    mending = mend_geometry(replace(dataset, cases=tuple(cases)), tmp_path / "mended")
    (written,) = (tmp_path / "mended" / "masks").iterdir()
    assert written.parent == tmp_path / "mended" / "masks"
    assert isinstance(mending.dataset.cases[2].truth.masks[0], Ref)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_mends_into_a_new_folder_and_checks_that(chests, tmp_path, capsys):
    chests.masks[2] = relocated((0, 0, 40))
    write_dataset(chests.write(), chests.folder)
    assert medmap(["check", str(chests.folder), "--json", "--quiet"]) == 1
    assert "grid_mismatch" in {row["code"] for row in json.loads(capsys.readouterr().out)}
    assert medmap(["check", str(chests.folder), "--fix", "geometry", "--json"]) == 0
    rows = {row["code"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["geometry_mended"]["cases"] == ["c02"]
    assert "grid_mismatch" not in rows
    mended = tmp_path / "data-mended"
    assert rows["geometry_mended"]["details"]["folder"] == str(mended)
    assert medmap(["check", str(mended), "--quiet"]) == 0
    assert medmap(["check", str(chests.folder), "--fix", "geometry"]) == 2  # the folder is in use now
    assert medmap(["check", str(chests.folder), "--fix", "labels"]) == 2


def test_nothing_to_mend_is_said(chests, capsys):
    write_dataset(chests.write(), chests.folder)
    assert medmap(["check", str(chests.folder), "--fix", "geometry", "--quiet"]) == 0
    assert "No header had to be mended" in capsys.readouterr().out


def test_hashes_of_masks_that_stay_go_with_them(chests, tmp_path):
    chests.masks[2] = relocated((0, 0, 40))
    dataset = chests.write()
    refs = {case.id: case.truth.masks[0].path for case in dataset}
    dataset = replace(dataset, hashes={path: f"hash of {case}" for case, path in refs.items()})
    mended = mend_geometry(dataset, tmp_path / "mended").dataset
    now = {case.truth.masks[0].path: f"hash of {case.id}" for case in mended if case.id != "c02"}
    assert dict(mended.hashes) == now
    assert now.keys() != dataset.hashes.keys()  # paths are told from another root
