"""What ``spec.json`` says: plain values, strictly read, never an expression, an import string or a path."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from medmap.config import Section, validate
from medmap.errors import BundleError, ConfigError
from medmap.results import ScoreKind

FORMAT = 1
MAX_SPEC_BYTES = 32 * 2**20
MAX_DEPTH = 60
JsonBlock = dict[str, Any]


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class LabelSpec(Section):
    """A class or structure by name and, where known, its code in a terminology (``SCT:…``)."""

    name: str = Field(min_length=1, max_length=512)
    code: str | None = Field(default=None, max_length=512)


class InputSpec(Section):
    """One input of the mapping, as prepared: what acquired it and how many channels it has."""

    modality: str | None = Field(default=None, max_length=64)
    channels: int = Field(default=1, ge=1, le=65536)
    quantity: str | None = Field(default=None, max_length=64)
    size: tuple[Annotated[int, Field(ge=1)], ...] | None = None


class MemberSpec(Section):
    """One member of the ensemble: its network's description, its fitted recipe, the fold it left out."""

    network: JsonBlock
    recipe: JsonBlock
    fold: int | None = Field(default=None, ge=0)


class BundleSpec(Section):
    """The whole of ``spec.json``.

    Args:
        medmap_bundle: The format's version.
        task: classify, detect, segment, enhance, or the name of a plug-in's task.
        name: What the bundle calls itself.
        created: ISO 8601 date and time in UTC, given by the caller so that a bundle can be made again byte for byte.
        medmap_version: The medmap that wrote it.
        kind: How scores hang together; None where the task gives none.
        labels: The classes, in the order of the outputs.
        positive: Index of the class a binary score speaks of.
        inputs: Inputs by name, in the order in which their channels are joined.
        members: At least one.
        decision: ``Decision.to_json()``.
        run: The resolved ``run.yaml``.
        provenance: Where it came from: hashes of the dataset and the cases, seeds, versions, machine.
        engines: ``Parity.as_json()`` by ``engine`` (float32), ``engine:bfloat16`` or ``engine:int8``.
        licence: An SPDX name or a sentence.
        warnings: What a user must know, in sentences.
    """

    medmap_bundle: Literal[1] = 1
    task: str = Field(min_length=1, max_length=64)
    name: str = Field(min_length=1, max_length=512)
    created: str
    medmap_version: str = Field(min_length=1, max_length=64)
    kind: ScoreKind | None = None
    labels: Annotated[tuple[LabelSpec, ...], BeforeValidator(_listed)] = ()
    positive: int | None = Field(default=None, ge=0)
    inputs: dict[str, InputSpec] = Field(min_length=1)
    members: Annotated[tuple[MemberSpec, ...], BeforeValidator(_listed)] = Field(min_length=1, max_length=1000)
    decision: JsonBlock = Field(default_factory=dict)
    run: JsonBlock = Field(default_factory=dict)
    provenance: JsonBlock = Field(default_factory=dict)
    engines: dict[Annotated[str, Field(pattern=r"^(onnx|openvino)(:bfloat16|:int8)?$")], JsonBlock] = Field(
        default_factory=dict
    )
    licence: str = Field(default="not stated", max_length=4096)
    warnings: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()

    @field_validator("created")
    @classmethod
    def _utc(cls, value: str) -> str:
        moment = datetime.fromisoformat(value)
        if moment.utcoffset() != timedelta(0):
            raise ValueError("the time must be in UTC, as in 2025-01-31T12:00:00Z")
        return value

    @model_validator(mode="after")
    def _fits(self) -> BundleSpec:
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise ValueError("two labels have the same name")
        if self.positive is not None and self.positive >= len(names):
            raise ValueError(f"positive = {self.positive}, but there are {len(names)} labels")
        return self

    def to_json(self) -> str:
        """The text of ``spec.json``: two spaces, the order of the fields, no NaN.

        Raises:
            BundleError: A value that JSON cannot hold (NaN, an object).
        """
        try:
            # a round through dumps and not model_dump_json, which would write NaN as null
            return json.dumps(self.model_dump(mode="python"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise BundleError(
                "a value of the bundle's spec cannot be written as JSON",
                got=str(error),
                remedy="give plain finite numbers, strings, lists and mappings",
            ) from error


def parse_spec(text: str, where: str) -> BundleSpec:
    """The text of ``spec.json`` to its value.

    Raises:
        BundleError: No JSON, duplicate keys, NaN, nesting beyond reason, a newer format, unknown or wrong fields.
    """
    data = parse_json(text, where)
    version = data.get("medmap_bundle") if isinstance(data, dict) else None
    if not isinstance(data, dict) or version is None:
        raise BundleError(f"{where} does not describe a medmap bundle", remedy="export the bundle again")
    if isinstance(version, int) and version > FORMAT:
        raise BundleError(
            f"{where} was made by a newer medmap ({data.get('medmap_version', 'of unknown version')!s:.64})",
            got=f"bundle format {version}",
            expected=f"at most {FORMAT}",
            remedy="update medmap (pip install --upgrade medmap)",
        )
    try:
        return validate(BundleSpec, data, where)
    except (ConfigError, ValidationError, RecursionError) as error:
        sentence = error.what if isinstance(error, ConfigError) else str(error)
        raise BundleError(
            sentence if len(sentence) < 1000 else sentence[:1000] + "…",
            remedy="get the bundle again from where it was made; spec.json is not to be edited",
        ) from error


def parse_json(text: str, where: str) -> Any:
    """Strict JSON: no duplicate keys, only finite numbers, at most ``MAX_DEPTH`` levels.

    Raises:
        BundleError: Anything else.

    Example:
        >>> parse_json('{"a": [1, 2.5]}', "spec.json")
        {'a': [1, 2.5]}
    """
    remedy = "get the bundle again from where it was made"
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise BundleError(f"{where} is nested too deeply", expected=f"at most {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise BundleError(f"{where} is not valid JSON", got=f"{error!s:.300}", remedy=remedy) from error
    level, depth = [value], 0
    while level := [child for item in level for child in _children(item)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise BundleError(f"{where} is nested too deeply", expected=f"at most {MAX_DEPTH} levels", remedy=remedy)
    return value


def _children(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    block = dict(pairs)
    if len(block) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.100} stands twice")
    return block


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is beyond a float")
    return value


def digest_of_cases(cases: Iterable[str] | Sequence[str]) -> str:
    """A hash of a set of case identifiers, whatever their order: what the provenance says was learnt from.

    Args:
        cases: Case identifiers (pseudonyms).

    Example:
        >>> digest_of_cases(["b", "a"]) == digest_of_cases(["a", "b"])
        True
    """
    text = json.dumps(sorted(set(cases)), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()
