"""Several observers of one case: how many, and how well they agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from volume_cases import SHAPE, Chests, chest

from medmap.check import check, write_check_report
from medmap.check.observers import agreement
from medmap.cli import run as medmap
from medmap.geometry import Flip, Geometry
from medmap.image import Image
from medmap.layouts import open_dataset
from medmap.write import write


def square(first_row: int, value: int = 1, side: int = 40) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[first_row : first_row + 10, 5:25] = value
    return mask


def study(folder: Path, seconds: dict[int, np.ndarray]) -> Path:
    """Three pictures with a square each; some have a second observer's mask."""
    rows = ["case,patient,split,image,mask,mask_2"]
    for i in range(3):
        Pillow.fromarray(np.random.default_rng(i).integers(0, 90, (40, 40), dtype=np.uint8)).save(folder / f"c{i}.png")
        Pillow.fromarray(square(10)).save(folder / f"m{i}.png")
        second = ""
        if i in seconds:
            second = f"n{i}.png"
            Pillow.fromarray(seconds[i]).save(folder / second)
        rows.append(f"c{i},p{i},,c{i}.png,m{i}.png,{second}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "medmap_dataset: 1\nname: d\ntask: segment\ninputs: {image: {modality: XC}}\n"
        "labels: {0: background, 1: vessel, 2: lesion}\n"
    )
    return folder


def test_second_observers_are_counted_and_their_agreement_told(tmp_path: Path, capsys) -> None:
    data = open_dataset(study(tmp_path, {0: square(15), 2: square(12)}))
    issues = check(data)
    (found,) = [issue for issue in issues if issue.code == "several_observers"]
    assert found.severity == "info"
    assert found.message == (
        "2 cases of 3 have masks of a second observer; mean Dice between the first two: "
        "vessel 0.650 (least 0.500 in c0)"
    )
    assert found.cases == ("c0", "c2")
    assert found.details["captions"] == {"c0": "Dice 0.500", "c2": "Dice 0.800"}
    text = write_check_report(issues, data, tmp_path / "check.html").read_text(encoding="utf-8")
    assert "Outlines of the first observer:" in text
    assert "Dice 0.500" in text
    assert medmap(["info", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["with_second_observer"] == 2


def test_one_observer_is_no_finding(tmp_path: Path, capsys) -> None:
    data = open_dataset(study(tmp_path, {}))
    issues = check(data)
    assert "several_observers" not in {issue.code for issue in issues}
    assert "first observer" not in write_check_report(issues, data, tmp_path / "r.html").read_text(encoding="utf-8")
    assert medmap(["info", str(tmp_path)]) == 0
    assert "observer" not in capsys.readouterr().out


def test_agreement_is_that_of_each_structure_on_one_grid() -> None:
    _, mask = chest(0)
    other = mask.with_array(np.where(mask.array == 2, 0, mask.array).astype(np.uint8), "left out")
    assert agreement(mask, other) == {1: 1.0, 2: 0.0}
    assert agreement(mask, other.moved(Flip((1,)))) == {1: 1.0, 2: 0.0}  # the same place, other axes
    affine = mask.geometry.affine_lps_mm.copy()
    affine[:3, 3] += 3.3
    assert agreement(mask, replace(other, geometry=Geometry(SHAPE, affine))) == {}
    blank = Image(np.zeros((4, 4), np.uint8), Geometry.without_size((4, 4)), "label")
    assert agreement(blank, blank) == {}
    assert agreement(blank, Image(np.zeros((5, 4), np.uint8), Geometry.without_size((5, 4)), "label")) == {}


def test_a_second_mask_that_cannot_be_compared_is_only_counted(tmp_path: Path) -> None:
    chests = Chests(tmp_path, count=3)
    data = chests.write()
    _, mask = chest(1)
    write(mask.with_array(mask.array * 0.5, "between labels"), tmp_path / "second.nii.gz")
    case = data["c01"]
    second = replace(case.truth.masks[0], path="second.nii.gz")
    cases = tuple(replace(c, truth=replace(c.truth, masks=(*c.truth.masks, second))) if c is case else c for c in data)
    (found,) = [issue for issue in check(replace(data, cases=cases)) if issue.code == "several_observers"]
    assert found.message == "1 case of 3 has masks of a second observer"
    assert found.details["structures"] == []
