"""The command line: one sentence a command, one exit code a kind of failure."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED, DEFECT, UNUSABLE = 130, 70, 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``medmap`` with its arguments and exit.

    Exit codes: 0 done; 1 done, with findings at error level; 2 wrong usage; 3 data that can't be used;
    4 configuration; 5 bundle refused; 6 missing extra; 70 a defect of medmap's own; 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    sys.exit(run([w for w in words if w != "--debug"], debug))


def run(words: Sequence[str], debug: bool = False) -> int:
    """Run one command and return its exit code; errors become a sentence on standard error."""
    from medmap.cli.app import app
    from medmap.errors import MedmapError

    try:
        code = app(args=list(words), standalone_mode=False, prog_name="medmap")
        return code if isinstance(code, int) else 0
    except MedmapError as error:
        return _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, debug)
    except MemoryError:
        return _fail(
            "there is not enough memory. Remedy: a smaller --memory, fewer or smaller images.", UNUSABLE, debug
        )
    except OSError as error:
        return _fail(f"the system refused: {error}", UNUSABLE, debug)
    except Exception as error:  # noqa: BLE001  (the last door: nothing leaves as a bare traceback)
        if hasattr(error, "format_message"):
            return _fail(f"{error.format_message()} (medmap --help)", 2, debug)
        if type(error).__name__ == "Exit":
            return int(getattr(error, "exit_code", 0))
        if type(error).__name__ == "Abort":
            return _fail("interrupted", INTERRUPTED, debug)
        what = (
            f"a defect of medmap's own: {type(error).__name__}: {error}. Remedy: --debug shows where; please report it."
        )
        return _fail(what, DEFECT, debug)


def _fail(text: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"medmap: {text}\n")
    return code


def started() -> float:
    """``time.time()`` at which this process began, so that a budget counts the imports too."""
    import psutil

    return min(time.time(), float(psutil.Process().create_time()))
