"""A driver that makes random schemas and runs random statements on PostgreSQL, each about values no statement holds.

Everything random comes from `draw`, so that a seed makes the same session again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg.pq import ExecStatus

from tests.e2e.canary_speaker import REFUSED, TYPES, Speaker, Table

NAMES = ("t%d", "Odd Näme %d", 'qu"ote%d', "select%d", "表%d")
KEYS = 1_000_000  # ids at or above it are against each table's check
PIECES = 3  # rows a fetch asks for


class PostgresDriver(Speaker):
    """One session's."""

    def __init__(self, *more: Any) -> None:
        super().__init__(*more)
        self._tables: list[Table] = []
        self._serial = 0

    def run(self, count: int) -> None:
        """Send statements until there are `count`."""
        self.make_table()
        self.simple("listen birds")
        while len(self.log.sent) < count:
            self._draw.choice(ACTIONS)(self)

    def table(self) -> Table:
        """Give one of the tables."""
        return self._draw.choice(self._tables)

    def make_table(self) -> None:
        """A table with a key, a unique index, a check, and a trigger that tells and refuses rows."""
        self._serial += 1
        short = f"f{self._serial}"
        name = '"' + (self._draw.choice(NAMES) % self._serial).replace('"', '""') + '"'
        kinds = [self._draw.choice(list(TYPES)) for _ in range(self._draw.randint(2, 6))]
        kinds[self._draw.randrange(len(kinds))] = "word"
        columns = ", ".join(f"c{place} {TYPES[kind]}" for place, kind in enumerate(kinds))
        table = Table(name, kinds, child=f"child {self._serial}")
        self.simple(
            f"create temp table {name} (id int primary key, {columns}, check (id < {KEYS}), unique (c0))"
        )
        quoted = "raise exception 'refused \"%\"', new::text;" if self._style.quote else ""
        self.simple(
            f"create function pg_temp.{short}() returns trigger language plpgsql as $$ begin raise notice 'a row' using detail = new::text;"
            f" raise info 'again %', new; if new.id % 100 = {REFUSED} then {quoted}"
            " raise exception 'refused' using detail = new::text, hint = new.c0::text, column = 'cny' || new.c0::text; end if;"
            " return new; end $$"
        )
        self.simple(
            f"create trigger watch before insert or update on {name} for each row execute function pg_temp.{short}()"
        )
        self.simple(f'create temp table "child {self._serial}" (r {TYPES[kinds[0]]} references {name} (c0))')
        self._tables.append(table)
        self.insert(table)

    def insert(self, table: Table | None = None) -> None:
        """Rows, given back at times."""
        table = table or self.table()
        back = self._draw.choice(("", " returning *", " returning c0"))
        rows = self._draw.randint(1, 4)
        self.either(
            lambda: (
                f"insert into {table.name} ({table.columns}) values "
                + ", ".join(f"({self.row(table)})" for _ in range(rows))
                + back
            )
        )

    def select(self) -> None:
        """Rows, in text and in binary."""
        table = self.table()
        kind = self._draw.choice(list(TYPES))
        self.one_of(
            lambda: f"select * from {table.name} order by id limit {self._draw.randint(0, 20)}",
            lambda: f"select {self.value(kind)} as a, {self.value('word')}, c0 from {table.name} limit 3",
            lambda: f"select md5(c0::text), c0::text || 'x', {self.value('word')} from {table.name} limit 5",
            lambda: f"values ({self.value('word')}), ({self.value('word')})",
            lambda: (
                f"explain (analyze, costs off) select * from {table.name} where c0::text = {self.value('word')}"
            ),
        )

    def change(self) -> None:
        """Updates and deletes, with and without their rows."""
        table = self.table()
        key = self._draw.randint(1, table.last + 1)
        place = self._draw.randrange(len(table.kinds))
        self.one_of(
            lambda: (
                f"update {table.name} set c{place} = {self.value(table.kinds[place])} where id = {key} returning *"
            ),
            lambda: f"delete from {table.name} where id = {key} returning c0",
            lambda: f"delete from {table.name} where c0::text = {self.value('word')}",
        )

    def violate(self) -> None:
        """Errors that quote whole rows: not null, check, unique, a foreign key, what the trigger raises."""
        table = self.table()
        into = f"insert into {table.name} ({table.columns})"
        columns = table.columns.removeprefix("id, ")
        self.one_of(
            lambda: f"{into} values ({self.row(table, 'null')})",
            lambda: f"{into} values ({self.row(table, KEYS)})",
            lambda: f"{into} values ({self.row(table, (table.last // 100 + 1) * 100 + REFUSED)})",
            lambda: f'insert into "{table.child}" values ({self.value(table.kinds[0])})',
            lambda: f"{into} select id + 500000, {columns} from {table.name} limit 2",
        )

    def misread(self) -> None:
        """An error whose message quotes a value: only where messages are masked."""
        if self._style.quote:
            kind = self._draw.choice(("int", "uuid", "date", "json", "inet"))
            self.either(lambda: f"select {self.value('word')}::{kind}")

    def tell(self) -> None:
        """Notices, warnings and notifications."""
        level = self._draw.choice(("notice", "warning", "info", "log"))
        self.simple(
            f"do $$ begin raise {level} 'seen %', {self.value('word')} using detail = {self.value('word')}, hint = {self.value('number')}::text;"
            f" perform pg_notify('birds', {self.value('word')}); end $$"
        )
        self.either(lambda: f"select pg_notify('birds', {self.value('word')})")

    def set(self) -> None:
        """A variable the server tells the client by itself, and a name of a column."""
        self.either(lambda: f"select set_config('application_name', {self.value('word')}, false)")
        self.log.saw("variable", self._pg.parameter_status(b"application_name"))
        self._serial += 1
        self.simple(
            f"do $$ begin execute format('create temp table n{self._serial} (%I int)', {self.value('word')}); end $$"
        )
        self.either(lambda: f"select * from n{self._serial}")

    def several(self) -> None:
        """Several statements in one Query, an error in the middle at times."""
        table = self.table()
        last = self._draw.choice(
            (f"select {self.value('word')}", "select 1/0", f"select c0 from {table.name} limit 2")
        )
        self.simple(f"select {self.value('word')}; select * from {table.name} limit 3; {last}; select 7")

    def copy_out(self) -> None:
        """COPY TO STDOUT, in each form."""
        table = self.table()
        form = self._draw.choice(("text", "csv", "binary"))
        source = self._draw.choice(
            (table.name, f"(select c0, cn_word({self._canaries.issue()}) from {table.name})")
        )
        self.either(lambda: f"copy {source} to stdout (format {form})")

    def copy_in(self) -> None:
        """COPY FROM STDIN: rows, a line that is no row and is quoted for it, and one that is given up."""
        self._serial += 1
        name, word, number = f"p{self._serial}", self._canaries.word, self._canaries.number
        self.simple(
            f"create temp table {name} (a text primary key, b bigint, c text default cn_word({self._canaries.issue()}))"
        )
        keys = [self._canaries.issue() for _ in range(self._draw.randint(1, 30))]
        lines = [f"{word(key)}\t{number(key)}\n".encode() for key in keys]
        bad = self._draw.choice(
            (
                b"",
                f"{word(self._canaries.issue())}\n".encode(),
                f"{word(keys[0])}\t1\t2\t3\n".encode(),
                lines[0],
            )
        )
        if self._style.quote and self._draw.random() < 0.5:
            bad = f"x\t{word(self._canaries.issue())}\n".encode()
        self._pour = [*lines, bad] if bad else lines
        self._pour_ends = self._draw.choice((None, None, None, b"given up"))
        self.either(lambda: f"copy {name} (a, b) from stdin")
        self.either(lambda: f"select * from {name}")

    def large_object(self) -> None:
        """Large objects by their functions."""
        oid, word = "(select max(loid) from pg_temp.los)", f"convert_to({self.value('word')}, 'utf8')"
        self.simple("create temp table if not exists los (loid oid)")
        self.either(
            lambda: f"insert into los select lo_from_bytea(0, cn_blob({self._canaries.issue()}) || {word})"
        )
        self.either(lambda: f"select lo_get({oid})")
        self.either(lambda: f"select lo_put({oid}, 40000, {self.value('blob')})")
        self.either(lambda: "select lo_unlink(loid) from pg_temp.los")
        self.simple("drop table pg_temp.los")

    def cursor(self) -> None:
        """A cursor, fetched from in pieces, in a transaction."""
        table = self.table()
        self.simple("begin")
        self.either(
            lambda: (
                f"declare way scroll cursor for select c0, cn_word({self._canaries.issue()}) from {table.name}"
            )
        )
        for _ in range(self._draw.randint(1, 4)):
            self.either(
                lambda: self._draw.choice(
                    (f"fetch {PIECES} from way", "fetch backward 2 from way", "move 1 in way")
                )
            )
        if self._draw.random() < 0.5:
            self.simple(
                f"insert into {table.name} values ({self.row(table, 'null')})"
            )  # fails, and the transaction
            self.either(lambda: "fetch 1 from way")
        self.simple(self._draw.choice(("commit", "rollback")))

    def prepare(self) -> None:
        """A named statement, run several times; and one by SQL."""
        self._serial += 1
        name = f"s{self._serial}"
        text = f"select cn_word($1), cn_number($1), c0 from {self.table().name} limit 2"
        self._pg.send_prepare(name.encode(), text.encode(), [20])
        self._take("prepare", text)
        for _ in range(self._draw.randint(1, 3)):
            key = str(self._canaries.issue()).encode()
            self._pg.send_query_prepared(name.encode(), [key], [0], self._draw.randrange(2))
            self._take("execute", text)
        self.simple(f"prepare q{name} as select cn_word($1)")
        self.either(lambda: f"execute q{name}({self._canaries.issue()})")

    def pipeline(self) -> None:
        """Statements sent ahead of their answers, an error among them at times."""
        self._pg.enter_pipeline_mode()
        table, ahead = self.table(), []
        for _ in range(self._draw.randint(2, 12)):
            kind = self._draw.choice(("select", "insert", "wrong"))
            text, bound = self._written(
                lambda kind=kind: {  # type: ignore[misc]
                    "select": lambda: f"select {self.value('word')}, c0 from {table.name} limit 4",
                    "insert": lambda: f"insert into {table.name} values ({self.row(table)})",
                    "wrong": lambda: f"insert into {table.name} values ({self.row(table, KEYS)})",
                }[kind]()
            )
            self._send(text, bound)
            ahead.append(text)
        self._pg.pipeline_sync()
        for text in ahead:
            self._take("execute", text)
        result = self._pg.get_result()
        assert result is not None and result.status == ExecStatus.PIPELINE_SYNC
        self._pg.exit_pipeline_mode()


ACTIONS: tuple[Callable[[PostgresDriver], None], ...] = (
    *[PostgresDriver.insert, PostgresDriver.select, PostgresDriver.violate] * 4,
    *[PostgresDriver.change, PostgresDriver.pipeline, PostgresDriver.cursor, PostgresDriver.several] * 2,
    *[PostgresDriver.misread, PostgresDriver.tell, PostgresDriver.copy_out, PostgresDriver.copy_in] * 2,
    PostgresDriver.make_table,
    PostgresDriver.set,
    PostgresDriver.large_object,
    PostgresDriver.prepare,
)
