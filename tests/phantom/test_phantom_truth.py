"""The phantom's truth is exact: sizes, boxes, densities, noise."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest

from medmap import phantom
from medmap.errors import DataError, UsageError
from medmap.phantom import anatomy, physics


def test_oblique_forgives_nothing():
    image = phantom.oblique()
    assert image.array.shape == (5, 7, 11)
    assert image.spacing_mm == pytest.approx((0.7, 1.3, 2.9))
    assert len(np.unique(image.array)) == 5 * 7 * 11
    affine = image.geometry.affine_lps_mm
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
    assert np.linalg.det(directions) == pytest.approx(1)
    assert np.abs(directions).max() < 0.95  # no axis runs along a world axis
    assert np.abs(affine[:3, 3]).min() > 10


def test_the_mask_of_a_nodule_has_the_volume_of_its_ellipsoid():
    case = phantom.ct_volume(3, shape=(64, 64, 48), lesions=1, radius_mm=(25, 25), photons=1e5)
    voxels = int((case.mask == 2).sum())
    exact = case.lesions[0].shape.volume_mm3
    assert voxels * case.image.geometry.voxel_volume_mm3 == pytest.approx(exact, rel=0.03)
    assert exact == pytest.approx(4 / 3 * math.pi * 25**3, rel=1e-9)  # squeezing keeps the volume


@pytest.mark.parametrize("make", [phantom.ct_slice, phantom.ct_volume, phantom.mr_volume])
def test_boxes_are_the_boxes_of_the_masks(make):
    case = make(5, lesions=2)
    found = np.zeros(case.mask.shape, bool)
    n = case.mask.ndim
    for (corners, label), centre in zip(case.boxes, case.centres_mm, strict=True):
        low, high = np.array(corners[:n], int), np.array(corners[n:], int)
        inside = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
        assert label == 0
        region = case.mask[inside] == 2
        for axis in range(n):  # every face of the box touches the lesion
            others = tuple(a for a in range(n) if a != axis)
            touched = region.any(axis=others)
            assert touched[0]
            assert touched[-1]
        found[inside] |= region
        index = case.image.geometry.to_index([centre])[0]
        assert (index >= low - 0.5).all()
        assert (index <= high + 0.5).all()
    np.testing.assert_array_equal(found, case.mask == 2)


def test_densities_are_the_declared_ones():
    case = phantom.ct_slice(1, shape=(128, 128), lesions=1, radius_mm=(18, 18), lesion_hu=(-300, -300))
    lesion = case.lesions[0].shape
    points = anatomy.voxel_centres_mm(case.image.geometry)
    core = lesion.distance_mm(points) < -8
    assert case.clean.array[core].mean() == pytest.approx(-300, abs=15)
    assert case.image.quantity == "HU"
    assert np.median(case.clean.array[:4]) == pytest.approx(-1000, abs=10)


def test_the_organ_of_the_mask_has_the_volume_of_its_shapes():
    head = phantom.mr_volume(2, shape=(72, 72, 60), lesions=0)
    exact = sum(shape.volume_mm3 for shape in anatomy.head(np.random.default_rng([2, 0, 0x0CA5E])).structures[1])
    assert (head.mask == 1).sum() * head.image.geometry.voxel_volume_mm3 == pytest.approx(exact, rel=0.1)
    chest = phantom.ct_slice(2, shape=(64, 64), lesions=0)
    assert np.median(chest.clean.array[chest.mask == 1]) == pytest.approx(anatomy.LUNG_HU, abs=60)
    assert set(np.unique(chest.mask)) == {0, 1}


def test_a_lesion_lies_in_its_host_and_clear_of_the_others():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        body = anatomy.chest(rng)
        placed = anatomy.place_lesions(rng, body, anatomy.LesionWish((8.0, 10.0, 12.0), (-500, -400), flat=False))
        for number, one in enumerate(placed):
            centre = np.asarray(one.shape.centre_mm)
            reach = max(one.shape.semi_axes_mm)
            assert min(float(host.distance_mm(centre)) for host in body.hosts) <= -reach
            assert all(float(k.distance_mm(centre)) >= reach for k in body.keep_out)
            for other in placed[:number]:
                gap = np.linalg.norm(centre - np.asarray(other.shape.centre_mm))
                assert gap > reach + max(other.shape.semi_axes_mm)


def test_distances_are_signed_and_exact_where_promised():
    ball = anatomy.Ellipsoid((1, 2, 3), (4, 4, 4))
    points = np.array([[1.0, 2, 3], [6, 2, 3], [1, 2, 7], [1, 2, 5]])
    np.testing.assert_allclose(ball.distance_mm(points), [-4, 1, 0, -2], atol=1e-9)
    tube = anatomy.Tube((0, 0, 0), (0, 0, 10), 2)
    np.testing.assert_allclose(tube.distance_mm(np.array([[5.0, 0, 5], [0, 0, 13], [1, 0, 2]])), [3, 1, -1])
    turned = anatomy.Ellipsoid((0, 0, 0), (10, 2, 2), 90)
    assert turned.inside(np.array([0.0, 9.5, 0]))
    assert not turned.inside(np.array([9.5, 0.0, 0]))
    assert tube.inside(np.array([0.0, 1.9, 5]))


# -- physics ----------------------------------------------------------------------------------------------------


def test_projections_conserve_mass_at_every_angle():
    image = np.zeros((1, 40, 40))
    image[0, 7:20, 11:33] = 0.3
    total = physics.project(image, angles=30).sum(axis=2)
    np.testing.assert_allclose(total, image.sum(), rtol=1e-3)


def test_a_noise_free_scan_gives_back_the_density_of_water():
    points = np.indices((80, 80)) - 39.5
    disc = np.where(np.hypot(*points) < 28, 0.0, -1000.0)
    for soft in (False, True):
        hu = physics.scan_ct(disc[None], 3.0, None, np.random.default_rng(0), soft)[0]
        assert hu[np.hypot(*points) < 22].mean() == pytest.approx(0, abs=8)
        assert hu[np.hypot(*points) > 36].mean() == pytest.approx(-1000, abs=12)


def test_noise_falls_with_the_square_root_of_the_photons():
    points = np.indices((64, 64)) - 31.5
    disc = np.where(np.hypot(*points) < 20, 0.0, -1000.0)[None].repeat(6, axis=0)
    centre = np.hypot(*points) < 10
    sd = []
    for photons in (2e4, 8e4):
        scans = physics.scan_ct(disc, 4.0, photons, np.random.default_rng(1))
        sd.append(np.diff(scans, axis=0)[:, centre].std() / math.sqrt(2))
    assert sd[0] / sd[1] == pytest.approx(2, rel=0.15)
    soft = physics.scan_ct(disc, 4.0, 2e4, np.random.default_rng(1), soft=True)
    assert np.diff(soft, axis=0)[:, centre].std() / math.sqrt(2) < 0.7 * sd[0]


def test_rician_noise_has_its_textbook_moments():
    rng = np.random.default_rng(2)
    sigma = 3.0
    air = physics.rician(np.zeros(200_000), sigma, rng)
    assert air.mean() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)  # Rayleigh
    assert air.std() == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.01)
    bright = physics.rician(np.full(200_000, 60.0), sigma, rng)
    assert bright.mean() == pytest.approx(math.sqrt(60**2 + sigma**2), rel=0.002)
    assert bright.std() == pytest.approx(sigma, rel=0.02)


def test_the_mr_bias_field_is_smooth_and_of_the_asked_strength():
    field = np.log(physics.bias_field((20, 24, 16), 0.4, np.random.default_rng(3)))
    assert field.max() == pytest.approx(0.4)
    assert field.min() == pytest.approx(-0.4)
    assert max(np.abs(np.diff(field, axis=a)).max() for a in range(3)) < 0.15
    flat = phantom.mr_volume(4, shape=(32, 32, 16), noise=1e-9, bias=0.0)
    np.testing.assert_allclose(flat.image.array, flat.clean.array, atol=1)


def test_speckle_fills_its_range_and_shows_the_lesion():
    case = phantom.ultrasound(7, malignant=True)
    assert case.image.array.dtype == np.uint8
    assert not case.image.geometry.has_size
    inside = case.mask == 2
    assert case.image.array[inside].mean() < case.image.array[~inside].mean() - 20
    assert (case.label, phantom.ultrasound(7).label) == (1, 0)


# -- many cases -----------------------------------------------------------------------------------------------------


def _digest(cases) -> str:
    running = hashlib.sha256()
    for case in cases:
        running.update(case.image.array.tobytes() + case.mask.tobytes())
        running.update(repr((case.id, case.patient, case.label, case.boxes, case.site, dict(case.columns))).encode())
    return running.hexdigest()


def test_a_seed_gives_the_same_cases_in_another_process():
    script = (
        "import hashlib\nfrom medmap import phantom\n"
        "h = hashlib.sha256()\n"
        "for m in ('CT', 'MR', 'US'):\n"
        "    for c in phantom.classification(3, 11, shape=(32, 32), modality=m):\n"
        "        h.update(c.image.array.tobytes() + c.mask.tobytes())\n"
        "        h.update(repr((c.id, c.patient, c.label, c.boxes, c.site, dict(c.columns))).encode())\n"
        "print(h.hexdigest())\n"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    here = [c for m in ("CT", "MR", "US") for c in phantom.classification(3, 11, shape=(32, 32), modality=m)]
    assert there.stdout.strip() == _digest(here)
    assert _digest(here) != _digest(phantom.classification(9, 12, shape=(32, 32)))


def test_a_case_does_not_depend_on_how_many_were_asked_for():
    few, many = phantom.classification(3, 5, shape=(24, 24)), phantom.classification(23, 5, shape=(24, 24))
    assert _digest(few) == _digest(many[:3])


def test_prevalence_labels_and_columns():
    cases = phantom.classification(40, 2, shape=(16, 16), modality="US", prevalence=0.25)
    assert sum(case.label for case in cases) == 10
    assert {case.columns["sex"] for case in cases} == {"F", "M"}
    assert all(20 <= case.columns["age"] <= 90 for case in cases)
    assert {case.columns["scanner"] for case in cases} == set(phantom.SCANNERS)
    assert len({case.patient for case in cases}) == 40
    assert all((case.label == 1) == bool(case.lesions) for case in phantom.classification(6, 0, shape=(24, 24)))


def test_images_of_one_patient_share_anatomy_and_label():
    cases = phantom.classification(8, 4, shape=(32, 32), images_per_patient=2)
    for first, second in zip(cases[::2], cases[1::2], strict=True):
        assert first.patient == second.patient
        assert (first.label, first.site, first.columns) == (second.label, second.site, second.columns)
        assert not np.array_equal(first.image.array, second.image.array)
        lungs = [(case.mask > 0) for case in (first, second)]
        assert (lungs[0] ^ lungs[1]).sum() <= 0.05 * lungs[0].sum()


def test_a_full_shortcut_ties_site_and_scanner_to_the_label():
    cases = phantom.classification(30, 6, shape=(16, 16), modality="US", shortcut=1.0)
    assert len({(case.label, case.site, case.columns["scanner"]) for case in cases}) == 2
    free = phantom.classification(60, 6, shape=(16, 16), modality="US")
    assert len({(case.label, case.site) for case in free}) == 4


def test_segmentation_detection_and_enhancement():
    cases = phantom.segmentation(8, 1, shape=(40, 40), lesions=(0, 2))
    assert {len(case.lesions) for case in cases} == {0, 1, 2}
    assert all(set(np.unique(case.mask)) <= {0, 1, 2} for case in cases)
    for case in phantom.detection(4, 2, shape=(24, 24, 24), modality="MR", lesions=(1, 2)):
        assert len(case.boxes) == len(case.centres_mm) >= 1
        assert len(case.boxes[0][0]) == 6
    for case in phantom.enhancement(2, 3, shape=(40, 40)):
        assert case.clean.geometry == case.image.geometry
        difference = case.image.array.astype(float) - case.clean.array
        assert 5 < difference[case.mask == 1].std() < 200
        assert abs(difference[case.mask == 1].mean()) < 15


def test_a_volume_phantom_for_classification():
    case = phantom.classification(2, 1, shape=(24, 24, 16), modality="CT")[0]
    assert case.image.array.shape == (24, 24, 16)
    assert case.image.geometry.orientation == "LPS"
    tall = phantom.ct_slice(0, shape=(40, 64))
    assert tall.image.array.shape == (40, 64)


# -- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: phantom.ct_slice(0, shape=(8, 8, 8)), UsageError),
        (lambda: phantom.ct_volume(0, shape=(32, 32)), UsageError),
        (lambda: phantom.ct_slice(0, lesions=-1), UsageError),
        (lambda: phantom.ct_slice(0, shape=(4, 4)), DataError),
        (lambda: phantom.mr_volume(0, shape=(600, 8)), DataError),
        (lambda: phantom.ct_slice(0, photons=0), DataError),
        (lambda: phantom.ct_slice(0, lesions=40, radius_mm=(30, 30)), DataError),
        (lambda: phantom.classification(0), UsageError),
        (lambda: phantom.classification(1, prevalence=1.5), UsageError),
        (lambda: phantom.classification(1, shortcut=-0.1), UsageError),
        (lambda: phantom.classification(1, images_per_patient=0), UsageError),
        (lambda: phantom.classification(1, modality="XX"), UsageError),
        (lambda: phantom.classification(1, modality="US", shape=(16, 16, 16)), UsageError),
        (lambda: phantom.segmentation(1, lesions=(3, 1)), UsageError),
        (lambda: physics.project(np.zeros((1, 4, 5)), 3), DataError),
    ],
)
def test_refusals(call, error):
    with pytest.raises(error):
        call()
