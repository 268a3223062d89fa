"""The random driver's prepared statements: mysql-connector-python, command by command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mysql.connector

from tests.e2e.canary_mysql import MySqlDriver
from tests.e2e.canary_style import Sent


class PreparedDriver(MySqlDriver):
    """Each statement prepared, executed once or more, and closed."""

    multiple = False

    def __init__(self, connection: Any, *more: Any) -> None:
        super().__init__(*more)
        self._connection = connection

    def text(self, text: str) -> None:
        """Prepare and execute it."""
        self._prepared(text, [])

    def either(self, write: Callable[[], str]) -> None:
        """Prepare and execute it with what it binds."""
        bound: list[Any] = []
        self._bound = bound
        text = write()
        self._bound = None
        self._prepared(text, bound)

    def pour(self, table: str, path: Path) -> None:
        """Insert instead: a prepared statement loads no file."""
        self.text(f"insert into {table} values (cn_word({self._canaries.issue()}), 1)")

    def _prepared(self, text: str, bound: list[Any]) -> None:
        statement = self._said("prepare", text, lambda: self._connection.cmd_stmt_prepare(text.encode()))
        if statement is None:
            return
        for _ in range(self._draw.choice((1, 1, 2))):
            self._said("execute", text, lambda: self._executed(statement, bound))
        self._connection.cmd_stmt_close(statement["statement_id"])

    def _said(self, how: str, text: str, call: Callable[[], Any]) -> Any:
        sent = Sent(how, text)
        self.log.sent.append(sent)
        try:
            return call()
        except mysql.connector.Error as error:
            if not error.sqlstate:  # of the client's own making
                raise
            sent.code, sent.message = str(error.errno), str(error.msg)
            self.log.saw("message", sent.message)
            return None

    def _executed(self, statement: dict[str, Any], bound: list[Any]) -> None:
        sent = self.log.sent[-1]
        answer = self._connection.cmd_stmt_execute(
            statement["statement_id"], data=bound, parameters=statement["parameters"]
        )
        if isinstance(answer, dict):
            sent.rows = answer["affected_rows"]
            return
        self._connection.unread_result = True  # what its cursors tell it
        rows, _ = self._connection.get_rows(binary=True, columns=answer[1])
        sent.rows = len(rows)
        for row in rows:
            self.log.saw(
                "binary row", *(cell if isinstance(cell, bytes | bytearray) else str(cell) for cell in row)
            )
