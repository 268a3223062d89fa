"""Search in what was typed and shown: where, in which session and when; what stands there its player shows."""

from __future__ import annotations

from starlette.responses import Response

from proxyd.console.visit import Visit
from proxyd.control.client import Code, ControlError
from proxyd.search import SOURCES


async def search(visit: Visit) -> Response:
    """Show the form, and what was found."""
    text = visit.request.query_params.get("text", "").strip()
    source = visit.request.query_params.get("in", "")
    source = source if source in SOURCES else ""
    found, wrong = None, ""
    if text:
        try:
            found = await visit.call("search", text=text, sources=[source] if source else [])
        except ControlError as error:
            if error.code not in (Code.USAGE, Code.REFUSED):
                raise
            wrong = f"{str(error)[:1].upper()}{str(error)[1:]}."
    return visit.page("search.html", text=text, source=source, sources=SOURCES, found=found, wrong=wrong)
