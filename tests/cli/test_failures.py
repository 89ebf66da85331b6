"""Every way to call it wrong: a sentence, a code, nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medmap.cli import run as medmap
from medmap.cli import settings

TRAIN = ["train", "{data}", "-o", "{new}"]
PREDICT = ["predict", "{run}", "{data}", "-o", "{new}"]
EVALUATE = ["evaluate", "{run}", "{data}", "-o", "{new}"]
RESUME = ["train", "{data}", "-o", "{run}", "--resume"]
CONFIG = [*TRAIN, "--config", "{run}/run.yaml"]


@pytest.fixture(scope="module")
def broken(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles and runs that lack what they must have."""
    folder = tmp_path_factory.mktemp("broken")
    for name in ("spec.json", "SHA256SUMS", "weights.safetensors"):
        (folder / f"only_{name}").mkdir()
        shutil.copy(world / "run" / "bundle" / name, folder / f"only_{name}" / name)
    shutil.copytree(world / "run" / "bundle", folder / "no_spec")
    (folder / "no_spec" / "spec.json").unlink()
    shutil.copytree(world / "run", folder / "no_bundle")
    shutil.rmtree(folder / "no_bundle" / "bundle")
    shutil.copytree(world / "run", folder / "half_run")
    (folder / "half_run" / "bundle" / "spec.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["info", "nowhere.png"], 3, "does not exist"),
        (["train", "{data}", "-o", "{run}"], 2, "not empty"),
        ([*TRAIN, "--set", "fit.epoch=1"], 4, "did you mean"),
        ([*TRAIN, "--budget", "soon"], 2, "10m"),
        ([*TRAIN, "--budget", ""], 2, "10m"),
        ([*TRAIN, "--memory", "much"], 2, "4GiB"),
        ([*TRAIN, "--memory", "100MiB"], 2, "256MiB"),
        ([*TRAIN, "--recipe", "soup"], 2, "vgg16"),
        ([*TRAIN, "--resume"], 2, "nothing to resume"),
        ([*TRAIN, "--device", "tpu"], 2, "auto, cpu, cuda"),
        ([*TRAIN, "--folds", "1"], 2, "2 to 100"),
        ([*TRAIN, "--folds", "-3"], 2, "2 to 100"),
        ([*TRAIN, "--folds", "101"], 2, "2 to 100"),
        ([*TRAIN, "--seed", "-1"], 2, "from 0"),
        ([*TRAIN, "--seed", "2147483648"], 2, "from 0"),
        ([*TRAIN, "--seed", "two"], 2, "--seed"),
        ([*TRAIN, "--init", ""], 2, "--init is empty"),
        (["train", "{data}", "-o", "{data}"], 2, "is a file"),
        (["train", "{data}", "-o", "{data}/run"], 2, "is a file"),
        ([*CONFIG, "--recipe", "cnn"], 2, "--recipe"),
        ([*CONFIG, "--device", "tpu"], 2, "auto, cpu, cuda"),
        ([*CONFIG, "--memory", "1KiB"], 2, "256MiB"),
        ([*CONFIG, "--folds", "1"], 2, "2 to 100"),
        ([*TRAIN, "--config", "{new}.yaml"], 4, "does not exist"),
        ([*RESUME, "--seed", "1"], 2, "--seed"),
        ([*RESUME, "--folds", "0"], 2, "--folds"),
        ([*RESUME, "--init", "none"], 2, "--init"),
        ([*RESUME, "--device", "cpu"], 2, "--device"),
        ([*RESUME, "--memory", "4GiB"], 2, "--memory"),
        ([*RESUME, "--recipe", "rules"], 2, "--recipe"),
        ([*RESUME, "--set", "fit.epochs=3"], 2, "--set"),
        ([*RESUME, "--config", "{run}/run.yaml"], 2, "--config"),
        (["plan", "{data}", "-o", "{new}", "--device", "tpu"], 2, "auto, cpu, cuda"),
        (["plan", "{data}", "-o", "{new}", "--memory", "100MiB"], 2, "256MiB"),
        (["plan", "{data}", "-o", "{new}", "--folds", "1"], 2, "2 to 100"),
        (["plan", "{data}", "-o", "{new}", "--seed", "-1"], 2, "from 0"),
        (["plan", "{data}", "-o", "{run}"], 2, "is a folder"),
        (["check", "{data}", "--report", "{run}"], 2, "is a folder"),
        (["import", "{data}", "{data}"], 2, "no folder"),
        (["import", "{data}", "{new}", "--task", "dream"], 2, "unknown task"),
        (["fetch", "breastmnist", "{data}", "--from", "{run}"], 2, "is a file"),
        (["fetch", "dreammnist", "{new}"], 2, "unknown public dataset"),
        (["demo", "{data}"], 2, "not empty"),
        (["evaluate", "{run}", "-o", "{new}"], 2, "model and a dataset"),
        (["evaluate", "{run}", "{data}", "-o", "{new}", "--channel", "red"], 2, "THEIRS=OURS"),
        (["evaluate", "{run}", "{data}", "-o", "{new}", "--channel", "red=image"], 3, "no such channel"),
        ([*EVALUATE, "--split", "tset"], 2, "tset"),
        ([*EVALUATE, "--device", "tpu"], 2, "auto, cpu, cuda"),
        ([*EVALUATE, "--engine", "steam"], 2, "steam"),
        (["evaluate", "{run}", "{data}", "-o", "{data}"], 2, "is a file"),
        (["evaluate", "{data}", "{data}", "-o", "{new}"], 5, "bundle"),
        (["evaluate", "{broken}/no_spec", "{data}", "-o", "{new}"], 5, "spec.json"),
        (["choose", "{run}"], 2, "two or more"),
        (["choose", "{run}", "{run}", "-o", "{new}"], 2, "same bundle"),
        (["choose", "{run}", "{run}", "-o", "{run}"], 2, "not empty"),
        (["choose", "{run}", "{run}", "-o", "{data}"], 2, "is a file"),
        (["choose", "{run}", "{data}"], 3, "is no run: got a file"),
        (["choose", "{run}", "nowhere"], 3, "does not exist"),
        (["choose", "{run}", "{run}/bundle"], 3, "got a bundle"),
        (["choose", "{run}", "{broken}/no_bundle"], 3, "not finished"),
        (["choose", "{run}", "{broken}/half_run", "-o", "{new}"], 5, "spec.json"),
        (["predict", "{data}", "-o", "{new}"], 2, "model first"),
        (["predict", "{run}", "-o", "{new}"], 2, "images after the model"),
        ([*PREDICT, "--format", "telepathy"], 2, "unknown format"),
        ([*PREDICT, "--device", "tpu"], 2, "auto, cpu, cuda"),
        ([*PREDICT, "--engine", "steam"], 2, "steam"),
        ([*PREDICT, "--memory", "100MiB"], 2, "256MiB"),
        ([*PREDICT, "--resume", "--format", "csv"], 2, "--resume"),
        (["predict", "{run}", "{data}", "-o", "{data}"], 2, "is a file"),
        (["predict", "{run}", "{data}", "-o", "{run}", "--resume"], 2, "something else than answers"),
        (["predict", "{broken}/only_spec.json", "{data}", "-o", "{new}"], 5, "SHA256SUMS"),
        (["predict", "{broken}/only_SHA256SUMS", "{data}", "-o", "{new}"], 5, "missing"),
        (["predict", "{broken}/only_weights.safetensors", "{data}", "-o", "{new}"], 5, "SHA256SUMS"),
        (["predict", "{broken}/no_spec", "{data}", "-o", "{new}"], 5, "spec.json"),
        (["predict", "{broken}/no_spec", "-o", "{new}"], 5, "spec.json"),
        (["predict", "{broken}/no_bundle", "{data}", "-o", "{new}"], 5, "is no bundle"),
        (["predict", "{broken}/half_run", "{data}", "-o", "{new}"], 5, "spec.json"),
        (["predict", "{run}", "{broken}/no_spec", "{data}", "-o", "{new}"], 5, "spec.json"),
        (["info", "{broken}/no_spec"], 5, "spec.json"),
        (["verify", "{broken}/no_spec"], 5, "spec.json"),
        (["export", "{broken}/no_spec", "-o", "{new}"], 5, "spec.json"),
        (["export", "{run}", "-o", "{new}", "--to", "paper"], 2, "onnx or openvino"),
        (["export", "{run}", "-o", "{data}"], 2, "is a file"),
        (["schema", "poem.txt"], 2, "no schema"),
        (["frobnicate"], 2, "frobnicate"),
        (["train"], 2, "Missing"),
    ],
)
def test_failures_are_a_sentence_and_a_code(
    words: list[str],
    code: int,
    said: str,
    world: Path,
    broken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"data": world / "easy.npz", "run": world / "run", "new": tmp_path / "new", "broken": broken}
    assert medmap([w.format(**places) for w in words]) == code
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.startswith("medmap: ")
    assert "Traceback" not in told.err
    assert told.err.count("\n") <= 3
    assert told.out == ""
    new = tmp_path / "new"
    assert not new.exists() or not any(new.iterdir()), "nothing is left behind"


def test_a_wrong_word_is_found_before_the_data_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def heavy(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the data was opened")

    monkeypatch.setattr("medmap.layouts.open_dataset", heavy)
    for command in ("plan", "train"):
        for words in (["--folds", "1"], ["--seed", "-1"], ["--memory", "1MiB"], ["--device", "tpu"]):
            assert medmap([command, "data", "-o", str(tmp_path / "new"), *words]) == 2
    assert "opened" not in capsys.readouterr().err
    assert medmap(["plan", "data", "-o", str(tmp_path / "new")]) == 70, "the guard is real"


def test_the_limits_are_those_of_run_yaml() -> None:
    from medmap.plan import Run

    schema = Run.model_json_schema()
    fields = schema["properties"]
    assert fields["memory_bytes"]["minimum"] == settings.LEAST_MEMORY_BYTES
    assert fields["seed"]["maximum"] == settings.LARGEST_SEED
    assert tuple(fields["device"]["enum"]) == settings.DEVICES
    assert schema["$defs"]["EnsembleSection"]["properties"]["folds"]["maximum"] == settings.MOST_FOLDS
