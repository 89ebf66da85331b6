"""The mechanics of configuration: frozen sections, YAML in and out, overrides, errors a person can act on.

Rooms own the section that concerns them (``fit`` owns ``fit:``, ``augment`` owns ``augment:`` …); ``plan`` assembles
them into one ``Run``. Nothing here knows what is configured.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medmap.errors import ConfigError

MAX_YAML_BYTES = 8 * 2**20
MAX_YAML_DEPTH = 40
SHOWN = 200  # characters of a wrong value that an error repeats


class Section(BaseModel):
    """The base of everything that is written to or read from a configuration file: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)


S = TypeVar("S", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys, aliases (the way to a billion laughs) and deep nesting.

    As in YAML 1.2 a class may be called ``no`` or ``off``, and ``1e-4`` is a number.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise ConfigError("YAML aliases (*name) are not accepted", remedy="write the value out")
        self.depth += 1
        if self.depth > MAX_YAML_DEPTH:
            raise ConfigError("the YAML file is nested too deeply", expected=f"at most {MAX_YAML_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConfigError("a key is a list or a block", got=repr(key)[:SHOWN], expected="a word or a number")
            if key in seen:
                raise ConfigError("a key stands twice in one block", got=key, remedy="keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [row for row in rows if row[0] != _BOOL] for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, re.compile("^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def _load(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML", got=" ".join(str(error).split())) from error
    except ValueError as error:  # a date with month 99, a number of 5,000 digits
        raise ConfigError(f"{where} holds a value that cannot be read", got=str(error)) from error


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """YAML text to a mapping.

    Raises:
        ConfigError: No YAML, no mapping, a duplicate key, an alias, or nesting beyond reason.

    Example:
        >>> parse_yaml("train: {epochs: 5}", "run.yaml")
        {'train': {'epochs': 5}}
    """
    data = _load(text, where)
    if not isinstance(data, dict):
        raise ConfigError(f"{where} holds no settings", got=type(data).__name__, expected="keys and values")
    return data


def read_text(path: str | Path, limit_bytes: int = MAX_YAML_BYTES) -> str:
    """A small text file as a string.

    Raises:
        ConfigError: Absent, unreadable, not text, or larger than ``limit_bytes``.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a folder; a pipe or a device would never end
            raise ConfigError(f"{path} is no file")
        size = path.stat().st_size
        if size > limit_bytes:
            raise ConfigError(
                f"{path} is too large for a configuration file", got=f"{size} bytes", expected=limit_bytes
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a zero byte
        raise ConfigError(f"{path} cannot be read as text", got=str(error)) from error


def validate(model: type[S], data: Mapping[str, Any], where: str) -> S:
    """A mapping to a validated section; every error names the key, the value and what was expected.

    Raises:
        ConfigError: Unknown keys (with the closest known one), wrong types, values out of range.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        lines = [_explain(model, dict(item)) for item in error.errors()]
        raise ConfigError(f"{where} is not usable: " + "; ".join(lines)) from error


def _explain(model: type[BaseModel], item: dict[str, Any]) -> str:
    path = ".".join(str(p) for p in item["loc"])
    if item["type"] == "extra_forbidden":
        wrong = str(item["loc"][-1])
        close = difflib.get_close_matches(wrong, sorted(_known_keys(model) - {wrong}), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"unknown key {path}{hint}"
    if item["type"] == "missing":
        return f"{path} is missing"
    said = str(item["msg"]).removeprefix("Value error, ")
    if not path:  # keys that do not go together: the sentence names them, the whole file says nothing
        return said
    return f"{path} = {repr(item['input'])[:SHOWN]}: {said[:1].lower()}{said[1:]}"


def _known_keys(model: type[BaseModel]) -> set[str]:
    schema = model.model_json_schema()
    blocks = [schema, *schema.get("$defs", {}).values()]
    return {key for block in blocks for key in block.get("properties", {})}


def with_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The mapping with ``a.b=c`` assignments applied; values are YAML.

    Raises:
        ConfigError: No ``=``, an empty name, or a path through something that is no block.

    Example:
        >>> with_overrides({"fit": {"epochs": 5}}, ["fit.epochs=7", "fit.ema=null"])
        {'fit': {'epochs': 7, 'ema': None}}
    """
    result = _copy(data)
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys) or len(keys) > MAX_YAML_DEPTH:
            raise ConfigError("an override reads block.key=value", got=repr(text[:SHOWN]))
        block = result
        for key in keys[:-1]:
            child = block.setdefault(key, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{path} leads through {key}, which is no block", got=repr(child)[:SHOWN])
            block = child
        block[keys[-1]] = _load(value, f"the value of {path}") if value.strip() else None
    return result


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def to_yaml(data: Mapping[str, Any], indent: str = "") -> str:
    """Plain values as YAML in the order given: a key a line, blocks indented, lists on one line.

    Example:
        >>> print(to_yaml({"fit": {"epochs": 5, "axes": (0, 1)}, "note": None}), end="")
        fit:
          epochs: 5
          axes: [0, 1]
        note: null
    """
    lines = [] if data else [f"{indent}{{}}\n"]
    for key, value in data.items():
        name = _inline(key)
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{name}:\n{to_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{name}: {_inline(value)}\n")
    return "".join(lines)


def _inline(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, width=10**6, default_flow_style=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


class _Dumper(yaml.SafeDumper):
    """Tuples as lists, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(_FLOAT, re.compile("^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))
# one line a value: a text with line breaks is written with escapes
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if text.splitlines() not in ([], [text]) else None
    ),
)
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_list(list(value)))


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a whole file or nothing: a neighbour file, synced, then renamed over the target.

    The file has the permissions of any new file of this user (the umask holds).

    Raises:
        OSError: The disk is full or the folder not writable; the target is as it was.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    aside = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
