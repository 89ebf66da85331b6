"""The bundle itself: a folder of data that is verified before anything in it is believed."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from medmap.bundle.files import (
    AGAIN,
    COARSE,
    REQUIRED,
    SUMS,
    copy_folder,
    parse_sums,
    read_small,
    standing,
    verify_folder,
    write_folder,
)
from medmap.bundle.graphs import INT8, ONNX, SECOND, open_graphs
from medmap.bundle.spec import MAX_SPEC_BYTES, BundleSpec, MemberSpec, parse_spec
from medmap.bundle.weights import WEIGHTS, check_weights, count_weights, pack_weights, read_weights, require_fit
from medmap.errors import BundleError, ConfigError, MedmapError, MedmapWarning
from medmap.results import Label

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medmap.decision import Decision
    from medmap.runtime import Engine, EngineKind, Precision

PARITY = "parity.npz"
_RESERVED = frozenset({"spec.json", WEIGHTS, "CARD.md", PARITY, SUMS})


@dataclass(frozen=True, eq=False)
class Bundle:
    """What training leaves and everything after it starts from: weights, recipes, labels, decision, provenance.

    Made by ``Bundle.load`` and ``Bundle.write``, never by hand: a ``Bundle`` stands for a folder whose every byte was
    checked.

    Args:
        path: The folder.
        spec: What ``spec.json`` says.
        digest: ``sha256:…`` over SHA256SUMS, and so over every file.
        hashes: SHA-256 by file name.
    """

    path: Path
    spec: BundleSpec
    digest: str
    hashes: Mapping[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "hashes", MappingProxyType(dict(self.hashes)))

    # ------------------------------------------------------------------------------------------- from and to disk

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Open a bundle folder, or the bundle of a run folder, and check it whole.

        Args:
            path: A folder with ``spec.json``, or a run folder with ``bundle/``.

        Raises:
            BundleError: No bundle, changed bytes, missing or extra files, links, an unknown field, a newer format,
                weights that are no safetensors, an ONNX file that points outside itself or needs custom code.
        """
        folder = _bundle_folder(Path(path))
        hashes, digest = verify_folder(folder)
        spec = parse_spec(read_small(folder / "spec.json", MAX_SPEC_BYTES), str(folder / "spec.json"))
        check_weights(folder / WEIGHTS, len(spec.members))
        for name in (ONNX, SECOND):
            if name in hashes:
                from medmap.runtime import read_onnx

                read_onnx(folder / name)
        bundle = cls(folder, spec, digest, hashes)
        if spec.decision:
            _ = bundle.decision
        _require_coarse(bundle)
        return bundle

    @classmethod
    def write(
        cls,
        path: str | Path,
        spec: BundleSpec,
        states: Sequence[Mapping[str, Tensor]],
        *,
        card: str,
        parity_inputs: NDArray[np.float32] | None = None,
        files: Mapping[str, bytes] | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Write a bundle whole or not at all, and open what was written.

        Args:
            path: The bundle's folder.
            spec: Everything but the weights.
            states: One state dictionary a member, in the order of ``spec.members``.
            card: The model card, Markdown.
            parity_inputs: Phantom inputs (never a patient's pixels), (N, C, *spatial) or, where members have recipes
                of their own, (N, members, C, *spatial); their outputs are kept with them.
            files: Further files by plain name: tables, figures; ``coarse/…`` those of a bundle that says where to
                look, all of them.
            overwrite: Replace a bundle that stands there; until the new one is whole, the old one stays.

        Raises:
            BundleError: Weights and members do not match, a value or name no bundle may have, the folder is taken,
                or the disk is full (then everything is as it was).
        """
        if len(states) != len(spec.members):
            raise BundleError(
                "every member of a bundle needs its weights", got=len(states), expected=f"{len(spec.members)} states"
            )
        if clash := sorted(_RESERVED & set(files or {})):
            raise BundleError("a further file takes the name of a bundle's own", got=clash[0])
        text = spec.to_json()
        parse_spec(text, "the bundle's spec")  # what is written can be read
        _require_whole(files or {})
        contents = {
            "spec.json": text.encode("utf-8"),
            WEIGHTS: pack_weights(states),
            "CARD.md": card.encode("utf-8"),
            **(files or {}),
        }
        if parity_inputs is not None:
            from medmap.bundle.parity import pack_parity

            contents[PARITY] = pack_parity(spec, states, parity_inputs)
        write_folder(Path(path), contents, overwrite=overwrite)
        return cls.load(path)

    def copied(self, folder: str | Path, beside: Mapping[str, bytes] | None = None) -> Bundle:
        """Copy the bundle to ``folder/bundle``, whole or not at all: every byte and so the digest stays.

        Args:
            folder: The new folder; must not exist, or be empty.
            beside: Further files beside the bundle, by plain name.

        Returns:
            The copy, opened and checked.

        Raises:
            BundleError: The folder is taken, the bundle was changed meanwhile, the disk is full or not writable.
        """
        copy_folder(self.path, self.digest, Path(folder), beside or {})
        return Bundle.load(Path(folder))

    # --------------------------------------------------------------------------------------------------- what it holds

    @property
    def weight_count(self) -> int:
        """Numbers that the networks of all members hold together: how large the bundle is."""
        return count_weights(self.path / WEIGHTS)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes, in the order of the outputs."""
        return tuple(Label(label.name, label.code) for label in self.spec.labels)

    @property
    def decision(self) -> Decision:
        """The rule fitted on validation predictions.

        Raises:
            BundleError: The spec's decision is none.
        """
        from medmap.decision import Decision

        try:
            return Decision.from_json(self.spec.decision)
        except (MedmapError, ValueError, TypeError, KeyError) as error:
            raise BundleError(f"{self.path / 'spec.json'} holds no usable decision", got=f"{error!s:.300}") from error

    @cached_property
    def coarse(self) -> Bundle | None:
        """The bundle of a coarse mask, in the folder ``coarse``: what it finds is where this one looks; or None.

        Raises:
            BundleError: What stands there is no bundle.
        """
        return Bundle.load(self.path / COARSE) if f"{COARSE}/{SUMS}" in self.hashes else None

    def contents(self) -> dict[str, bytes]:
        """Every file by name, SHA256SUMS among them."""
        return {name: (self.path / name).read_bytes() for name in (*self.hashes, SUMS)}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the bundle came from."""
        return MappingProxyType(dict(self.spec.provenance))

    @property
    def shared_recipe(self) -> bool:
        """Whether one preparation serves all members."""
        return shared_recipe(self.spec)

    def state_dict(self, member: int = 0) -> dict[str, Tensor]:
        """The weights of one member, on the CPU.

        Raises:
            BundleError: No such member, or a weight that is not finite.
        """
        self._member(member)
        return read_weights(self.path / WEIGHTS, member)

    def module(self, member: int = 0) -> nn.Module:
        """The network of one member with its weights, in evaluation mode, on the CPU.

        Raises:
            BundleError: No such member, an unknown network, or weights that do not fit it.
        """
        return member_module(self._member(member), self.state_dict(member), f"{self.path}, member {member}")

    def ensemble(self) -> nn.Module:
        """All members as one network with outputs (N, members, outputs …), in evaluation mode.

        The input is (N, C, *spatial) where ``shared_recipe``, else (N, members, C, *spatial).

        Raises:
            BundleError: As ``module``.
        """
        from medmap.bundle.ensemble import Ensemble

        members = [self.module(index) for index in range(len(self.spec.members))]
        return Ensemble(members, shared_recipe=self.shared_recipe).eval()

    def engine(
        self,
        kind: Literal["auto", "torch", "onnx", "openvino"] = "auto",
        *,
        threads: int | None = None,
        device: str = "auto",
        precision: Precision = "float32",
    ) -> Engine:
        """All members on one engine, (N, C, *spatial) → (N, members, outputs …), as ``ensemble``.

        What is chosen by ``auto`` first answers a phantom of the bundle; where it does not as it did at the export,
        float32 is taken, and torch where that fails too, with a warning.

        Args:
            kind: ``auto``: torch on a GPU, else the fastest whose parity passed when the bundle was exported.
            threads: Threads on a CPU; None: as many as cores may be used.
            device: ``auto``, ``cpu``, ``cuda`` …
            precision: ``float32``; ``bfloat16`` and ``int8`` only where their parity passed; ``auto`` takes the fewest
                bits that passed and that the processor computes (int8 passed only where it was asked for).

        Raises:
            BundleError: The engine asked for was never exported to, or does not give the same answer.
        """
        from medmap.runtime import choose, open_engine

        if device == "auto":
            device = _device(kind)
        name = choose(self._passed("float32"), device) if kind == "auto" else kind
        wanted = self._precisions(name, device) if precision == "auto" else [precision]
        for candidate in wanted:
            if name == "torch" and candidate == "float32":
                break
            if name not in self._passed(candidate):
                raise BundleError(
                    f"{self.path} was not shown to give the same answer on {name} in {candidate}",
                    remedy="take torch in float32, or export the bundle and look at its parity",
                )
            engine = open_graphs(
                cast("EngineKind", name), self.path, self.spec, threads=threads, device=device, precision=candidate
            )
            if (kind != "auto" and precision != "auto") or self._answers(engine, name, candidate):
                return engine
            engine.close()
        else:
            if kind != "auto":
                raise BundleError(f"{self.path} gives another answer on {name} here", remedy="take torch")
        return open_engine("torch", module=self.ensemble(), threads=threads, device=device)

    def _precisions(self, name: str, device: str) -> list[Precision]:
        """What ``auto`` tries, fewest bits first."""
        from medmap.runtime import cpu_facts

        facts = cpu_facts()
        low: list[tuple[Precision, bool]] = [("int8", facts.vnni), ("bfloat16", facts.fast_bfloat16)]
        here = [precision for precision, fast in low if device == "cpu" and fast and name in self._passed(precision)]
        return [*here, "float32"]

    def _answers(self, engine: Engine, name: str, precision: Precision) -> bool:
        """Whether an engine answers a phantom as it did when the bundle was exported; a warning where it does not."""
        if PARITY not in self.hashes:
            return True
        from medmap.bundle.parity import on_phantoms, read_parity

        inputs, outputs = read_parity(self.path / PARITY)
        key = name if precision == "float32" else f"{name}:{precision}"
        if on_phantoms(self, key, engine, inputs[:1], outputs[:1]).passed:
            return True
        warnings.warn(
            f"{name} in {precision} does not answer here as it did when {self.path} was exported: not used",
            MedmapWarning,
            stacklevel=4,
        )
        return False

    def _passed(self, precision: str) -> list[str]:
        """Engines whose parity in a precision passed and whose file is there."""
        if (INT8[0] if precision == "int8" else ONNX) not in self.hashes:
            return []
        suffix = "" if precision == "float32" else f":{precision}"
        found = [key.partition(":") for key, parity in self.spec.engines.items() if parity.get("passed") is True]
        return [name for name, colon, low in found if colon + low == suffix]

    def _member(self, member: int) -> MemberSpec:
        if not 0 <= member < len(self.spec.members):
            raise BundleError(
                f"{self.path} has no such member", got=member, expected=f"0 to {len(self.spec.members) - 1}"
            )
        return self.spec.members[member]


def _require_coarse(bundle: Bundle) -> None:
    """A bundle that was trained coarse to fine holds its coarse one, whole, and no other does.

    Raises:
        BundleError: It does not, or holds something else there.
    """
    trained = isinstance(bundle.spec.run.get("coarse"), dict)
    held = any(name.startswith(f"{COARSE}/") for name in bundle.hashes)
    if trained != held or held != (f"{COARSE}/{SUMS}" in bundle.hashes):
        raise BundleError(
            f"{bundle.path} is not whole",
            got=f"{'a' if held else 'no'} folder {COARSE}/",
            expected="the coarse network that the bundle was trained with" if trained else "no coarse network",
            remedy=AGAIN,
        )
    if bundle.coarse is not None and bundle.coarse.spec.task != "segment":
        raise BundleError(
            f"{bundle.coarse.path} does not say where to look", got=bundle.coarse.spec.task, expected="segment"
        )


def _require_whole(files: Mapping[str, bytes]) -> None:
    """Refuse, before anything is written, a nested bundle that would not load.

    Raises:
        BundleError: Files that are missing, changed or unlisted, or a spec that cannot be read.
    """
    inner = {name.removeprefix(f"{COARSE}/"): data for name, data in files.items() if name.startswith(f"{COARSE}/")}
    if not inner:
        return
    sums = parse_sums(inner.get(SUMS, b"").decode("utf-8", "replace"), f"{COARSE}/{SUMS}")
    found = {name: hashlib.sha256(data).hexdigest() for name, data in inner.items() if name != SUMS}
    if found != sums or any(name not in found for name in REQUIRED):
        raise BundleError(f"the files of {COARSE}/ are not those of one bundle", remedy="give Bundle.contents()")
    parse_spec(inner["spec.json"].decode("utf-8", "replace"), f"{COARSE}/spec.json")


def _device(kind: str) -> str:
    """The device to take when none is asked for: a GPU for torch where there is one."""
    if kind in ("onnx", "openvino"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def shared_recipe(spec: BundleSpec) -> bool:
    """Whether one preparation serves all members of a spec."""
    return all(member.recipe == spec.members[0].recipe for member in spec.members)


def member_module(member: MemberSpec, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """The network a member describes, filled with its weights, in evaluation mode.

    Raises:
        BundleError: The description is of no network, or the weights do not fit it.
    """
    import torch
    from pydantic import TypeAdapter

    from medmap.networks import NetworkSpec, build

    remedy = "update medmap, or get the bundle again from where it was made"
    if unknown := sorted(member.network.keys() - {field.name for field in fields(NetworkSpec)}):
        raise BundleError(f"{where} describes no network", got=f"the unknown key {unknown[0]!r:.100}", remedy=remedy)
    try:
        # the dataclass checks ranges, pydantic the types: what stands in a file may be anything
        spec = TypeAdapter(NetworkSpec).validate_python(member.network)
        try:
            # First without memory: a description that asks for terabytes is found before they are allocated.
            with torch.device("meta"):
                require_fit(build(spec, seed=0), state, where)
        except (RuntimeError, NotImplementedError):
            pass  # a library's network that cannot be made without memory is made with it, and checked then
        network = build(spec, seed=0)  # these weights are overwritten; a seed leaves the caller's generator alone
    except ConfigError as error:
        raise BundleError(f"{where}: {error.what}", got=error.got, expected=error.expected, remedy=remedy) from error
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise BundleError(
            f"{where} describes no network", got=f"{' '.join(str(error).split()):.300}", remedy=remedy
        ) from error
    require_fit(network, state, where)
    network.load_state_dict(dict(state), strict=True)
    return network.eval()


def _bundle_folder(path: Path) -> Path:
    """The folder of the bundle: ``path`` itself, or ``path/bundle`` of a run."""
    for folder in (standing(path), standing(path / "bundle")):
        if any((folder / name).is_file() for name in ("spec.json", SUMS, WEIGHTS)):
            return folder
    if not path.exists():
        raise BundleError(f"{path} does not exist", remedy="give a bundle folder or a run folder")
    found = "a file" if path.is_file() else "a folder without spec.json"
    raise BundleError(f"{path} is no bundle", got=found, expected="a bundle folder, or a run folder with bundle/")
