"""``train`` and ``plan``: no word is swallowed, and ``--json`` tells what was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medmap.cli import run as medmap
from medmap.cli.settings import Words
from medmap.errors import UsageError
from medmap.plan import Run


def test_every_word_beside_a_config_counts(world: Path) -> None:
    config = world / "run" / "run.yaml"
    plain = Words().loaded(config)
    assert plain == Run.load(config)
    words = Words("2m", "1GiB", None, 7, 3, "weights #1: best.safetensors", "cpu", ["fit.epochs=9"])
    run = words.loaded(config)
    assert (run.budget_s, run.memory_bytes, run.seed, run.device) == (120, 2**30, 7, "cpu")
    assert (run.ensemble.folds, run.ensemble.members, run.fit.epochs) == (3, 3, 9)
    assert run.network.init == "weights #1: best.safetensors"
    assert run.reasons["network.init"] == run.reasons["seed"] == "set by hand"
    assert Words(folds=0).loaded(config).ensemble.members == 1
    assert Words(seed=1, sets=["seed=2"]).loaded(config).seed == 2


def test_init_none_starts_from_scratch(world: Path, tmp_path: Path) -> None:
    run = Run.load(world / "run" / "run.yaml", ["network.init=somewhere.safetensors"])
    run.save(tmp_path / "run.yaml")
    assert Words().loaded(tmp_path / "run.yaml").network.init == "somewhere.safetensors"
    assert Words(init="none").loaded(tmp_path / "run.yaml").network.init is None


def test_a_resumed_run_takes_a_budget_and_nothing_else(world: Path) -> None:
    assert Words(budget="5m").resumed(world / "run", None).budget_s == 300
    assert Words().resumed(world / "run", None) == Run.load(world / "run" / "run.yaml")
    with pytest.raises(UsageError, match="--seed, --folds"):
        Words(seed=0, folds=0).resumed(world / "run", None)


def test_train_with_a_config_and_resume(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "again")
    config = str(world / "run" / "run.yaml")
    words = ["train", str(world / "easy.npz"), "-o", out, "--config", config, "--device", "cpu", "--memory", "512MiB"]
    assert medmap([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == out
    assert told["bundle"] == f"{out}/bundle"
    assert told["digest"].startswith("sha256:")
    assert Path(told["report"]).exists()
    assert {"value", "low", "high"} == set(told["metrics"]["auroc"])
    run = Run.load(tmp_path / "again" / "run.yaml")
    assert (run.device, run.memory_bytes) == ("cpu", 2**29)
    same = [(p / "bundle" / "weights.safetensors").read_bytes() for p in (world / "run", tmp_path / "again")]
    assert same[0] == same[1]
    # the budget counts from the start of the process, which runs other tests, too
    assert medmap(["train", str(world / "easy.npz"), "-o", out, "--resume", "--quiet", "--budget", "100h"]) == 0
    assert "\nbundle: " in "\n" + capsys.readouterr().out


def test_plan_import_fetch_and_export_as_json(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def document(*words: str) -> dict[str, object]:
        assert medmap([*words, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    data = str(world / "easy.npz")
    plan = document("plan", data, "-o", str(tmp_path / "deep" / "run.yaml"), "--seed", "3", "--folds", "2")
    assert (plan["seed"], plan["folds"], plan["plan"]) == (3, 2, str(tmp_path / "deep" / "run.yaml"))
    assert Run.load(str(plan["plan"])).fit.epochs == plan["epochs"]

    made = document("import", data, str(tmp_path / "set"))
    assert (made["cases"], made["task"]) == (70, "classify")
    assert Path(str(made["dataset"])).exists()

    import hashlib

    from medmap.layouts import PUBLIC, Public

    row = PUBLIC["breastmnist"]
    md5 = hashlib.md5((world / "easy.npz").read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(PUBLIC, "breastmnist", Public(row.filename, row.url, md5, row.licence))
    got = document("fetch", "breastmnist", str(tmp_path / "public"), "--from", data)
    assert got["digest"] == f"md5:{md5}"
    assert Path(str(got["path"])).stat().st_size == got["bytes"]

    exported = document("export", str(world / "run"), "-o", str(tmp_path / "copy"), "--to", "onnx")
    assert exported["bundle"] == str(tmp_path / "copy")
    assert str(exported["digest"]).startswith("sha256:")
    engines = exported["engines"]
    assert isinstance(engines, dict)
    assert list(engines) == ["onnx"]
    assert engines["onnx"]["passed"]
