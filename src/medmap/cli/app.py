"""The command line as a whole: every command a row, each a few lines in ``data`` or ``model``."""

from __future__ import annotations

from typing import Annotated

import typer

from medmap.cli import data, measured, model
from medmap.cli import deidentify as deidentification

app = typer.Typer(
    help="Everything is a mapping: from your own medical images to a class, boxes, a mask or a better image.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Errors are a sentence; add --debug for the traceback. Every command has --help.",
)

# In the order in which a person meets them: the function, its name, and what it does in a line of the list (a longer
# one would be cut off).
COMMANDS = (
    (model.demo, "demo", "Walk the whole way on synthetic images, offline."),
    (data.info, "info", "Say what a file, study, dataset, run or bundle is."),
    (data.import_, "import", "Turn any known layout, or a PACS export, into a dataset."),
    (data.fetch, "fetch", "Get a public dataset by name, its checksum verified."),
    (data.check, "check", "Find everything wrong with a dataset, worst first."),
    (data.convert, "convert", "Write a dataset as nnU-Net, Decathlon, COCO or BIDS."),
    (data.diff, "diff", "Say what changed between two versions of a dataset."),
    (deidentification.deidentify, "deidentify", "Copy DICOM without what identifies patients, verified."),
    (model.plan, "plan", "Write what would be trained, and why: run.yaml."),
    (model.train, "train", "Train, and always leave a usable bundle."),
    (model.evaluate, "evaluate", "Judge a model on a dataset: numbers and a report."),
    (model.compare, "compare", "Compare two evaluations of the same cases."),
    (model.choose, "choose", "Choose the best of several runs, test cases unseen."),
    (model.predict, "predict", "Answer for images, folders, a zip or a dataset."),
    (measured.measure, "measure", "Measure the structures of a mask: sizes, intensities."),
    (model.export, "export", "Export a model for another engine, with a parity test."),
    (model.verify, "verify", "Check a bundle's hashes and its engines' answers."),
    (model.schema, "schema", "Print the JSON Schema of a file of medmap's."),
)
for _command, _name, _line in COMMANDS:
    app.command(_name, short_help=_line)(_command)


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
