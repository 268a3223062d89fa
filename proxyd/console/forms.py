"""What a browser sends: forms and queries, read within bounds."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final
from urllib.parse import parse_qsl

import trio
from starlette.requests import ClientDisconnect, Request

FORM_BYTES: Final = 16 << 10  # the longest text of a form is a reason of 500 characters
FORM_SECONDS: Final = 20.0  # for all of it: a byte a minute would keep a connection for ever
FIELDS: Final = 64
FORM_TYPE: Final = "application/x-www-form-urlencoded"


class BadForm(Exception):
    """A body that is no form of ours; `status` is what HTTP calls it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Form:
    """The fields of one form; the last value of a name counts, `all` gives every one."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """Give a field without the spaces around it; empty when it is not there."""
        return dict(self._fields).get(name, "").strip()

    def secret(self, name: str) -> str:
        """Give a field as it was typed."""
        return dict(self._fields).get(name, "")

    def all(self, name: str) -> list[str]:
        """Give every value of a name that is not empty."""
        return [value.strip() for key, value in self._fields if key == name and value.strip()]


async def _body(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > FORM_BYTES:
                raise BadForm(413, "This form is too large.")
    return bytes(body)


async def read_form(request: Request) -> Form:
    """Read a posted form. Raises BadForm."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise BadForm(415, "This is no form of this console.")
    body: bytes | None = None
    try:
        with trio.move_on_after(FORM_SECONDS):
            body = await _body(request)
    except ClientDisconnect:
        raise BadForm(400, "This form did not come whole.") from None
    if body is None:
        raise BadForm(408, "This form came too slowly.")
    try:
        text = body.decode()
        return Form(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS, errors="strict"))
    except ValueError:  # too many fields, or no UTF-8
        raise BadForm(400, "This form can't be read.") from None
