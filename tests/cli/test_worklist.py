"""The list of predicted cases, least sure first."""

from __future__ import annotations

import csv
import io
from typing import Any

from medmap.cli.worklist import worklist


def row(case: str, dice: float | None, *volumes: float, error: str | None = None) -> dict[str, Any]:
    found = [{"label": f"s{n}", "voxels": int(10 * v), "volume_ml": v} for n, v in enumerate(volumes)]
    told = {"case": case, "input": f"{case}.nii.gz", "files": [f"{case}.json", f"{case}.nii.gz"], "warnings": []}
    more = {} if dice is None else {"expected_dice": dice}
    return {**told, **more, "outputs": {"mask": {"structures": found}}, "error": error}


def read(text: str | None) -> list[dict[str, str]]:
    assert text is not None
    return list(csv.DictReader(io.StringIO(text)))


def test_the_least_sure_come_first_and_empty_masks_before_them() -> None:
    rows = [row("a", 0.9, 1.0, 2.0), row("b", 0.4, 0.5), row("c", None, 0.0), row("d", 0.7, 1.0, error="unreadable")]
    found = read(worklist(rows))
    assert [one["case"] for one in found] == ["c", "b", "a"]
    assert [one["rank"] for one in found] == ["1", "2", "3"]
    assert [one["uncertainty"] for one in found] == ["", "0.6", "0.1"]
    assert found[2]["structures"] == "s0;s1"
    assert found[2]["volume_ml"] == "3"
    assert found[2]["files"] == "a.json | a.nii.gz"


def test_there_is_no_list_of_one_case_or_without_any_certainty() -> None:
    assert worklist([row("a", 0.9)]) is None
    assert worklist([row("a", None), row("b", None)]) is None


def test_without_a_foretold_dice_the_probabilities_give_the_order() -> None:
    rows = [row("a", None, 1.0), row("b", None, 1.0), row("c", None)]
    rows[0]["probable_dice"], rows[1]["probable_dice"] = 0.95, 0.6
    found = read(worklist(rows))
    assert [one["case"] for one in found] == ["c", "b", "a"]
    assert [one["uncertainty"] for one in found] == ["", "0.4", "0.05"]
    assert {one["expected_dice"] for one in found} == {""}, "it was fitted to no truth"
    rows[0]["expected_dice"] = 0.7
    assert [one["expected_dice"] for one in read(worklist(rows))] == ["", "", "0.7"]
