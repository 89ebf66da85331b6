# ruff: noqa: E402  (the environment is set before any library is imported)
"""What every test shares: the phantom grid, the real data, one thread, no network."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

# One thread a process: tests run side by side. Set before any library starts its pool.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import pytest
from hypothesis import settings

from grids import oblique_geometry, oblique_image
from medmap.geometry import Geometry
from medmap.image import Image

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("medmap", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("medmap")


def _no_network(event: str, args: tuple[object, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"):  # noqa: S104
        raise RuntimeError(f"a test reached for the network: {event} {host}")


sys.addaudithook(_no_network)


# Modules that train or measure for many seconds: before the others, so that no worker waits at the end.
COSTLY = (
    "test_plan_cascade.py", "test_predict_killed.py", "test_predict_masks.py", "test_quantize.py", "test_segmented.py",
    "test_train_cascade.py", "test_train_detect.py", "test_train_inputs.py", "test_train_regions.py",
    "test_train_segment.py", "test_train_slices.py", "test_window_inference.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pages of the documentation first, then what is costly; a file is a worker's own, so no fixture is made twice."""
    items.sort(key=lambda item: (item.path.name != "test_docs.py", item.path.name not in COSTLY))


@pytest.fixture
def geometry() -> Geometry:
    return oblique_geometry()


@pytest.fixture
def image() -> Image:
    return oblique_image()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; absent elsewhere."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared data is not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Where a program lies that reads our files back; absent, a test skips, or fails where MEDMAP_REQUIRE_TOOLS=1."""

    def found(name: str) -> str:
        # dcmqi's programs lie beside the interpreter, whatever PATH says
        path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
        if path is None and os.environ.get("MEDMAP_REQUIRE_TOOLS") == "1":
            pytest.fail(f"the program {name} is required here and is not installed")
        if path is None:
            pytest.skip(f"the program {name} is not installed")
        return path

    return found


def pytest_terminal_summary(terminalreporter) -> None:
    """Tables that tests recorded (``record_property("table of …", rows)``) end the run, with workers too."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, rows in report.user_properties:
                if name.startswith("table of "):
                    terminalreporter.write_sep("-", f"{len(rows)} files: {name}")
                    for row in rows:
                        terminalreporter.write_line(row)
