"""Films of terminals: how many times faster than the session they are made, what they weigh, how near they are to it.

Beside it the same pictures by the encoder that films of desktops have: what it would take.

A session of 10 minutes as people work in one, real programs' output on 120 x 40 cells, at 1280x720. Promises: >= 20 times
real time in the default form; what ffprobe calls the duration, of the file and of its pictures, within 0.1 s of the session;
at 20 moments every square of 8 x 8 pixels within 10 of 255 of what a straight replay paints.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
from PIL import Image, ImageChops

from bench.rig import Promise, Report, Rig, Table
from bench.terminal_tape import at_work
from proxyd.cli_app import Run
from proxyd.cli_film import make
from proxyd.cli_output import Output
from proxyd.export import film as films
from proxyd.export.task import Made, Task
from proxyd.export.terminal import HEIGHT, WIDTH, Terminal
from proxyd.index.terminal.painting import Sheet, fitting
from proxyd.index.terminal.terminals import Terminals
from proxyd.recorder.record import Record

SECONDS, SECONDS_QUICK = 600, 120
MOMENTS, SEED = 20, 5
LEAST_SPEED, MOST_OFF_S, MOST_DIFFERING = 20.0, 0.1, 10.0
SQUARE = 8  # pixels: about a letter
NEAR_US = 1000  # times in a film are milliseconds
DEFAULT, FORMS = "webm", ("webm", "mp4")


def measure(rig: Rig) -> Report:
    """Make a film of each form of the same session."""
    seconds = rig.pick(SECONDS_QUICK, SECONDS)
    records = at_work(seconds)
    report = Report("film", data={"seconds": seconds, "records": len(records)})
    columns = (
        "form",
        "s",
        "processor, s",
        "times real time",
        "pictures",
        "MB",
        "off by, s",
        "differs by, of 255",
    )
    table = Table(f"films of {seconds} s of a terminal", columns)
    with tempfile.TemporaryDirectory(prefix="proxyd-film-") as directory:
        for form in FORMS:
            path = Path(directory, f"film.{form}")
            began, worked = time.perf_counter(), _worked_s()
            told = _made(path, records, form)
            spent, worked = time.perf_counter() - began, _worked_s() - worked
            off, differing = _off_s(path, records[-1].at_us / 1e6), _differing(path, records)
            found = {"s": spent, "processor_s": worked, "speed": seconds / spent, "pictures": told.pictures,
                     "bytes": path.stat().st_size, "off_s": off, "differing": differing}  # fmt: skip
            report.data[form] = found
            table.rows.append((form, f"{spent:.1f}", f"{worked:.1f}", f"{found['speed']:.1f}", str(told.pictures),
                               f"{found['bytes'] / 1e6:.1f}", f"{off:.3f}", str(differing)))  # fmt: skip
            if form == DEFAULT:
                report.promises.append(
                    Promise("a film, times real time", found["speed"], LEAST_SPEED, least=True)
                )
            report.promises.append(Promise(f"{form}: duration off by", off, MOST_OFF_S, unit=" s"))
            report.promises.append(Promise(f"{form}: differs by", differing, MOST_DIFFERING))
        report.tables += [table, _compared(Path(directory, "compared.webm"), records, report.data)]
    return report


def _compared(path: Path, records: list[Record], data: dict[str, Any]) -> Table:
    """Encode the same pictures as films of terminals and of desktops are, in this process."""
    columns = ("encoder", "processor, ms a picture", "ratio", "KB a picture", "differs by, of 255")
    table, first = Table("the same pictures, painted and encoded", columns), 0.0
    for name, form in (
        ("VP9, of terminals", films.FORMS_OF_TERMINALS[DEFAULT]),
        ("AV1, of desktops", films.FORMS[DEFAULT]),
    ):
        began, source, count = time.process_time(), Terminal(), 0
        with path.open("wb") as file:
            film = films.Film(file, form, (WIDTH, HEIGHT), sound=False, captions=False)
            for record in records:
                for shot in source.feed(record):
                    film.picture(shot)
                    count += 1
            for shot in source.end(records[-1].at_us):
                film.picture(shot)
            film.end(records[-1].at_us, [])
        each = (time.process_time() - began) * 1e3 / count
        first, size, differing = first or each, path.stat().st_size / count / 1e3, _differing(path, records)
        data[name] = {"ms": each, "kb": size, "differing": differing}
        table.rows.append((name, f"{each:.1f}", f"{each / first:.2f}", f"{size:.1f}", str(differing)))
    return table


def _worked_s() -> float:
    """Give the seconds of a processor this process and those it waited for took."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _made(path: Path, records: list[Record], form: str) -> Made:
    lasted_us = records[-1].at_us
    recording: Any = SimpleNamespace(records=lambda: iter(records), duration_us=lasted_us, started_at=0.0)
    return make(Run(Output("bench")), recording, Task(form, "ssh", lasted_us, 0), path)


def _off_s(path: Path, lasted_s: float) -> float:
    """Say by how much ffprobe's durations of the file and of its last picture are off."""
    asked = ["ffprobe", "-v", "error", "-of", "json", "-show_entries", "format=duration:packet=pts_time,duration_time",
             "-select_streams", "v", str(path)]  # fmt: skip
    said = json.loads(subprocess.run(asked, capture_output=True, check=True, timeout=300).stdout)
    last = said["packets"][-1]
    ends = float(last["pts_time"]) + float(last.get("duration_time", 0))
    return max(abs(float(said["format"]["duration"]) - lasted_s), abs(ends - lasted_s))


def _differing(path: Path, records: list[Record]) -> int:
    """Say by how much pictures of the film differ from what a straight replay paints, at MOMENTS of it."""
    with av.open(path) as film:
        times = sorted(
            round(packet.pts * packet.time_base * 1_000_000) for packet in film.demux(video=0) if packet.pts
        )
    moments = sorted(random.Random(SEED).sample(times[1:-1], MOMENTS))
    replayed = _replayed(records, moments)
    worst = 0
    with av.open(path) as film:
        for frame in film.decode(video=0):
            at_us = round(frame.time * 1_000_000)
            if at_us in replayed:
                shown = frame.to_image().convert("L").reduce(SQUARE)
                off = (ImageChops.difference(shown, one).getextrema()[1] for one in replayed[at_us])
                worst = max(worst, int(min(off)))
    return worst


def _replayed(records: list[Record], moments: list[int]) -> dict[int, list[Image.Image]]:
    """Paint what a straight replay shows at and around these moments, as small as it is compared."""
    found: dict[int, list[Image.Image]] = {at: [] for at in moments}
    stops = sorted((at + around, at) for at in moments for around in (-NEAR_US, 0, NEAR_US))
    terminals, rest = Terminals(), iter(records)
    record = next(rest)
    for stop_us, moment in stops:
        while record.at_us <= stop_us:
            terminals.feed(record)
            record = next(rest)
        found[moment].append(_painted(terminals))
    return found


def _painted(terminals: Terminals) -> Image.Image:
    screen = terminals.screen()
    film = Image.new("RGB", (WIDTH, HEIGHT))
    if screen is not None:
        sheet = Sheet(*screen.size, fitting(*screen.size, WIDTH, HEIGHT))
        sheet.show(screen.page())
        film.paste(sheet.image, ((WIDTH - sheet.image.width) // 2, (HEIGHT - sheet.image.height) // 2))
    return film.convert("L").reduce(SQUARE)
