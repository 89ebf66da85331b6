"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
Within = Annotated[
    list[Path] | None,
    typer.Option("--within", help="Coarse bundle of masks: look only around what it finds; repeatable."),
]
Margin = Annotated[float, typer.Option("--margin", help="Around what --within finds, mm.")]
Mirror = Annotated[bool, typer.Option("--mirror", help="Masks: average over views mirrored as in training.")]
Whole = Annotated[bool, typer.Option("--whole", help="Masks: look at whole volumes, not at the body's box alone.")]
