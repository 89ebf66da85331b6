"""Faults planted in volumes are found, each under its name, and a data set without any is left in peace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from volume_cases import SHAPE, Chests, chest, values

from medmap.check import check
from medmap.check.volumes import unusual, volume_facts
from medmap.geometry import Crop, Geometry
from medmap.image import Image


@pytest.fixture
def chests(tmp_path):
    return Chests(tmp_path)


def cases_of(issues, code):
    return next((issue.cases for issue in issues if issue.code == code), ())


def codes(issues):
    return {issue.code for issue in issues}


def test_a_sound_data_set_raises_nothing(chests):
    assert [issue for issue in check(chests.write()) if issue.severity != "info"] == []


def test_volumes_of_two_sizes_keep_them(chests):
    def cut(volume):
        return volume.moved(Crop((0, 0, 0), (SHAPE[0] - 4, *SHAPE[1:])))

    chests.images[3] = chests.masks[3] = cut
    (found,) = [issue for issue in check(chests.write()) if issue.code == "mixed_sizes"]
    assert found.cases == ("c03",)
    assert "keeps its size" in found.effect
    assert "stretched" not in found.effect + found.remedy


def test_a_mirrored_volume_is_suspected(chests):
    chests.images[4] = values(lambda a: a[::-1])
    chests.masks[4] = values(lambda a: a[::-1])
    issues = check(chests.write())
    assert cases_of(issues, "left_right_flip") == ("c04",)
    assert "mirrored_mask" not in codes(issues)  # image and mask agree


def test_a_volume_written_with_other_axes_is_no_mirror_image(chests):
    chests.images[4] = lambda image: image.oriented("RAS")
    chests.masks[4] = lambda mask: mask.oriented("RAS")
    issues = check(chests.write())
    assert "left_right_flip" not in codes(issues)
    assert "grid_mismatch" not in codes(issues)


def test_units_that_were_lost(chests):
    chests.images[1] = values(lambda a: np.clip((a + 160) / 400 * 255, 0, 255).astype(np.uint8))
    chests.images[2] = values(lambda a: np.maximum(a + 1024, 0))
    metres = lambda image: replace(image, geometry=Geometry(SHAPE, np.diag([0.008, 0.008, 0.009, 1.0])))  # noqa: E731
    chests.images[3] = chests.masks[3] = metres
    issues = check(chests.write())
    assert cases_of(issues, "eight_bit_ct") == ("c01",)
    assert cases_of(issues, "ct_without_air") == ("c02",)
    assert cases_of(issues, "unlikely_millimetres") == ("c03",)
    assert cases_of(issues, "spacing_outlier") == ("c03",)


def test_a_spacing_and_a_range_unlike_the_others(chests):
    longer = lambda image: replace(  # noqa: E731
        image, geometry=Geometry(SHAPE, np.diag([8.0, 8.0, 27.0, 1.0]))
    )
    chests.images[5] = chests.masks[5] = longer
    chests.images[6] = values(lambda a: a * 40)
    issues = check(chests.write())
    assert cases_of(issues, "spacing_outlier") == ("c05",)
    assert cases_of(issues, "intensity_outlier") == ("c06",)


def test_a_body_cut_off_by_the_field_of_view(chests):
    def cut(image):
        return image.moved(*image.geometry.match(image.geometry.crop((12, 0, 0), (28, 36, 24))))

    chests.images[7] = chests.masks[7] = cut
    issues = check(chests.write())
    assert cases_of(issues, "field_of_view_cut_off") == ("c07",)
    assert cases_of(issues, "structure_cut_off") == ("c07",)


def test_noise_blur_and_motion(chests):
    rng = np.random.default_rng(0)
    chests.images[1] = values(lambda a: (a + rng.normal(0, 90, a.shape)).astype(np.int16))
    chests.images[2] = values(lambda a: gaussian_filter(a.astype(np.float32), (2.5, 2.5, 0)).astype(np.int16))

    def moved(a):
        out = a.copy()
        out[:, :, 1::2] = np.roll(out[:, :, 1::2], 4, axis=0)
        return out

    chests.images[3] = values(moved)
    issues = check(chests.write())
    assert cases_of(issues, "noisy_image")[:1] == ("c01",)
    assert "c02" in cases_of(issues, "blurred_image")
    assert cases_of(issues, "motion_suspected")[:1] == ("c03",)


def test_one_scan_cut_in_two_ways_across_splits(chests):
    chests.splits = lambda i: "test" if i == 11 else "train"

    def upper(image):
        return image.moved(*image.geometry.match(image.geometry.crop((0, 0, 6), (40, 36, 18))))

    chests.images[11] = lambda _: upper(chest(3)[0])
    chests.masks[11] = lambda _: upper(chest(3)[1])
    issues = check(chests.write())
    (found,) = [issue for issue in issues if issue.code == "slices_across_splits"]
    assert found.severity == "error"
    assert set(found.cases) == {"c03", "c11"}
    assert found.details["groups"][0]["slices"] == 18
    assert "duplicate_across_splits" not in codes(issues)


def test_facts_of_a_volume_state_what_they_say():
    image, _ = chest(0)
    facts = volume_facts(image)
    assert facts.extent_mm == (320, 288, 216)
    assert facts.air == pytest.approx((image.array < -800).mean())
    assert max(facts.faces[:4]) == 0 < min(facts.faces[4:])  # the body runs out at head and feet alone
    assert len(facts.slices) == 24
    without = Image(image.array, Geometry.without_size(SHAPE))
    assert volume_facts(without).sideways is None
    assert volume_facts(without).extent_mm is None


def test_what_is_unusual_needs_others_to_be_unlike():
    assert not unusual([1, 1, 9]).any()
    assert unusual([1] * 10 + [9], 1.5).tolist() == [False] * 10 + [True]
    assert not unusual([1] * 10 + [1.2], 1.5).any()
    assert unusual([0.0] * 9 + [1e-3]).tolist()[-1]
