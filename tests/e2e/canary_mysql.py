"""A driver that makes random schemas and runs random statements on MariaDB, each about values no statement holds.

Two clients, one set of actions: PyMySQL here for text, several statements in one, and files; `canary_prepared` for prepared
statements. `log.sent` is what the recording must tell. Everything random comes from `draw`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pymysql

from tests.e2e.canary_style import Log, Sent, Style
from tests.peers.canary import Canaries

TYPES = {
    "word": "varchar(64)",
    "number": "bigint",
    "blob": "varbinary(32)",
    "decimal": "decimal(30, 3)",
    "double": "double",
    "json": "json",
}
KEYED = ("word", "number", "blob", "decimal")  # what a unique index can be on
NAMES = ("t", "Odd Näme", "qu`ote", "select", "表")
KEYS = 1_000_000  # ids at or above it are against each table's check
REFUSED = 13  # an id that ends so meets the trigger's exception


@dataclass
class Table:
    """A table: its quoted name, the kinds of its columns c0.., the last id given."""

    name: str
    kinds: list[str]
    last: int = 0


class MySqlDriver:
    """One session's."""

    multiple = True  # the client reads several results of one statement

    def __init__(self, canaries: Canaries, style: Style, draw: Random, mark: str, directory: Path) -> None:
        self.log = Log()
        self._canaries = canaries
        self._style = style
        self._draw = draw
        self._mark = mark  # of its names: tables outlive the session
        self._directory = directory
        self._tables: list[Table] = []
        self._serial = 0
        self._bound: list[Any] | None = None  # of the statement being written, where it may bind

    def run(self, count: int) -> None:
        """Send statements until there are `count`."""
        self.text("set session_track_system_variables = '*'")
        self.make_table()
        while len(self.log.sent) < count:
            self._draw.choice(ACTIONS)(self)

    # ------------------------------------------------------------------ values

    def value(self, kind: str) -> str:
        """Write an expression whose value is a new canary."""
        if kind == "json":
            return f"json_object('a', {self.value('word')})"
        key = self._canaries.issue()
        if self._bound is not None and self._style.bind and self._draw.random() < 0.7:
            self._bound.append(self._as_bound(kind, key))
            return "?"
        if self._style.literal and self._draw.random() < 0.7:
            return self._as_literal(kind, key)
        return f"cn_{kind}({key})"

    def _as_literal(self, kind: str, key: int) -> str:
        made = self._canaries
        match kind:
            case "word":
                form = self._draw.choice(("'{0}'", '"{0}"', "_utf8mb4'{0}'", "0x{1}", "x'{1}'"))
                return form.format(made.word(key), made.word(key).encode().hex())
            case "blob":
                return self._draw.choice(("x'{}'", "0x{}")).format(made.hex(key))
            case "decimal":
                return f"{made.decimal(key)}"
            case _:
                return f"{made.number(key)}"

    def _as_bound(self, kind: str, key: int) -> object:
        made = self._canaries
        match kind:
            case "word":
                return made.word(key)
            case "blob":
                return made.blob(key)
            case "decimal":
                return made.decimal(key)
            case _:
                return float(made.number(key)) if kind == "double" else made.number(key)

    def row(self, table: Table, key: int | str | None = None) -> str:
        """Write the values of a row of a table."""
        if key is None:
            key = table.last = table.last + 1
            if key % 100 == REFUSED:
                key = table.last = table.last + 1
        return ", ".join([str(key), *(self.value(kind) for kind in table.kinds)])

    # ------------------------------------------------------------------ sending

    def text(self, text: str) -> None:
        """Send a COM_QUERY."""
        raise NotImplementedError

    def either(self, write: Callable[[], str]) -> None:
        """Send what `write` writes, prepared where the client does that."""
        self.text(write())

    def one_of(self, *writers: Callable[[], str]) -> None:
        """Send what one of them writes."""
        self.either(self._draw.choice(writers))

    def pour(self, table: str, path: Path) -> None:
        """Load a file of the client's."""
        raise NotImplementedError

    def many(self, statements: list[str]) -> None:
        """Send several statements, in one where the client does that."""
        for statement in statements:
            self.text(statement)

    # ------------------------------------------------------------------ what is done

    def table(self) -> Table:
        """Give one of the tables."""
        return self._draw.choice(self._tables)

    def make_table(self) -> None:
        """A table with a key, a unique index, a check, and a trigger that warns and refuses rows."""
        self._serial += 1
        name = "`" + f"{self._draw.choice(NAMES)} {self._mark} {self._serial}".replace("`", "``") + "`"
        kinds = [
            self._draw.choice(KEYED),
            "word",
            *(self._draw.choice(list(TYPES)) for _ in range(self._draw.randint(0, 4))),
        ]
        columns = ", ".join(f"c{place} {TYPES[kind]}" for place, kind in enumerate(kinds))
        self.text(
            f"create table {name} (id int not null primary key, {columns}, check (id < {KEYS}), unique (c0)) engine=innodb"
        )
        said = "concat('refused ''', new.c1, '''')" if self._style.quote else "'refused'"
        self.text(
            f"create trigger `w {self._mark} {self._serial}` before insert on {name} for each row begin"
            f" declare said varchar(128) default {said};"
            " set @last = new.c1;"
            " signal sqlstate '01000' set message_text = new.c1;"
            f" if new.id % 100 = {REFUSED} then signal sqlstate '45000' set message_text = said; end if; end"
        )
        self._tables.append(Table(name, kinds))
        self.insert()

    def insert(self) -> None:
        """Rows, given back at times; and what the server warns of them."""
        table = self.table()
        back, rows = self._draw.choice(("", "", " returning *")), self._draw.randint(1, 4)
        self.either(
            lambda: (
                f"insert into {table.name} values "
                + ", ".join(f"({self.row(table)})" for _ in range(rows))
                + back
            )
        )
        if self._draw.random() < 0.3:
            self.text("show warnings")

    def select(self) -> None:
        """Rows, as text or binary."""
        table, kind = self.table(), self._draw.choice(list(TYPES))
        self.one_of(
            lambda: f"select * from {table.name} order by id limit {self._draw.randint(0, 20)}",
            lambda: f"select {self.value(kind)} as a, {self.value('word')}, c0 from {table.name} limit 3",
            lambda: f"select c0, concat(c0, 'x'), {self.value('word')} from {table.name} limit 5",
            lambda: f"select {self.value('word')} union all select {self.value('word')}",
            lambda: f"explain format=json select * from {table.name} where c1 = {self.value('word')}",
        )

    def change(self) -> None:
        """Updates, replacements and deletes."""
        table = self.table()
        key, place = self._draw.randint(1, table.last + 1), self._draw.randrange(len(table.kinds))
        self.one_of(
            lambda: f"update {table.name} set c{place} = {self.value(table.kinds[place])} where id = {key}",
            lambda: (
                f"replace into {table.name} values ({self.row(table, key if key % 100 != REFUSED else key + 1)})"
            ),
            lambda: f"delete from {table.name} where id = {key} returning c0",
            lambda: f"delete from {table.name} where c1 = {self.value('word')}",
        )

    def violate(self) -> None:
        """Errors about rows; where messages are masked, those that quote them too."""
        table = self.table()
        columns = ", ".join(f"c{place}" for place in range(len(table.kinds)))
        quoting = [
            lambda: f"insert into {table.name} select id + 500000, {columns} from {table.name} limit 2",
            lambda: f"select cast({self.value('word')} as signed) * {self.value('number')} * 1000",
            lambda: f"insert into {table.name} (id, c1) values ({self.value('word')}, 'x')",
            lambda: f"select extractvalue('<a/>', concat('!', {self.value('word')}))",
        ]
        plain = [
            lambda: f"insert into {table.name} values ({self.row(table, 'null')})",
            lambda: f"insert into {table.name} values ({self.row(table, KEYS)})",
            lambda: (
                f"insert into {table.name} values ({self.row(table, (table.last // 100 + 1) * 100 + REFUSED)})"
            ),
        ]
        self.either(self._draw.choice(plain + quoting * self._style.quote))
        if self._draw.random() < 0.5:
            self.text(
                self._draw.choice(
                    ("show warnings", "show errors", "get diagnostics condition 1 @m = message_text")
                )
            )

    def warn(self) -> None:
        """Warnings that quote values, which the client asks for."""
        self.either(lambda: f"select cast({self.value('word')} as signed), {self.value('word')} + 1")
        self.text("show warnings")

    def set(self) -> None:
        """Variables: the user's, and one the server tracks for the client; the name of a column."""
        self.either(lambda: f"set @v = {self.value('word')}")
        self.text("select @v, @last, @m")
        self.text(f"set default_master_connection = {self.value('word')}")
        self.text("show variables like 'default_master%'")
        self.text(f"set @q = concat('select 1 as `', {self.value('word')}, '`')")
        self.text("execute immediate @q")

    def several(self) -> None:
        """Several statements in one, an error among them at times."""
        table = self.table()
        last = self._draw.choice(
            (f"select {self.value('word')}", "select * from nowhere", f"select c0 from {table.name} limit 2")
        )
        self.many([f"select {self.value('word')}", f"insert into {table.name} values ({self.row(table)})",
                   f"select * from {table.name} limit 3", last, "select 7"])  # fmt: skip

    def call(self) -> None:
        """A procedure of several results."""
        self._serial += 1
        name = f"`p {self._mark} {self._serial}`"
        table = self.table()
        self.text(
            f"create procedure {name}() begin select * from {table.name} limit 3; select {self.value('word')}, 2; do sleep(0); end"
        )
        if self.multiple:
            self.text(f"call {name}()")

    def load(self) -> None:
        """LOAD DATA LOCAL INFILE: rows, and at times a line that makes a warning quoting it."""
        self._serial += 1
        name, path = f"`l {self._mark} {self._serial}`", self._directory / f"{self._mark}-{self._serial}.csv"
        keys = [self._canaries.issue() for _ in range(self._draw.randint(1, 40))]
        lines = [f"{self._canaries.word(key)},{self._canaries.number(key)}\n" for key in keys]
        lines += self._draw.choice(
            ([], [f"{self._canaries.word(self._canaries.issue())},x{self._canaries.word(keys[0])}\n"])
        )
        path.write_text("".join(lines))
        self.text(f"create table {name} (a varchar(64), b bigint)")
        self.pour(name, path)
        self.text("show warnings")
        self.either(lambda: f"select * from {name} where a <> {self.value('word')}")
        path.unlink()

    def transact(self) -> None:
        """A transaction."""
        self.text("begin")
        self.insert()
        self.violate()
        self.text(self._draw.choice(("commit", "rollback")))


class TextDriver(MySqlDriver):
    """PyMySQL."""

    def __init__(self, connection: Any, *more: Any) -> None:
        super().__init__(*more)
        self._connection = connection

    def text(self, text: str) -> None:
        """Send a COM_QUERY, take all its results."""
        sent = Sent("simple", text)
        self.log.sent.append(sent)
        rows = affected = 0
        try:
            self._connection.query(text)
            while True:
                result = self._connection._result
                if result.description is None:
                    affected += result.affected_rows
                else:
                    rows += len(result.rows)
                    self._see(result)
                if not result.has_next:
                    break
                self._connection.next_result()
        except pymysql.err.MySQLError as error:
            sent.code, sent.message = str(error.args[0]), error.args[1]
            self.log.saw("message", sent.message)
        sent.rows = rows or affected

    def _see(self, result: Any) -> None:
        way = (
            "warning"
            if [column[0] for column in result.description] == ["Level", "Code", "Message"]
            else "row"
        )
        for row in result.rows:
            self.log.saw(way, *(cell if isinstance(cell, bytes) else str(cell) for cell in row))
        self.log.saw("column", *(column[0] for column in result.description))

    def pour(self, table: str, path: Path) -> None:
        """Load a file."""
        self.log.saw("loaded", path.read_bytes())
        self.text(f"load data local infile '{path}' into table {table} fields terminated by ','")

    def many(self, statements: list[str]) -> None:
        """Send several in one."""
        self.text("; ".join(statements))


ACTIONS: tuple[Callable[[MySqlDriver], None], ...] = (
    *[MySqlDriver.insert, MySqlDriver.select, MySqlDriver.violate] * 4,
    *[MySqlDriver.change, MySqlDriver.several, MySqlDriver.warn, MySqlDriver.set] * 2,
    MySqlDriver.make_table,
    MySqlDriver.call,
    MySqlDriver.load,
    MySqlDriver.transact,
)
