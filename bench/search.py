"""How fast 1,000 hours of sessions are searched, and what a purge leaves.

Promise: p99 of a search is at most 100 ms; a purged session has 0 hits, and after `compact` no word of its own in the file.

The sessions are made, not recorded, as a small company's: 600 h of shells (a command every 30 s, twelve lines of output each),
300 h of databases (a statement every 4 s), 100 h of desktops (a typed line every 15 s), in sessions of 20 min by 40 people on 60
targets over 90 days. Words are drawn from 60,000 as natural text has them (Zipf), and a third of the output is log lines:
times, addresses and ids nobody has seen before, which make an index large. Everything goes the daemon's way: items of a sidecar,
texts, batches of a second into the encrypted index.

The searches are drawn from what is there: single words as often as they occur, so mostly common ones; words of one line; side
by side; beginnings; ids that are there once; words that are nowhere; with OR and NOT; of one user, target, week or source; and
all of them again by somebody who may see one session in twenty.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.rig import MB, Promise, Report, Rig, Table
from proxyd.recorder.sidecar import Derived, Item
from proxyd.search.query import parse
from proxyd.search.texts import Text, Texts
from proxyd.search.words import About, SearchIndex, Wanted

HOURS, HOURS_QUICK = 1000, 50
SEARCHES, SEARCHES_QUICK = 2000, 800
SHELLS, DATABASES = 0.6, 0.3  # of the hours; the rest is desktops
SESSION_S = 1200
COMMAND_S, LINES, STATEMENT_S, TYPED_S = 30, 12, 4, 15
VOCABULARY, ZIPF = 60_000, 1.1
PEOPLE, TARGETS, DAYS = 40, 60, 90
EPOCH = 1_790_000_000.0
P99_MS = 100.0
SEED = 5
BATCH = 400  # sessions whose texts are written together, as many live ones' are each second
KEPT = 20_000  # texts to draw searches from
KEY = b"0123456789abcdef0123456789abcdef"
OWN = "contrabassoon"  # a word only the session has that is purged


class Made(NamedTuple):
    """A session and its texts."""

    about: About
    texts: list[Text]


class World:
    """What sessions are made of."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.words = self._vocabulary()
        weights = (1 / rank**ZIPF for rank in range(1, VOCABULARY + 1))
        self._weights = list(itertools.accumulate(weights))

    def _vocabulary(self) -> list[str]:
        parts = ["ser", "ver", "con", "fig", "log", "da", "ta", "net", "ro", "ute", "pass", "port", "sys", "tem", "de", "ploy",
                 "ku", "ber", "ba", "ck", "up", "re", "sto", "in", "dex", "que", "ry", "jo", "in", "ac", "count"]  # fmt: skip
        found: dict[str, None] = {}
        while len(found) < VOCABULARY:
            found["".join(self.random.choices(parts, k=self.random.randint(1, 5)))] = None
        return list(found)

    def some(self, count: int) -> list[str]:
        return self.random.choices(self.words, cum_weights=self._weights, k=count)

    def identity(self) -> str:
        return f"{self.random.getrandbits(48):012x}"

    def command(self) -> str:
        name, *rest = self.some(self.random.randint(1, 5))
        return " ".join(
            [name, *(f"/{'/'.join(self.some(2))}" if self.random.random() < 0.3 else one for one in rest)]
        )

    def line(self, second: int) -> str:
        if self.random.random() < 1 / 3:
            address = ".".join(str(self.random.randrange(256)) for _ in range(4))
            clock = f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
            return f"{clock} {address} {self.identity()} {' '.join(self.some(4))}"
        return " ".join(self.some(self.random.randint(4, 11)))

    def statement(self) -> str:
        columns, (table, other), value = ", ".join(self.some(4)), self.some(2), self.random.randrange(10**6)
        return f"SELECT {columns} FROM {table} JOIN {other} USING (id) WHERE {self.some(1)[0]} = {value}"

    def items(self, protocol: str) -> Iterator[Item]:
        """Everything a session of SESSION_S seconds says."""
        step = {"ssh": COMMAND_S, "postgres": STATEMENT_S, "rdp": TYPED_S}[protocol]
        for second in range(0, SESSION_S, step):
            at_us = second * 1_000_000
            if protocol == "rdp":
                yield Item(Derived.TYPED, at_us, [False, " ".join(self.some(6))])
            elif protocol == "postgres":
                yield Item(Derived.TEXT, at_us, ["sql", self.statement()])
            else:
                yield Item(Derived.TEXT, at_us, ["command", self.command()])
                shown = "\n".join(self.line(second) for _ in range(LINES))
                yield Item(Derived.TEXT, at_us + 100_000, ["screen", shown])

    def sessions(self, hours: int) -> Iterator[Made]:
        count = hours * 3600 // SESSION_S
        for number in range(count):
            share = self.random.random()
            protocol = "ssh" if share < SHELLS else "postgres" if share < SHELLS + DATABASES else "rdp"
            at = EPOCH + number * DAYS * 86400 / count
            about = About(f"{number:032x}", protocol, f"user{self.random.randrange(PEOPLE)}",
                          f"target{self.random.randrange(TARGETS)}", "root", at)  # fmt: skip
            yield Made(about, list(Texts().of(self.items(protocol))))


def filled(index: SearchIndex, world: World, hours: int) -> tuple[list[str], int, int, float]:
    """Fill the index; gives a sample of its texts, how many there are, their characters, and the seconds of writing."""
    sample: list[str] = []
    count = characters = 0
    seconds = 0.0
    sessions = world.sessions(hours)
    while batch := list(itertools.islice(sessions, BATCH)):
        began = time.perf_counter()
        for made in batch:
            index.begin(made.about)
        for some in itertools.zip_longest(*(_cut(made.texts) for made in batch)):
            index.write({made.about.id: texts for made, texts in zip(batch, some, strict=True) if texts})
        for made in batch:
            index.finish(made.about.id)
        seconds += time.perf_counter() - began
        count += sum(len(made.texts) for made in batch)
        characters += sum(len(text.text) for made in batch for text in made.texts)
        every = [text.text for made in batch for text in made.texts]
        sample += world.random.sample(every, min(len(every), KEPT * BATCH * SESSION_S // (hours * 3600) + 1))
    return sample, count, characters, seconds


def _cut(texts: list[Text]) -> Iterator[list[Text]]:
    """What a session tells in about as long as a batch of all is gathered."""
    return (texts[at : at + 50] for at in range(0, len(texts), 50))


def drawn(world: World, sample: list[str]) -> Iterator[tuple[str, str, Wanted]]:
    """Draw searches for ever: their kind, text and filter."""
    pick, some = world.random.choice, world.random.randint
    while True:
        words = [word for word in pick(sample).split() if any(map(str.isalnum, word))]
        at = some(0, max(len(words) - 3, 0))
        word = pick(words)
        day = EPOCH + some(0, DAYS - 7) * 86400
        yield "a word", word, Wanted()
        yield "words of a line", " ".join(world.random.sample(words, min(len(words), some(2, 3)))), Wanted()
        yield "side by side", '"' + " ".join(words[at : at + some(2, 3)]) + '"', Wanted()
        if len(word) >= 4 and word.isalnum():
            yield "a beginning", f"{word[: some(3, 5)]}*", Wanted()
        yield "nowhere", world.identity(), Wanted()
        yield "OR, NOT", f"{word} NOT {pick(words)}x OR {pick(world.words)}", Wanted()
        yield "of a user", word, Wanted(user=f"user{some(0, PEOPLE - 1)}")
        yield "at a target", word, Wanted(target=f"target{some(0, TARGETS - 1)}", sources=["commands", "sql"])
        yield "in a week", word, Wanted(since=day, until=day + 7 * 86400, each=5)
        yield "five of a session", word, Wanted(each=5, limit=50)


class Took(NamedTuple):
    """Seconds of one search: on the clock, and of a processor, which does not count who else is at work."""

    clock: float
    processor: float


def quantile(found: list[float], share: float) -> float:
    return sorted(found)[min(len(found) - 1, int(len(found) * share))] * 1e3


def row(kind: str, found: list[Took]) -> list[str]:
    clock, processor = [one.clock for one in found], [one.processor for one in found]
    told = [quantile(clock, share) for share in (0.5, 0.99, 1.0)] + [
        quantile(processor, share) for share in (0.5, 0.99)
    ]
    return [kind, str(len(found)), *(f"{one:.2f}" for one in told)]


def searched(index: SearchIndex, world: World, sample: list[str], count: int) -> dict[str, list[Took]]:
    """Search, by everybody and by who sees little; gives what it took by kind."""
    times: dict[str, list[Took]] = {}
    for kind, text, wanted in itertools.islice(drawn(world, sample), count):
        for who, may_see in (
            ("", lambda _: True),
            (", 1 in 20 seen", lambda about: int(about.id, 16) % 20 == 0),
        ):
            began, used = time.perf_counter(), time.thread_time()
            index.search(parse(text), wanted, may_see)
            took = Took(time.perf_counter() - began, time.thread_time() - used)
            times.setdefault(f"{kind}{who}", []).append(took)
    return times


def purged(index: SearchIndex) -> tuple[int, int, int, float, float]:
    """Purge one session; gives its hits before and after, traces of its word after compacting, and both times."""
    about = About("f" * 32, "ssh", "mallory", "target1", "root", EPOCH + 86400)
    index.begin(about)
    index.write({about.id: [Text(n, n * 1_000_000, "screen", f"{OWN} line {n}") for n in range(20_000)]})
    query, wanted = parse(OWN), Wanted(limit=50_000)
    before = len(index.search(query, wanted).hits)
    began = time.perf_counter()
    index.forget(about.id)
    forgotten = time.perf_counter() - began
    after = len(index.search(query, wanted).hits)
    began = time.perf_counter()
    index.compact()
    compacted = time.perf_counter() - began
    return before, after, traces_of(index, OWN), forgotten, compacted


def traces_of(index: SearchIndex, word: str) -> int:
    """Say how many words of the file's vocabulary are this one, deleted or not."""
    index._writer.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, words, row)")  # noqa: SLF001
    return len(list(index._writer.execute("SELECT term FROM temp.vocabulary WHERE term = ?", (word,))))  # noqa: SLF001


def measure(rig: Rig) -> Report:
    """Fill, search, purge."""
    report, world = Report("search"), World(SEED)
    hours = rig.pick(HOURS_QUICK, HOURS)
    path = Path(rig.directory) / "search.db"
    with SearchIndex(path, KEY) as index:
        sample, count, characters, seconds = filled(index, world, hours)
        times = searched(index, world, sample, rig.pick(SEARCHES_QUICK, SEARCHES))
        before, after, traces, forgotten, compacted = purged(index)
    size = path.stat().st_size
    every = list(itertools.chain.from_iterable(times.values()))
    clock, processor = [one.clock for one in every], [one.processor for one in every]
    columns = ("", "searches", "p50", "p99", "most", "processor p50", "p99")
    table = Table(f"{len(every):,} searches over {hours:,} h, ms", columns)
    table.rows = [row(kind, found) for kind, found in [*times.items(), ("all", every)]]
    made = Table("the index", ("", ""))
    made.rows = [
        ("texts", f"{count:,}"),
        ("text", f"{characters / MB:.1f} MB"),
        ("file, encrypted", f"{size / MB:.1f} MB"),
        ("written at", f"{characters / MB / seconds:.1f} MB/s, {count / seconds:,.0f} texts/s"),
        ("purge of a session of 20,000 lines", f"{before:,} hits, then {after}, in {forgotten:.2f} s"),
        ("traces leave the file", f"in {compacted:.1f} s; {traces} left"),
    ]
    report.tables += [table, made]
    report.promises = [
        Promise("a search, p99", quantile(clock, 0.99), P99_MS, unit=" ms"),
        Promise("hits of a purged session", float(after), 0.0),
        Promise("traces of it in the file", float(traces), 0.0),
    ]
    report.data |= {"hours": hours, "texts": count, "bytes": characters, "file": size, "write_s": seconds,
                    "p50_ms": quantile(clock, 0.5), "p99_ms": quantile(clock, 0.99), "most_ms": quantile(clock, 1.0),
                    "processor_p50_ms": quantile(processor, 0.5), "processor_p99_ms": quantile(processor, 0.99),
                    "forget_s": forgotten, "compact_s": compacted}  # fmt: skip
    return report
