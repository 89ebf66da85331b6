"""``predict`` of masks, killed at random moments: nothing half-written, nothing done twice, the same end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmap.cli.resumed import OWN
from medmap.layouts import open_dataset
from medmap.read import read
from medmap.train import train
from nested_masks import nested_run, write_nested

KILLS = int(os.environ.get("MEDMAP_TEST_KILLS", "3"))
FORMATS = "json,csv,nifti,overlay,stl"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    write_nested(folder / "data", dimensions=3)
    train(nested_run(3), open_dataset(folder / "data"), folder / "run", listener=lambda event: None)
    write_nested(folder / "many", count=12 + 12 * KILLS, dimensions=3, seed=8)
    return folder


def words(trained: Path, out: Path) -> list[str]:
    call = ["predict", str(trained / "run"), str(trained / "many"), "-o", str(out), "--format", FORMATS, "--quiet"]
    return [sys.executable, "-W", "ignore", "-m", "medmap", *call]


def finished(out: Path) -> set[str]:
    """The JSON files there: each says that its case is done."""
    return {path.name for path in out.glob("[0-9]*.json")} if out.is_dir() else set()


def stamps(out: Path, cases: set[str]) -> dict[str, tuple[int, int]]:
    """Name → inode and moment of every file of some cases."""
    numbers = {name.partition(".")[0] for name in cases}
    files = [path for path in out.iterdir() if path.name.partition(".")[0] in numbers]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def require_whole(out: Path) -> None:
    """Every file that has its final name can be read to its end."""
    for path in out.iterdir():
        if path.name.startswith("."):
            continue
        if path.name.endswith(".json"):
            json.loads(path.read_text())
        elif path.name.endswith((".nii.gz", ".png")):
            np.asarray(read(path).array)
        elif path.name.endswith(".stl"):
            data = path.read_bytes()
            assert len(data) == 84 + 50 * int.from_bytes(data[80:84], "little")


def killed_once(call: list[str], out: Path, rng: random.Random) -> bool:
    """Start the call, wait until it has answered one more case, and a random while; whether it was killed then."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = finished(out)
    child = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    begin = time.monotonic()
    while child.poll() is None and finished(out) == before and time.monotonic() - begin < 120:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.25))
    killed = child.poll() is None
    if killed:
        child.send_signal(signal.SIGKILL)
    child.communicate()
    return killed


def test_killed_at_random_moments_predict_goes_on_to_the_same_masks(trained: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(words(trained, whole), env=environment, check=True)
    rng, kills, done = random.Random(7), 0, dict[str, Any]()
    for _ in range(KILLS):
        kills += killed_once([*words(trained, out), "--resume"], out, rng)
        require_whole(out)
        assert not done or stamps(out, finished(out)).items() >= done.items(), "a finished case was written again"
        done = stamps(out, finished(out))
    assert kills, "no call was killed: give it more cases"
    assert 0 < len(finished(out)) < len(finished(whole)), "nothing was left to go on with"
    subprocess.run([*words(trained, out), "--resume"], env=environment, check=True)
    assert stamps(out, finished(out)).items() >= done.items()
    assert json.loads((out / "index.json").read_text()) == json.loads((whole / "index.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir()), "what was cut off is gone"
    for path in whole.iterdir():
        assert OWN.fullmatch(path.name)
        if path.name.endswith(".nii.gz"):
            np.testing.assert_array_equal(read(out / path.name).array, read(path).array)
        else:
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
