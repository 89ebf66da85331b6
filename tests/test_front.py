"""The front door: every public name, and an import that does nothing."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import medmap

PACKAGE = Path(medmap.__file__).parent
GROUND = ("errors", "geometry", "image", "results", "dataset", "config")
HEAVY = ("torch", "pydicom", "SimpleITK", "monai", "matplotlib", "sklearn", "scipy", "pandas", "torchvision", "nibabel")

WATCH = """
import os, sys

room, package = sys.argv[1:]
fine = (package, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix))
seen = []

def watch(event, args):
    if event in ("os.putenv", "os.unsetenv") and b"BLAS_MAIN_FREE" in args[0]:
        return  # numpy sets and unsets it while it loads
    if event == "open":
        path, mode, flags = args
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        here = isinstance(path, int) or os.path.realpath(os.fsdecode(path)).startswith(fine)
        if writes or not here:
            seen.append(f"open {path} {mode}")
    elif event.startswith(("socket.", "subprocess.", "os.putenv", "os.unsetenv", "os.system", "os.remove", "os.mkdir",
                           "os.rename", "os.chdir", "os.posix_spawn", "os.exec", "os.fork", "shutil.", "tempfile.",
                           "urllib.", "webbrowser.", "ctypes.dlopen")) and args[:1] != (None,):
        seen.append(f"{event} {args}")

class Environment(type(os.environ)):
    def __getitem__(self, key):
        frame = sys._getframe(1)
        while frame and frame.f_code.co_filename.startswith("<frozen"):
            frame = frame.f_back
        caller = frame.f_back if frame and frame.f_code.co_name in ("get", "getenv", "__contains__") else frame
        for f in (frame, caller, caller and caller.f_back):
            if f and f.f_code.co_filename.startswith(package):
                seen.append(f"environment {key}")
        return super().__getitem__(key)

os.environ.__class__ = Environment
before = set(sys.modules)
environment = dict(os.environ)
sys.addaudithook(watch)
__import__(room)
if dict(os.environ) != environment:
    seen.append("the environment is changed")
roots = {name.split(".")[0] for name in set(sys.modules) - before}
print("\\n".join(seen))
print("MODULES", *sorted(roots))
"""


def watched_import(room: str, tmp_path: Path) -> tuple[list[str], set[str]]:
    """What importing a module does to the world, and which top-level packages it brings."""
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", WATCH, room, str(PACKAGE)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    *seen, modules = done.stdout.splitlines()
    return [line for line in seen if line], set(modules.split()[1:])


def test_the_front_names_every_verb_and_room_once() -> None:
    assert len(set(medmap.__all__)) == len(medmap.__all__)
    assert dir(medmap) == sorted(medmap.__all__)
    assert set(medmap.__all__) - {"__version__"} == set(medmap._ROOMS)


@pytest.mark.parametrize("name", medmap._ROOMS)
def test_every_name_comes_from_its_room(name: str) -> None:
    room = importlib.import_module(f"medmap.{medmap._ROOMS[name]}")
    value = getattr(medmap, name)
    assert value is getattr(room, name)
    assert not isinstance(value, ModuleType), "the verb, not the room of the same name"
    assert value.__doc__


def test_a_verb_stays_a_verb_after_its_room_is_imported() -> None:
    importlib.import_module("medmap.read")
    assert callable(medmap.read)
    from medmap import read

    assert read is medmap.read


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'learn'"):
        _ = medmap.learn


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert medmap.__version__ == version("medmap")


@pytest.mark.parametrize("room", ["medmap", *(f"medmap.{name}" for name in GROUND)])
def test_importing_does_nothing(room: str, tmp_path: Path) -> None:
    seen, modules = watched_import(room, tmp_path)
    assert seen == []
    assert not modules & set(HEAVY)
    if room == "medmap":
        assert not modules & {"numpy", "pydantic", "yaml"}, "import medmap is free; rooms come when they are used"
    assert list(tmp_path.iterdir()) == []


HELP = """
import sys
from medmap.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    sys.stdout.write(f"\\nEXIT {done.code}")
sys.stdout.write("\\nMODULES " + " ".join(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]], ids=" ".join)
def test_help_needs_no_heavy_library(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", HELP, *words], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    *shown, code, modules = done.stdout.splitlines()
    assert code == "EXIT 0"
    assert not set(modules.split()) & {*HEAVY, "numpy"}
    assert "medmap" in "\n".join(shown).lower()


def test_the_watch_sees_what_it_should(tmp_path: Path) -> None:
    """The guard itself, tripped: a module that writes, connects, and changes and reads the environment."""
    (tmp_path / "guilty.py").write_text(
        "import os, socket\n"
        "open('litter', 'w').close()\n"
        "os.environ['X'] = '1'\n"
        "os.environ.get('HOME')\n"
        "socket.socket().close()\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{WATCH}"
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code, "guilty", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    for sign in ("open litter", "os.putenv", "environment HOME", "socket.__new__", "the environment is changed"):
        assert sign in done.stdout
