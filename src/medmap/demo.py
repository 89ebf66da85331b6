"""The whole way on synthetic images, offline: make, check, train, evaluate, predict, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medmap import phantom
from medmap.bundle import Bundle
from medmap.check import check, write_check_report
from medmap.config import write_atomically
from medmap.dataset import Dataset, with_splits
from medmap.errors import UsageError, counted
from medmap.evaluate import evaluate
from medmap.layouts import open_dataset, write_dataset
from medmap.plan import plan
from medmap.predict import predict
from medmap.report import save_evaluation
from medmap.train import Event, train
from medmap.write import write

CASES = 320
SIDE = 64
BUDGET_S = 120.0
SYNTHETIC = "Synthetic phantom images, computed by medmap: no patient was ever imaged."


def run_demo(folder: Path, listen: Callable[[Event], None], *, cases: int = CASES, budget_s: float = BUDGET_S) -> Path:
    """Walk the whole way and return the report's path.

    Args:
        folder: New or empty; holds everything the demo makes.
        listen: Told what happens.
        cases: Synthetic studies, one CT slice each.
        budget_s: Time for training.

    Raises:
        UsageError: The folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty", remedy="choose another folder: medmap demo DIR")

    def say(text: str) -> None:
        listen(Event("line", text))

    say(SYNTHETIC)
    data_folder = folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    made = phantom.classification(cases, seed=0, shape=(SIDE, SIDE))
    phantom.write_study(data_folder, made, format="dicom")
    data = with_splits(open_dataset(data_folder), seed=0)
    write_dataset(data, folder / "dataset")
    data = open_dataset(folder / "dataset")
    say(f"1 data      {len(data)} synthetic CT slices of {len({c.patient for c in data})} patients: {data_folder}")
    issues = check(data)
    write_check_report(issues, data, folder / "check.html")
    errors = sum(issue.severity == "error" for issue in issues)
    say(f"2 check     {counted(len(issues), 'finding')}, {counted(errors, 'error')}: {folder / 'check.html'}")
    run = plan(data, budget_s=budget_s)
    networks, epochs = counted(run.ensemble.members, "network"), counted(run.fit.epochs, "epoch")
    say(f"3 plan      {run.network.name}: {networks} of {epochs}")
    bundle = train(run, data, folder / "run", listener=lambda event: _only_progress(event, listen))
    say(f"4 train     bundle: {bundle.path}")
    report = evaluate(bundle, data, "test")
    save_evaluation(report, folder / "evaluation", dataset=data, training_log=folder / "run" / "log.csv")
    area = next(r for r in report.rows if r.name == "auroc" and r.group == "all" and r.stage == "calibrated")
    found = f"{area.value:.3f}" if area.value is not None else "undefined"
    interval = f" ({area.low:.3f} to {area.high:.3f})" if area.low is not None else ""
    say(f"5 evaluate  AUROC on {report.cases} test cases {found}{interval}")
    answer = _predict_one(bundle, data, folder / "prediction.json", folder / "prediction.sr.dcm")
    say(f"6 predict   {answer}: {folder / 'prediction.json'}, and as a DICOM report: {folder / 'prediction.sr.dcm'}")
    path = folder / "evaluation" / "report.html"
    say(f"\nOpen {path.resolve()} in a browser. {SYNTHETIC}")
    return path


def _only_progress(event: Event, listen: Callable[[Event], None]) -> None:
    if event.kind != "line":
        listen(event)


def _predict_one(bundle: Bundle, data: Dataset, path: Path, report: Path) -> str:
    case = data.split("test").cases[0]
    ref = case.inputs["image"]
    source = data.resolve(ref) if ref is not None else Path()
    answer = replace(predict(bundle, source), case=case.id)
    write_atomically(path, json.dumps(answer.as_json(), indent=1))
    write(answer, report, format="dicom-sr", source=source)
    scores = answer.outputs["class"].as_json()["scores"]
    name = max(scores, key=lambda k: float(scores[k]))
    return f"{case.id} looks like '{name}' ({scores[name]:.2f})"
