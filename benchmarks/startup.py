"""How long ``medmap --help`` and ``import medmap`` take: medians of whole processes, taken in turns with their peers.

Prints one JSON line a comparison (``name peer ours theirs unit ratio same_answer``). ``ratio`` is theirs / ours, so
above 1 medmap is faster. For the help, ``goal_s`` and ``goal_met`` say whether it stays under its goal. Peers:
importing torch, which is what a command line pays with its imports at the top; Python doing nothing, the floor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

GOAL_S = 0.3
MEDMAP = Path(sys.executable).parent / "medmap"

COMMANDS = {
    "medmap --help": [str(MEDMAP), "--help"],
    "import medmap": [sys.executable, "-c", "import medmap"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one process, from start to exit."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def medians(rounds: int) -> dict[str, float]:
    """Median seconds of each command; one round warms the disk cache, then they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            took = seconds(command)
            if number:
                taken[name].append(took)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="start-up time of medmap")
    parser.add_argument("--rounds", type=int, default=11)
    found = medians(parser.parse_args().rounds)
    for ours in ("medmap --help", "import medmap"):
        for peer in ("python -c 'import torch'", "python -c pass"):
            row = {
                "name": f"startup: {ours}",
                "peer": peer,
                "ours": round(found[ours], 4),
                "theirs": round(found[peer], 4),
                "unit": "s",
                "ratio": round(found[peer] / found[ours], 3),
                "same_answer": None,
            }
            if ours == "medmap --help":
                row |= {"goal_s": GOAL_S, "goal_met": found[ours] < GOAL_S}
            print(json.dumps(row))


if __name__ == "__main__":
    main()
