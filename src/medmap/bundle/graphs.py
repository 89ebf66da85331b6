"""A bundle's networks as graphs: usually one; of a detector in two stages two, with what no engine runs between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmap.runtime import Engine, EngineKind, Precision, export_onnx, open_engine

if TYPE_CHECKING:
    from medmap.bundle.ensemble import Ensemble
    from medmap.bundle.spec import BundleSpec

Floats = NDArray[np.float32]
ONNX = "model.onnx"
SECOND = "second.onnx"
INT8 = ("model.int8.xml", "model.int8.bin")
# Convolutions of a detector's heads and of the pyramid below them: edges of boxes lose most there, time little.
HEADS_OF_BOXES = 5


def write_graphs(network: Ensemble, example: Floats, folder: Path) -> None:
    """Export all members as one graph, or as two.

    Args:
        network: The members.
        example: (N, C, *spatial) or (N, members, C, *spatial) float32 inputs.
        folder: Gets ``model.onnx``, and ``second.onnx`` where there are two.

    Raises:
        BundleError: The network cannot be exported.
    """
    from medmap.bundle.ensemble import Ensemble
    from medmap.networks.two_stage import REGION, First, TwoStage

    stages = [member for member in network.members if isinstance(member, TwoStage)]
    if not stages:
        export_onnx(network, example, folder / ONNX)
        return
    first = Ensemble([First(one) for one in stages], shared_recipe=network.shared_recipe)
    export_onnx(first.eval(), example, folder / ONNX)
    axes = len(stages[0].shape)
    regions = np.zeros((1, len(stages), stages[0].pyramid.channels, *(REGION[axes],) * axes), dtype=np.float32)
    export_onnx(Ensemble([one.second for one in stages], shared_recipe=False).eval(), regions, folder / SECOND)


def heads_kept(spec: BundleSpec) -> int:
    """How many convolutions before the answer are computed in float32 in every precision: of a detector its heads."""
    return HEADS_OF_BOXES if spec.task == "detect" else 0


def open_graphs(
    kind: EngineKind,
    folder: Path,
    spec: BundleSpec,
    *,
    precision: Precision,
    threads: int | None = None,
    device: str = "cpu",
) -> Engine:
    """All members on an engine, from the graphs that ``write_graphs`` left, or their 8-bit form.

    Raises:
        BundleError: A file that is no graph, or that the engine cannot run.
    """
    from medmap.networks import NetworkSpec

    path = folder / (INT8[0] if precision == "int8" else ONNX)
    kept = heads_kept(spec)
    first = open_engine(kind, model_path=path, threads=threads, precision=precision, device=device, kept=kept)
    if not NetworkSpec(**spec.members[0].network).two_stage:
        return first
    try:  # in float32 always: it says where the edges lie
        second = open_engine(kind, model_path=folder / SECOND, threads=threads, device=device)
    except BaseException:
        first.close()
        raise
    return _TwoStages(first, second, [_shell(member.network) for member in spec.members])


def _shell(network: dict[str, Any]) -> Any:
    """A network that knows its places and sizes and has no weights."""
    import torch

    from medmap.networks import NetworkSpec, build

    with torch.device("meta"):
        return build(NetworkSpec(**network), seed=0).eval()


class _TwoStages:
    """Two graphs as one engine; proposals and RoIAlign between them are torch's, in float32."""

    def __init__(self, first: Engine, second: Engine, shells: Sequence[Any]) -> None:
        self._first, self._second, self._shells = first, second, tuple(shells)
        self.name, self.precision, self.device = first.name, first.precision, first.device

    def __call__(self, batch: Floats) -> Floats:
        """(N, members, proposals, classes + 2·ndim), as the network itself answers."""
        import torch

        with torch.inference_mode():
            packed = torch.from_numpy(np.array(self._first(batch), dtype=np.float32))
            proposed, regions = [], []
            for member, shell in enumerate(self._shells):
                answers, maps = shell.unpacked(packed[:, member])
                proposed.append(shell.proposed(answers))
                regions.append(shell.regions(maps, proposed[-1][0]))
            numbers = torch.from_numpy(np.array(self._second(torch.stack(regions, dim=1).numpy()), dtype=np.float32))
            parts = [shell.together(numbers[:, member], *proposed[member]) for member, shell in enumerate(self._shells)]
            return np.asarray(torch.stack(parts, dim=1).numpy(), dtype=np.float32)

    def close(self) -> None:
        """Free both graphs."""
        self._first.close()
        self._second.close()
