"""What a record tells by itself, as a line of a session's log."""

from __future__ import annotations

from typing import Any, Final

from proxyd.recorder.record import Kind, Record
from proxyd.units import size

DESKTOP: Final = "rdp"  # what the request is called that says how a desktop was agreed on
_NOT_SHOWN: Final = frozenset({"env", "window-change", "eow@openssh.com", "keepalive@openssh.com"})


def told_by(record: Record) -> tuple[str, str] | None:
    """Say what a record tells by itself, as (kind, text); None for what is no event of a log."""
    body: Any = record.body
    match record.kind:
        case Kind.REQUEST:
            return _request(body)
        case Kind.CHANNEL:
            return "channel", " ".join(
                _text(body[key]) for key in ("event", "type", "host", "port", "path") if body.get(key)
            )
        case Kind.EXIT:
            return (
                "exit",
                f"status {body['status']}" if "status" in body else f"signal {_text(body.get('signal', ''))}",
            )
        case Kind.TRANSFER:
            return "transfer", _transfer(body)
        case Kind.FINDING:
            return "finding", f"{body.get('severity', '')}: {body.get('text') or body.get('code', '')}"
        case Kind.CONTROL:
            reason = f": {body['reason']}" if body.get("reason") else ""
            by = f" by {body['by']}" if body.get("by") else ""
            return "control", f"{body.get('action', '')}{by}{reason}"
        case Kind.REFUSED:
            return "refused", f"{size(len(body))} of input while blocked"
        case Kind.NOTICE:
            return "notice", _text(body)
        case Kind.CLIPBOARD:
            return "clipboard", _clip(body)
        case Kind.OMITTED:
            moved = f"{size(body.get('input', 0))} in, {size(body.get('output', 0))} out"
            return "omitted", f"{moved}: {_text(body.get('why', ''))}"
        case Kind.LOST:
            return "lost", f"{body.get('records', 0)} records: {_text(body.get('why', ''))}"
        case Kind.END:
            by = f" by {body['by']}" if body.get("by") else ""
            error = f": {_text(body['error'])}" if body.get("error") else ""
            return "end", f"{_text(body.get('reason', ''))}{by}{error}"
    return None


def _request(body: dict[str, Any]) -> tuple[str, str] | None:
    name = _text(body.get("name", ""))
    refused = " (refused)" if "refused" in body else ""
    if name == DESKTOP and "width" in body:
        return "desktop", _desktop(body)
    if name == "exec":
        return "command", _text(body.get("command", "")) + refused
    if name == "subsystem":
        return "command", f"subsystem {_text(body.get('subsystem') or body.get('command') or '')}{refused}"
    if name in _NOT_SHOWN and not refused:
        return None
    return "request", name + refused


def _desktop(body: dict[str, Any]) -> str:
    channels = ", ".join(body.get("channels", {}).values())
    about = f"{body['width']} x {body['height']}, {body['depth']} bits, keyboard {body['layout']:08x}"
    return f"{about}{', channels ' if channels else ''}{channels}"


def _clip(body: dict[str, Any]) -> str:
    about = [_text(body.get("direction", "")), _text(body.get("format", ""))]
    result, text = _text(body.get("result", "")), _text(body.get("text") or "")
    if result != "denied":
        about.append(size(body.get("size", 0)))
        about.append(f"sha256 {body['sha256']}" if body.get("sha256") else "")
    about.append(result)
    shown = ", ".join(filter(None, about))
    return f"{shown}: {text}{' (goes on)' if body.get('cut') else ''}" if text or not result else shown


def _transfer(body: dict[str, Any]) -> str:
    to = _text(body.get("to", ""))
    parts = [_text(body.get("operation", "")), _text(body.get("path", "")), f"to {to}" if to else ""]
    if body.get("size") or body.get("operation") in ("put", "get"):
        parts.append(size(body["size"]))
    if digest := body.get("sha256"):
        parts.append(f"sha256 {digest.hex() if isinstance(digest, bytes) else digest}")
    if result := body.get("result"):
        parts.append(_text(result))
    return "  ".join(part for part in parts if part)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
