"""`python -m bench [SCRIPT ...] [--quick] [--json]`: run the scripts and print their tables, or one JSON document."""

from __future__ import annotations

import argparse
import json
import pkgutil
import signal
import sys
from importlib import import_module
from pathlib import Path

import bench
from bench.rig import Rig, console, run, say, surroundings

TERMINATED = 128 + signal.SIGTERM
NOT_SCRIPTS = (
    "__main__",
    "database",
    "desk",
    "desktop",
    "flood",
    "mitm_mended",
    "rdp_decode",
    "rdp_idle",
    "rig",
    "seeking",
    "terminal_tape",
    "trio_relay",
    "xdisplay",
)


def scripts() -> list[str]:
    """Every module here that measures something."""
    return sorted(name for _, name, _ in pkgutil.iter_modules(bench.__path__) if name not in NOT_SCRIPTS)


def main() -> int:
    """Exit status 0: everything was measured, whether promises are kept or not; 1: a script failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=bench.__doc__)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(scripts())}; none: all")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and less data: minutes, not half an hour"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    asked = parser.parse_args()
    if unknown := set(asked.scripts) - set(scripts()):
        parser.error(f"no such script: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # what was started is ended on the way out
    out, around, reports, failed = console(), surroundings(), [], False
    if not asked.json:
        out.print(", ".join(f"{name} {value}" for name, value in around.items()), highlight=False)
    with Rig(quick=asked.quick) as rig:
        for name in asked.scripts or scripts():
            say(f"{name} ...")
            try:
                report = run(name, import_module(f"bench.{name}").measure, rig)
            except Exception as error:  # noqa: BLE001 - one script's trouble leaves the others their numbers
                failed = True
                say(f"{name} failed: {type(error).__name__}: {error}")
                continue
            reports.append(report)
            if not asked.json:
                report.show(out)
    if asked.json:
        print(json.dumps({"machine": around, "reports": [one.document() for one in reports]}, indent=2))
    return int(failed)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.exit(main())
