"""The command line as a whole: every command a row, each a few lines in ``data`` or ``model``."""

from __future__ import annotations

from typing import Annotated

import typer

from medmap.cli import data, model
from medmap.cli import deidentify as deidentification

app = typer.Typer(
    help="Everything is a mapping: from your own medical images to a class, boxes, a mask or a better image.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Errors are a sentence; add --debug for the traceback. Every command has --help.",
)

# In the order in which a person meets them; the name is the function's unless it stands here.
COMMANDS = (
    (model.demo, None),
    (data.info, None),
    (data.import_, "import"),
    (data.fetch, None),
    (data.check, None),
    (data.convert, None),
    (data.diff, None),
    (deidentification.deidentify, None),
    (model.plan, None),
    (model.train, None),
    (model.evaluate, None),
    (model.compare, None),
    (model.predict, None),
    (model.export, None),
    (model.verify, None),
    (model.schema, None),
)
for _command, _name in COMMANDS:
    app.command(_name)(_command)


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
