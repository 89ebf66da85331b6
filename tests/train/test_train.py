"""The conductor: what a run leaves, that it is repeatable, and that a kill at any moment loses nothing."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

from medmap.bundle import Bundle
from medmap.check import leakage
from medmap.dataset import Dataset, Truth
from medmap.errors import DataError, InterruptedRun, LeakageWarning, MedmapWarning, UsageError
from medmap.layouts import open_dataset
from medmap.plan import EnsembleSection, Run
from medmap.train import Event, _met, train


def silent(_: Event) -> None:
    return


def weights(run: Path) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in load_file(run / "bundle" / "weights.safetensors").items()}


@pytest.fixture
def trained(run: Run, data: Dataset, tmp_path: Path) -> Path:
    train(run, data, tmp_path / "run", listener=silent)
    return tmp_path / "run"


def test_a_run_leaves_what_the_interface_promises(trained: Path, run: Run) -> None:
    for name in ("run.yaml", "log.csv", "augmented.png", "checkpoint", "tensorboard"):
        assert (trained / name).exists(), name
    for name in ("spec.json", "weights.safetensors", "model.onnx", "CARD.md", "parity.npz", "SHA256SUMS"):
        assert (trained / "bundle" / name).exists(), name
    for name in ("metrics.json", "predictions.csv", "report.html"):
        assert (trained / "evaluation" / name).exists(), name
    assert Run.load(trained / "run.yaml").fit.epochs == run.fit.epochs
    rows = list(csv.DictReader((trained / "log.csv").read_text().splitlines()))
    assert [(r["member"], r["epoch"]) for r in rows] == [(str(m), str(e)) for m in (0, 1) for e in (1, 2, 3)]
    metrics = json.loads((trained / "evaluation" / "metrics.json").read_text())
    assert metrics["split"] == "oof"
    assert metrics["cases"] == 64
    bundle = Bundle.load(trained)
    assert [m.fold for m in bundle.spec.members] == [0, 1]
    assert bundle.spec.engines["onnx"]["passed"]


def test_the_same_run_gives_the_same_weights(trained: Path, run: Run, data: Dataset, tmp_path: Path) -> None:
    again = Run.load(trained / "run.yaml")
    train(again, data, tmp_path / "again", listener=silent)
    first, second = weights(trained), weights(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[k], second[k]) for k in first)
    train(again.model_copy(update={"seed": 9}), data, tmp_path / "other", listener=silent)
    other = weights(tmp_path / "other")
    assert not all(np.array_equal(first[k], other[k]) for k in first)


def test_test_cases_are_never_learned_from(trained: Path, run: Run, data: Dataset, tmp_path: Path) -> None:
    flipped = [
        replace(c, truth=replace(c.truth, label=1 - (c.truth.label or 0))) if c.split == "test" else c for c in data
    ]
    train(run, data.with_cases(flipped), tmp_path / "flipped", listener=silent)
    first, second = weights(trained), weights(tmp_path / "flipped")
    assert all(np.array_equal(first[k], second[k]) for k in first)


KILLS = int(os.environ.get("MEDMAP_TEST_KILLS", "3"))
CHILD = """
import sys
from pathlib import Path
from medmap.layouts import open_dataset
from medmap.plan import Run
from medmap.train import train
folder = Path(sys.argv[1])
run = Run.load(sys.argv[2])
train(run, open_dataset(sys.argv[3]), folder, resume=(folder / "run.yaml").exists(), listener=lambda event: None)
"""


def test_killed_at_random_moments_and_resumed_the_weights_are_the_same(run: Run, npz: Path, tmp_path: Path) -> None:
    chosen = run.model_copy(update={"fit": run.fit.model_copy(update={"epochs": max(12, 8 * KILLS)})})
    chosen.save(tmp_path / "run.yaml")
    train(chosen, open_dataset(npz), tmp_path / "whole", listener=silent)
    killed = tmp_path / "killed"
    words = [sys.executable, "-W", "ignore", "-c", CHILD, str(killed), str(tmp_path / "run.yaml"), str(npz)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rng = random.Random(5)
    kills = 0
    for _ in range(KILLS):
        child = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
        marker, begin = killed / "checkpoint" / "current.json", time.monotonic()
        before = marker.stat().st_mtime_ns if marker.exists() else 0
        while child.poll() is None and time.monotonic() - begin < 120:
            if marker.exists() and marker.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.communicate()
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert kills >= KILLS - 1
    first, second = weights(tmp_path / "whole"), weights(killed)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert (tmp_path / "whole" / "log.csv").read_text() == (killed / "log.csv").read_text()


def test_ctrl_c_saves_and_resume_ends_with_the_same_weights(
    trained: Path, run: Run, data: Dataset, tmp_path: Path
) -> None:
    seen = []

    def stop(event: Event) -> None:
        if event.kind == "progress" and "epoch 2" in event.text:
            seen.append(event)
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRun, match="saved"):
        train(run, data, tmp_path / "stopped", listener=stop)
    train(run, data, tmp_path / "stopped", listener=silent, resume=True)
    first, second = weights(trained), weights(tmp_path / "stopped")
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_an_output_that_exists_is_not_touched(run: Run, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="not empty"):
        train(run, data, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(UsageError, match="nothing to resume"):
        train(run, data, tmp_path / "none", resume=True)


def test_another_run_may_not_resume_a_checkpoint(run: Run, data: Dataset, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.kind == "progress" and "epoch 3" in event.text:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRun):
        train(run, data, tmp_path / "run", listener=stop)
    other = run.model_copy(update={"fit": run.fit.model_copy(update={"learning_rate": 1e-4})})
    before = (tmp_path / "run" / "run.yaml").read_text()
    with pytest.raises(DataError, match="another run"):
        train(other, data, tmp_path / "run", resume=True, listener=silent)
    assert (tmp_path / "run" / "run.yaml").read_text() == before


def test_a_damaged_checkpoint_is_refused(run: Run, data: Dataset, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.kind == "progress" and "epoch 3" in event.text:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRun):
        train(run, data, tmp_path / "run", listener=stop)
    file = next((tmp_path / "run" / "checkpoint").glob("current-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        train(run, data, tmp_path / "run", resume=True, listener=silent)


def test_a_leaking_split_warns_first(run: Run, npz: Path, tmp_path: Path) -> None:
    path = tmp_path / "leaks.npz"
    arrays = dict(np.load(npz))
    arrays["test_images"][0] = arrays["train_images"][0]
    np.savez(path, **arrays)
    heard: list[Event] = []
    train(run, open_dataset(path), tmp_path / "run", listener=heard.append)
    told = [e for e in heard if e.kind != "progress"]
    assert told[0].kind == "leakage"
    assert "train_00 " in told[0].text
    assert Bundle.load(tmp_path / "run").spec.warnings[0] == told[0].text
    with pytest.warns(LeakageWarning), pytest.warns(MedmapWarning, match="tell the classes apart"):
        train(run, open_dataset(path), tmp_path / "again")


def test_only_what_can_be_learned_from_leaks(run: Run, data: Dataset) -> None:
    first = {split: next(case for case in data if case.split == split) for split in ("train", "val", "test")}
    cases = [
        first["train"],
        replace(first["val"], patient=first["train"].patient),  # folds deal both by patient
        replace(first["test"], patient="p"),
        replace(data.cases[1], patient="p", truth=Truth()),  # nobody learns from it
    ]
    data = replace(data, patients_known=True)
    pool = SimpleNamespace(cases=cases[:2])
    assert leakage(_met(data.with_cases(cases), pool, run), {}) == []
    single = run.model_copy(update={"ensemble": EnsembleSection(folds=0, members=1)})
    (found,) = leakage(_met(data.with_cases(cases), pool, single), {})
    assert found.message.startswith("1 patient stands in more than one split")


def test_the_budget_ends_training_and_says_so(run: Run, data: Dataset, tmp_path: Path) -> None:
    long = run.model_copy(update={"budget_s": 1.0, "fit": run.fit.model_copy(update={"epochs": 5000})})
    heard: list[Event] = []
    bundle = train(long, data, tmp_path / "run", listener=heard.append)
    assert len(bundle.spec.members) == 1
    learned, judged = (set(bundle.spec.provenance[f"{of}_case_hashes"]) for of in ("training", "validation"))
    assert len(learned) == len(judged) == 32  # the other half judged the only network, and none learned from it
    assert not learned & judged
    assert any("time budget" in text for text in bundle.spec.warnings)
    assert any("budget ends training" in e.text for e in heard)


def test_without_folds_the_validation_split_judges(run: Run, data: Dataset, tmp_path: Path) -> None:
    single = run.model_copy(update={"ensemble": EnsembleSection(folds=0, members=1)})
    train(single, data, tmp_path / "run", listener=silent)
    metrics = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert (metrics["split"], metrics["cases"]) == ("val", 16)


def test_a_stopped_run_leaves_a_usable_bundle(run: Run, data: Dataset, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.kind == "progress" and "network 1, epoch 3" in event.text:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRun):
        train(run, data, tmp_path / "run", listener=stop)
    bundle = Bundle.load(tmp_path / "run")
    assert len(bundle.spec.members) == 1
    assert any("stopped after epoch 2" in text for text in bundle.spec.warnings)


def test_a_bundle_starts_another_training(trained: Path, run: Run, data: Dataset, tmp_path: Path) -> None:
    heard: list[Event] = []
    network = run.network.model_copy(update={"init": str(trained)})
    tiny = run.fit.model_copy(update={"epochs": 1, "learning_rate": 1e-9, "ema_epochs": None})
    once = run.model_copy(update={"network": network, "fit": tiny})
    train(once, data, tmp_path / "next", listener=heard.append)
    assert any(e.text.startswith("starting weights:") for e in heard)
    first, second = weights(trained), weights(tmp_path / "next")
    kept = [k for k in first if k.endswith("weight")]
    assert all(np.allclose(first[k], second[k], atol=1e-5) for k in kept)


def test_what_training_does_not_learn_from_is_refused_first(run: Run, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another task"):
        train(run, replace(data, task="enhance"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_evaluation_names_its_bundle_and_the_cases_left_out(run: Run, data: Dataset, tmp_path: Path) -> None:
    broken = replace(data.cases[0], inputs={"image": None})
    bundle = train(run, data.with_cases([broken, *data.cases[1:]]), tmp_path / "run", listener=silent)
    metrics = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert metrics["bundle"] == bundle.digest
    assert [f["case"] for f in metrics["failed"]] == [broken.id]
    assert metrics["seconds"] > 0
