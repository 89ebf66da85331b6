"""Commands about models: plan, train, judge, compare, choose, answer, export, verify."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medmap.cli.options import (
    Budget,
    Device,
    Engine,
    Folds,
    Init,
    Json,
    Layout,
    Margin,
    Memory,
    Mirror,
    Quiet,
    Recipe,
    RunDevice,
    Seed,
    Set,
    Whole,
    Within,
)
from medmap.cli.settings import Words, known_device, memory_of, require_file, require_folder
from medmap.cli.show import Screen
from medmap.errors import UsageError

if TYPE_CHECKING:
    from medmap.bundle import Bundle
    from medmap.plan import Run
    from medmap.predict import MaskView

OPENING = "opening the dataset"
PLANNING = "planning: looking at images, and timing the training step"
OVERRUN = 1.1  # times the budget from which a run says that it took longer


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
    screen = Screen(quiet, json)
    with screen.doing(OPENING):
        data = open_dataset(dataset, layout=layout)
    with screen.doing(PLANNING):
        run = words.planned(data)
    output.parent.mkdir(parents=True, exist_ok=True)
    run.save(output)
    if json:
        screen.document(of_plan(run, output))
        return
    _say_if_short(run, screen)
    for where, why in run.reasons.items():
        screen.line(f"{where}: {why}")
    screen.result(f"plan: {output}")


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
    screen = Screen(quiet, json)
    with screen.doing(OPENING):
        data = open_dataset(dataset, layout=layout)
    with screen.doing(PLANNING):
        run = words.planned(data) if given is None else given
    _say_if_short(run, screen)
    with screen:
        bundle = train_run(run, data, output, resume=resume, listener=screen.hear, started=begin)
    took_s = time.time() - begin
    if run.budget_s is not None and took_s > OVERRUN * run.budget_s:
        screen.warning(
            f"this took {took_s:.0f} s, more than the budget of {run.budget_s:g} s: opening the data, one epoch, the "
            "export and the evaluation are the least a run does, and a busy machine takes longer; give it more time"
        )
    found = of_training(bundle, output)
    if json:
        screen.document(found)
        return
    screen.result(f"bundle: {bundle.path}")
    if found["report"]:
        screen.result(f"report: {found['report']}")


def _say_if_short(run: Run, screen: Screen) -> None:
    """Warn of a budget that leaves next to no time for learning, as the plan found."""
    if "budget" in run.reasons:
        screen.warning(f"the budget is {run.reasons['budget']}")


def _bundles(paths: list[Path]) -> list[Bundle]:
    from medmap.bundle import Bundle

    return [Bundle.load(path) for path in paths]


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
    hit: Annotated[
        str | None, typer.Option("--hit", metavar="RULE", help="When a box is a hit: centre, or iou:0.5.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option("--sizes", metavar="A,B…", help="Where ranges of findings' sizes end, in mm.")
    ] = None,
    within: Within = None,
    margin: Margin = 10.0,
    mirror: Mirror = False,
    whole: Whole = False,
    engine: Engine = "auto",
    device: Device = "auto",
    layout: Layout = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge a model on a dataset: metrics.json, predictions.csv, report.html."""
    from medmap.evaluate import DetectionRules, Options
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
        boxes=DetectionRules.parse(hit, sizes),
        masks=_view(within, margin, mirror=mirror, whole=whole),
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
    rows = [r for r in report.rows if r.group == "all" and r.average is None and r.stage in (None, "calibrated")]
    for row in rows:
        screen.line(_row(row, max(18, *(len(r.name) for r in rows))))
    screen.result(f"report: {output / 'report.html'}")


def _pairs(words: list[str] | None) -> Any:
    """``THEIRS=OURS`` words as a mapping; an empty right side is None."""
    if not words:
        return None
    for word in words:
        if "=" not in word or word.startswith("="):
            raise UsageError("a mapping reads THEIRS=OURS", got=repr(word))
    return {theirs: ours or None for theirs, _, ours in (word.partition("=") for word in words)}


def _row(row: Any, width: int) -> str:
    if row.value is None:
        return f"{row.name:{width}} –      ({row.reason})"
    interval = "" if row.low is None else f"  ({row.low:.3f} to {row.high:.3f}, {row.method})"
    return f"{row.name:{width}} {row.value:.3f}{interval}"


def compare(
    first: Annotated[Path, typer.Argument(metavar="OUT_A", help="An evaluation folder.")],
    second: Annotated[Path, typer.Argument(metavar="OUT_B", help="Another one, of the same cases.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two evaluations, of scores, masks or boxes, on the same cases with paired tests."""
    from medmap.evaluate import compare as compare_folders

    screen = Screen(quiet, json)
    with screen.doing("comparing, with patients drawn again a thousand times"):
        found = compare_folders(first, second)
    if json:
        screen.document(found.as_json())
    else:
        screen.result(found.as_text())


def choose(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs, judged on the same cases.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New folder: the chosen bundle, and choice.json.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="METRIC", help="Default: auroc of classes, dice of masks, ap50 of boxes."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose the best of several runs by the cases that were held out of training; test cases stay unseen."""
    from medmap.evaluate import choose_run

    if output is not None and require_folder(output).exists() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty", remedy="choose another folder with -o")
    screen = Screen(quiet, json)
    found = choose_run(runs, by)
    bundle = None if output is None else found.save(output)
    if json:
        screen.document({**found.as_json(), "saved": None if bundle is None else str(bundle.path)})
        return
    screen.line(found.as_text() + "\n")
    for text in found.verdict:
        screen.result(text)
    for text in found.warnings:
        screen.warning(text)
    screen.result(f"chosen: {found.best.run}")
    if bundle is not None:
        screen.result(f"bundle: {bundle.path}")


def predict(
    paths: Annotated[list[Path], typer.Argument(metavar="MODEL... INPUT...", help="Bundles or runs, then images.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the answers; must be new or empty, unless --resume.")
    ],
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="json, csv, nifti, instances, overlay, stl, dicom-seg, dicom-sr, coco … (default json,csv[,mask]).",
        ),
    ] = None,
    engine: Engine = "auto",
    device: Device = "auto",
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Memory that may be taken, 4GiB: masks fit or say at once what they need."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in the folder of an interrupted call; finished cases stay.")
    ] = False,
    within: Within = None,
    margin: Margin = 10.0,
    mirror: Mirror = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Masks: write the entropy at each voxel, 0 sure to 1.")
    ] = False,
    whole: Whole = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer for images, folders, a zip or a dataset: OUT/index.json lists case, files, outputs, warnings."""
    from medmap.cli.answers import Request, sentences_on, write_answers
    from medmap.evaluate import says_little_use

    chosen, limit = known_device(device), memory_of(memory)
    models, inputs = _models_and_inputs(paths)
    bundles = _bundles(models)
    usual = "json,csv,mask" if bundles[0].spec.task == "segment" else "json,csv"
    view = _view(within, margin, mirror=mirror, uncertainty=uncertainty, whole=whole)
    how = Request(
        list(dict.fromkeys((usual if formats is None else formats).split(","))), engine, chosen, limit, resume, view
    )
    with Screen(quiet, json) as screen:
        index = write_answers(bundles, inputs, output, how, screen)
    for text in index["warnings"]:
        if says_little_use(text):  # card and index have the others, too
            screen.warning(text)
    if json:
        screen.document(index)
    incomplete, answered = sentences_on(index["cases"])
    for text in incomplete:
        screen.warning(text)
    screen.result(f"{answered}: {output / 'index.json'}")
    if incomplete:
        raise typer.Exit(1)


def _view(
    within: list[Path] | None, margin: float, *, mirror: bool = False, uncertainty: bool = False, whole: bool = False
) -> MaskView | None:
    """How masks are looked for; None where nothing is asked for, which every task takes."""
    from medmap.predict import MaskView

    view = MaskView(tuple(_bundles(within or [])), margin, mirror, uncertainty, whole)
    return None if view == MaskView(margin_mm=margin) else view


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


def export(
    model: Annotated[Path, typer.Argument(help="A bundle or a run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new bundle's folder.")],
    to: Annotated[str, typer.Option("--to", help="onnx or openvino.")] = "onnx",
    dataset: Annotated[Path | None, typer.Option("--dataset", help="Real cases for the parity test.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Add a network in 8-bit integers (openvino).")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a model for another engine, with a parity test; exit code 1 where it gives another answer."""
    from medmap.cli.engines import export_bundle
    from medmap.runtime import Parity

    screen = Screen(quiet, json)
    with screen.doing(f"exporting to {to}, and comparing its answers with those of torch"):
        found = export_bundle(model, output, to, dataset, int8)
    if json:
        screen.document(found)
    else:
        for name, parity in found["engines"].items():
            screen.result(f"{name}: {Parity(**parity).verdict}")
        screen.result(f"bundle: {found['bundle']}")
    if not all(parity["passed"] for parity in found["engines"].values()):
        raise typer.Exit(1)


def verify(
    model: Annotated[Path, typer.Argument(help="A bundle or a run.")],
    json: Json = False,
) -> None:
    """Check a bundle's hashes, and here and now that every engine gives its answers."""
    from medmap.bundle import Bundle
    from medmap.bundle import verify as verify_bundle
    from medmap.cli.engines import at_this_site

    screen = Screen(json=json)
    bundle = Bundle.load(model)
    found = verify_bundle(bundle)
    coarse = [] if bundle.coarse is None else verify_bundle(bundle.coarse)
    if json:
        said = {"bundle": bundle.digest, "parity": [parity.as_json() for parity in found]}
        screen.document({**said, "coarse": [parity.as_json() for parity in coarse]} if coarse else said)
    else:
        screen.result(f"hashes: as written ({bundle.digest})")
        for name, of, rows in (("", bundle, found), ("coarse network, ", bundle.coarse or bundle, coarse)):
            for parity in rows:
                screen.result(f"{name}{parity.engine} {parity.precision}: {at_this_site(of, parity)}")
    if not all(parity.passed for parity in (*found, *coarse)):
        raise typer.Exit(1)


def schema(
    name: Annotated[
        str | None, typer.Argument(help="run.yaml, dataset.yaml, spec.json, metrics.json or choice.json.")
    ] = None,
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
