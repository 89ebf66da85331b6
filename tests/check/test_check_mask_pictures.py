"""Masks over pictures on the page: outlined, none lost in the thumbnail, the colours told once."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from medmap.check import Issue, write_check_report
from medmap.check.mask_pictures import masked, shrunk_labels
from medmap.dataset import Case, Dataset, InputSpec, Ref, Truth
from medmap.results import Label
from medmap.write.colours import COLOURS

SIDE = 600  # larger than a thumbnail: every third row and column is left


def pictures_with_masks(folder: Path, masks: list[np.ndarray]) -> Dataset:
    """Grey pictures, each with its mask."""
    cases = []
    for i, mask in enumerate(masks):
        grey = np.random.default_rng(i).integers(0, 90, mask.shape, dtype=np.uint8)
        Pillow.fromarray(grey).save(folder / f"c{i}.png")
        Pillow.fromarray(mask).save(folder / f"m{i}.png")
        cases.append(Case(f"c{i}", f"p{i}", {"image": Ref(f"c{i}.png")}, Truth(True, masks=(Ref(f"m{i}.png"),))))
    labels = tuple(Label(name) for name in ("background", "vessel", "lesion"))
    return Dataset("d", "segment", tuple(cases), {"image": InputSpec("XC")}, labels, "multiclass", folder)


def thin_and_small() -> np.ndarray:
    """A vessel one pixel wide that no third row holds, and a lesion of one pixel in an organ."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[100, 50:500] = 1
    mask[301:501, 301:501] = 1
    mask[400, 400] = 2
    return mask


def shown(text: str) -> list[np.ndarray]:
    uris = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [np.asarray(Pillow.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


def test_masks_are_outlined_on_pictures_and_the_colours_told_once(tmp_path: Path) -> None:
    data = pictures_with_masks(tmp_path, [thin_and_small(), np.zeros((40, 50), np.uint8)])
    found = [Issue(f"odd_{n}", "warning", "m", "e", "r", ("c0",)) for n in range(3)]
    text = write_check_report(found, data, tmp_path / "check.html").read_text(encoding="utf-8")
    outlined = [p for p in shown(text) if p.shape == (200, 200, 3)]
    assert len(outlined) == 4  # in each finding, and among the examples
    for picture in outlined:
        assert (picture[33, 20:160] == COLOURS[0]).all()
        assert (picture[133, 133] == COLOURS[1]).all()
        inside = picture[110:125, 110:125]
        assert (inside[..., 0] == inside[..., 1]).all()  # grey
    assert text.count("</span>vessel</li>") == text.count("</span>lesion</li>") == 1
    assert text.count('<figure class="masked">') == 5


def test_without_masks_the_page_has_no_colours(plan, tmp_path: Path) -> None:
    text = write_check_report([], plan.write(), tmp_path / "check.html").read_text(encoding="utf-8")
    assert "Outlines:" not in text


@pytest.mark.parametrize("shape", [(7, 11), (9, 9), (1, 5)])
def test_nothing_that_a_mask_holds_is_lost_in_a_smaller_one(shape: tuple[int, int]) -> None:
    for at in np.ndindex(shape):
        labels = np.zeros(shape, np.uint8)
        labels[at] = 3
        small = shrunk_labels(labels, 3)
        assert small.shape == tuple(-(-n // 3) for n in shape)
        assert small[at[0] // 3, at[1] // 3] == 3
        assert (small > 0).sum() == 1


def test_a_mask_of_fractions_is_outlined_as_one() -> None:
    labels = np.zeros((60, 60))
    labels[10:50, 10:50] = np.random.default_rng(0).uniform(0.1, 0.9, (40, 40))
    drawn = masked(np.zeros((60, 60), np.uint8), labels)
    assert (drawn[10, 10:50] == COLOURS[0]).all()
    assert not drawn[11:49, 11:49].any()
