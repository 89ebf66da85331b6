"""The commands. Each is a few lines: read the words, call the Python interface, show the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medmap.cli.settings import Words, known_device, memory_of, require_file, require_folder
from medmap.cli.show import Screen
from medmap.errors import UsageError

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.dataset import TaskName

app = typer.Typer(
    help="Everything is a mapping: from your own medical images to a class, boxes, a mask or a better image.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Errors are a sentence; add --debug for the traceback. Every command has --help.",
)

Quiet = Annotated[bool, typer.Option("--quiet", help="Only warnings and results.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Layout = Annotated[str, typer.Option("--layout", help="Layout of the data; auto recognises it.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="BLOCK.KEY=VALUE", help="Override one setting; repeatable.")
]
Budget = Annotated[str | None, typer.Option("--budget", help="Time from process start to exit: 90s, 10m, 2h.")]
Memory = Annotated[str | None, typer.Option("--memory", help="Memory the run may take: 4GiB.")]
Recipe = Annotated[str | None, typer.Option("--recipe", help="rules (the default), or a classical recipe: cnn, vgg16.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Decides every draw (default 0).")]
Folds = Annotated[int | None, typer.Option("--folds", help="Number of folds; 0 for a validation split.")]
Init = Annotated[str | None, typer.Option("--init", help="Starting weights: a bundle, a file, a hub name, none.")]
RunDevice = Annotated[str | None, typer.Option("--device", help="auto (the default), cpu or cuda.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Engine = Annotated[str, typer.Option("--engine", help="auto, torch, onnx or openvino.")]


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put it; must be new or empty.")] = Path("medmap-demo"),
    quiet: Quiet = False,
) -> None:
    """Walk the whole way on synthetic images, offline: make, check, train, evaluate, predict, report."""
    from medmap.demo import run_demo

    screen = Screen(quiet)
    try:
        run_demo(folder, screen.hear)
    finally:
        screen.close()


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="An image file, a dataset, a run or a bundle.")],
    header: Annotated[bool, typer.Option("--header", help="Do not read the pixels.")] = False,
    json: Json = False,
) -> None:
    """Say what something is: geometry, channels, value range, what is odd about it."""
    from medmap.cli.about import about

    screen = Screen(json=json)
    facts = about(path, header)
    if json:
        screen.document(facts)
        return
    width = max(len(k) for k in facts)
    for key, value in facts.items():
        if value not in (None, [], ""):
            screen.result(f"{key.ljust(width)}  {_plain(value)}")


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " × ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Data in any known layout.")],
    dest: Annotated[Path, typer.Argument(help="The dataset folder to write.")],
    layout: Layout = "auto",
    task: Annotated[str | None, typer.Option("--task", help="classify, detect, segment or enhance.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images instead of referring to them.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn any known layout into a dataset folder: dataset.yaml beside cases.csv."""
    from medmap.cli.documents import of_dataset
    from medmap.dataset import TASKS
    from medmap.layouts import import_dataset

    if task is not None and task not in TASKS:
        raise UsageError("unknown task", got=repr(task), expected=", ".join(TASKS))
    data = import_dataset(source, dest, layout=layout, task=cast("TaskName | None", task), copy=copy)
    screen = Screen(quiet, json)
    if json:
        screen.document(of_dataset(data, dest))
        return
    screen.result(f"{len(data)} cases of {data.name} ({data.task}) in {dest / 'dataset.yaml'}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Name of a public dataset.")],
    dest: Annotated[Path, typer.Argument(help="Folder to put it in.")],
    source: Annotated[str | None, typer.Option("--from", help="A folder or URL to take it from.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Get a public dataset by name; its checksum is verified, a broken download is resumed."""
    from medmap.cli.documents import of_fetched
    from medmap.layouts import fetch as fetch_dataset

    with Screen(quiet, json) as screen:
        path = fetch_dataset(name, require_folder(dest), source, screen.counter("fetching"))
    if json:
        screen.document(of_fetched(name, path))
        return
    screen.result(f"{path} (checksum verified)")


@app.command()
def check(
    dataset: Annotated[Path, typer.Argument(help="A dataset in any known layout.")],
    report: Annotated[Path | None, typer.Option("--report", help="Also write an HTML report.")] = None,
    label_errors: Annotated[bool, typer.Option("--label-errors", help="Also look for wrong labels (slower).")] = False,
    layout: Layout = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find everything wrong with a dataset, worst first; exit code 1 with findings at error level."""
    from medmap.check import check as check_dataset
    from medmap.check import write_check_report
    from medmap.layouts import open_dataset

    if report is not None:
        require_file(report)
    data = open_dataset(dataset, layout=layout)
    with Screen(quiet, json) as screen:
        issues = check_dataset(data, label_errors=label_errors, progress=screen.counter("checking"))
    if report is not None:
        write_check_report(issues, data, report)
    if json:
        screen.document([issue.as_json() for issue in issues])
    else:
        for issue in issues:
            names = ", ".join(issue.cases[:5]) + (f" and {len(issue.cases) - 5} more" if len(issue.cases) > 5 else "")
            screen.result(f"{issue.severity}: {issue.code}: {issue.message}" + (f" [{names}]" if names else ""))
            screen.line(f"    effect: {issue.effect}\n    remedy: {issue.remedy}")
        errors = sum(issue.severity == "error" for issue in issues)
        screen.result(f"{len(data)} cases: {len(issues)} findings, {errors} at error level")
        if report is not None:
            screen.result(f"report: {report}")
    if any(issue.severity == "error" for issue in issues):
        raise typer.Exit(1)


@app.command()
def plan(
    dataset: Annotated[Path, typer.Argument(help="A dataset in any known layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the plan.")] = Path("run.yaml"),
    budget: Budget = None,
    memory: Memory = None,
    recipe: Recipe = None,
    sets: Set = None,
    seed: Seed = None,
    folds: Folds = None,
    init: Init = None,
    device: RunDevice = None,
    layout: Layout = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what would be trained, and why: a complete run.yaml within a budget measured on this machine."""
    from medmap.cli.documents import of_plan
    from medmap.layouts import open_dataset

    words = Words(budget, memory, recipe, seed, folds, init, device, sets)
    if require_file(output).exists():
        raise UsageError(f"{output} exists already", remedy="choose another file with -o, or remove it")
    run = words.planned(open_dataset(dataset, layout=layout))
    output.parent.mkdir(parents=True, exist_ok=True)
    run.save(output)
    screen = Screen(quiet, json)
    if json:
        screen.document(of_plan(run, output))
        return
    for where, why in run.reasons.items():
        screen.line(f"{where}: {why}")
    screen.result(f"plan: {output}")


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="A dataset in any known layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder; must be new.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="A run.yaml; without it the plan is made here.")
    ] = None,
    sets: Set = None,
    budget: Budget = None,
    memory: Memory = None,
    recipe: Recipe = None,
    seed: Seed = None,
    folds: Folds = None,
    init: Init = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a stopped run stands; only --budget may be another.")
    ] = False,
    device: RunDevice = None,
    layout: Layout = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, and always leave a usable bundle with its evaluation."""
    from medmap.cli import started
    from medmap.cli.documents import of_training
    from medmap.layouts import open_dataset
    from medmap.train import train as train_run

    begin = started()
    words = Words(budget, memory, recipe, seed, folds, init, device, sets)
    require_folder(output)
    if not resume and output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty", remedy="choose another folder, or go on with --resume")
    given = words.resumed(output, config) if resume else None if config is None else words.loaded(config)
    data = open_dataset(dataset, layout=layout)
    run = words.planned(data) if given is None else given
    with Screen(quiet, json) as screen:
        bundle = train_run(run, data, output, resume=resume, listener=screen.hear, started=begin)
    found = of_training(bundle, output)
    if json:
        screen.document(found)
        return
    screen.result(f"bundle: {bundle.path}")
    if found["report"]:
        screen.result(f"report: {found['report']}")


def _bundles(paths: list[Path]) -> list[Bundle]:
    from medmap.bundle import Bundle

    return [Bundle.load(path) for path in paths]


@app.command()
def evaluate(
    paths: Annotated[list[Path], typer.Argument(metavar="MODEL... DATASET", help="Bundles or runs, then a dataset.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the evaluation.")],
    split: Annotated[
        str | None, typer.Option("--split", help="train, val, test or all; default test, else all.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="THEIRS=OURS", help="Map a class; repeatable; THEIRS= leaves it out."),
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="THEIRS=OURS", help="Map an input; repeatable.")
    ] = None,
    channels: Annotated[
        list[str] | None, typer.Option("--channel", metavar="THEIRS=OURS", help="Map an image's channel; repeatable.")
    ] = None,
    aggregate: Annotated[
        list[str] | None,
        typer.Option("--aggregate", help="Also judge by patient, or by a column within one; repeatable."),
    ] = None,
    recalibrate: Annotated[
        str | None, typer.Option("--recalibrate-on", help="A split to fit calibration on, at this site.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Judge simple models beside the network.")] = True,
    engine: Engine = "auto",
    device: Device = "auto",
    layout: Layout = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge a model on a dataset: metrics.json, predictions.csv, report.html."""
    from medmap.evaluate import Options
    from medmap.evaluate import evaluate as judge
    from medmap.layouts import open_dataset
    from medmap.report import save_evaluation

    if len(paths) < 2:
        raise UsageError("evaluate takes a model and a dataset", got=" ".join(map(str, paths)))
    known_device(device)
    require_folder(output)
    data = open_dataset(paths[-1], layout=layout)
    options = Options(
        labels=_pairs(labels),
        inputs=_pairs(inputs),
        channels=_pairs(channels),
        aggregate_by=tuple(aggregate or ()),
        recalibrate_on=recalibrate,
        baselines=baselines,
    )
    models = _bundles(paths[:-1])
    with Screen(quiet, json) as screen:
        told = screen.counter("predicting")
        report = judge(models, data, split, options=options, engine=engine, device=device, progress=told)
        save_evaluation(report, output, dataset=data)
    for text in report.warnings:
        screen.warning(text)
    if json:
        screen.document(report.as_json())
        return
    for row in report.rows:
        if row.group == "all" and row.average is None and row.stage in (None, "calibrated"):
            screen.line(_row(row))
    screen.result(f"report: {output / 'report.html'}")


def _pairs(words: list[str] | None) -> Any:
    """``THEIRS=OURS`` words as a mapping; an empty right side is None."""
    if not words:
        return None
    for word in words:
        if "=" not in word or word.startswith("="):
            raise UsageError("a mapping reads THEIRS=OURS", got=repr(word))
    return {theirs: ours or None for theirs, _, ours in (word.partition("=") for word in words)}


def _row(row: Any) -> str:
    if row.value is None:
        return f"{row.name:18} –      ({row.reason})"
    interval = "" if row.low is None else f"  ({row.low:.3f} to {row.high:.3f}, {row.method})"
    return f"{row.name:18} {row.value:.3f}{interval}"


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="OUT_A", help="An evaluation folder.")],
    second: Annotated[Path, typer.Argument(metavar="OUT_B", help="Another one, of the same cases.")],
    json: Json = False,
) -> None:
    """Compare two evaluations on the same cases with paired tests."""
    from medmap.evaluate import compare as compare_folders

    screen = Screen(json=json)
    found = compare_folders(first, second)
    if json:
        screen.document(found.as_json())
    else:
        screen.result(found.as_text())


@app.command()
def predict(
    paths: Annotated[list[Path], typer.Argument(metavar="MODEL... INPUT...", help="Bundles or runs, then images.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the answers; must be new or empty, unless --resume.")
    ],
    formats: Annotated[str, typer.Option("--format", help="json, csv (comma-separated).")] = "json,csv",
    engine: Engine = "auto",
    device: Device = "auto",
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Memory a batch may take, 4GiB; classification needs little and seldom this."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in the folder of an interrupted call; finished cases stay.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer for images, folders, a zip or a dataset: OUT/index.json lists case, files, outputs, warnings."""
    from medmap.cli.answers import Request, write_answers

    how = Request(formats.split(","), engine, known_device(device), memory_of(memory), resume)
    models, inputs = _models_and_inputs(paths)
    bundles = _bundles(models)
    with Screen(quiet, json) as screen:
        index = write_answers(bundles, inputs, output, how, screen)
    if json:
        screen.document(index)
    failed = [row for row in index["cases"] if row["error"]]
    screen.result(f"{len(index['cases']) - len(failed)} cases answered, {len(failed)} failed: {output / 'index.json'}")
    if failed:
        raise typer.Exit(1)


def _models_and_inputs(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """The leading paths that are models, whole or not, and the rest."""
    from medmap.cli.about import is_model, is_run

    count = next((n for n, path in enumerate(paths) if not (is_model(path) or is_run(path))), len(paths))
    if not count:
        raise UsageError("predict takes a model first", got=str(paths[0]), expected="a bundle folder or a run folder")
    if count == len(paths):
        _bundles(paths)  # a broken bundle is said before a missing image
        raise UsageError("predict takes images after the model", got="none")
    return paths[:count], paths[count:]


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A bundle or a run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new bundle's folder.")],
    to: Annotated[str, typer.Option("--to", help="onnx or openvino.")] = "onnx",
    dataset: Annotated[Path | None, typer.Option("--dataset", help="Real cases for the parity test.")] = None,
    json: Json = False,
) -> None:
    """Export a model for another engine, with a parity test; exit code 1 where it gives another answer."""
    from medmap.cli.engines import export_bundle, verdict

    screen = Screen(json=json)
    found = export_bundle(model, output, to, dataset)
    if json:
        screen.document(found)
    else:
        for name, parity in found["engines"].items():
            screen.result(f"{name}: {verdict(parity)}")
        screen.result(f"bundle: {found['bundle']}")
    if not all(parity["passed"] for parity in found["engines"].values()):
        raise typer.Exit(1)


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="A bundle or a run.")],
    json: Json = False,
) -> None:
    """Check a bundle's hashes, and here and now that every engine gives its answers."""
    from medmap.bundle import Bundle
    from medmap.bundle import verify as verify_bundle
    from medmap.cli.engines import verdict

    screen = Screen(json=json)
    bundle = Bundle.load(model)
    found = [parity.as_json() for parity in verify_bundle(bundle)]
    if json:
        screen.document({"bundle": bundle.digest, "parity": found})
    else:
        screen.result(f"hashes: as written ({bundle.digest})")
        for parity in found:
            screen.result(f"{parity['engine']} {parity['precision']}: {verdict(parity)}")
    if not all(parity["passed"] for parity in found):
        raise typer.Exit(1)


@app.command()
def schema(
    name: Annotated[str | None, typer.Argument(help="run.yaml, dataset.yaml, spec.json or metrics.json.")] = None,
) -> None:
    """Print the JSON Schema of a file that medmap reads or writes."""
    from medmap.cli.about import schemas

    screen = Screen(json=True)
    known = schemas()
    if name is None:
        screen.document(sorted(known))
        return
    if name not in known:
        raise UsageError("there is no schema of that name", got=repr(name), expected=", ".join(sorted(known)))
    screen.document(known[name]())


def _version(wanted: bool) -> None:
    if wanted:
        from medmap import __version__

        typer.echo(f"medmap {__version__}")
        raise typer.Exit


@app.callback()
def medmap(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Everything is a mapping."""
