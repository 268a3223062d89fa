"""What Prometheus scrapes: every number the daemon keeps about itself, and the small server that shows them.

Rule 1: labels have few values and none comes from a peer: no user, no address, no target.
Rule 2: the server is no gate to anything: two fixed paths, small requests, a deadline, few connections.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from proxyd.config import split_address

REGISTRY: Final = CollectorRegistry()

SESSIONS: Final = Gauge("proxyd_sessions", "Sessions now.", ["protocol", "state"], registry=REGISTRY)
SESSIONS_STARTED: Final = Counter(
    "proxyd_sessions_started", "Sessions begun.", ["protocol"], registry=REGISTRY
)
SESSIONS_ENDED: Final = Counter(
    "proxyd_sessions_ended", "Sessions ended, by reason.", ["protocol", "reason"], registry=REGISTRY
)
BYTES: Final = Counter(
    "proxyd_bytes",
    "Bytes relayed; direction is input (to the target) or output.",
    ["protocol", "direction"],
    registry=REGISTRY,
)
LOGINS: Final = Counter(
    "proxyd_logins",
    "Logins tried at the proxy; result is ok, denied, failed, grace or invalid.",
    ["protocol", "result"],
    registry=REGISTRY,
)
TARGET_LOGINS: Final = Counter(
    "proxyd_target_logins",
    "Logins of the proxy at targets; result is ok, failed, unreachable or untrusted.",
    ["protocol", "result"],
    registry=REGISTRY,
)
ADMISSION_REFUSED: Final = Counter(
    "proxyd_admission_refused", "Connections refused before login.", ["reason"], registry=REGISTRY
)
BLOCKS: Final = Counter("proxyd_gate_blocks", "Times an operator blocked a session.", registry=REGISTRY)
REFUSED_BYTES: Final = Counter(
    "proxyd_gate_refused_bytes", "Client bytes thrown away at a closed gate.", registry=REGISTRY
)
DROPS: Final = Counter(
    "proxyd_drops", "Sessions dropped, by whom: operator, rule or shutdown.", ["by"], registry=REGISTRY
)
FINDINGS: Final = Counter("proxyd_findings", "Findings recorded.", ["code", "severity"], registry=REGISTRY)
RULE_HITS: Final = Counter(
    "proxyd_rule_hits",
    "Commands and statements a rule matched, by the rule's name and what became of them: flag, block or interrupt.",
    ["rule", "action"],
    registry=REGISTRY,
)
VIEWERS: Final = Gauge("proxyd_viewers", "Live viewers now.", registry=REGISTRY)
CONTROL_REFUSED: Final = Counter(
    "proxyd_control_frames_refused", "Control frames refused, by reason.", ["reason"], registry=REGISTRY
)
RECORDER_LAG: Final = Gauge(
    "proxyd_recorder_lag_seconds", "Age of the oldest record not yet written.", registry=REGISTRY
)
RECORDER_QUEUE: Final = Gauge(
    "proxyd_recorder_queue_bytes", "Bytes recorded and not yet written.", registry=REGISTRY
)
UNSEALED_SEGMENTS: Final = Gauge("proxyd_unsealed_segments", "Segments open now.", registry=REGISTRY)
RECORDINGS_FAILED: Final = Counter(
    "proxyd_recordings_failed", "Recordings that could not keep their promise.", ["policy"], registry=REGISTRY
)
PURGED: Final = Counter(
    "proxyd_recordings_purged", "Recordings purged, by policy or by operator.", ["by"], registry=REGISTRY
)
PURGED_BYTES: Final = Counter(
    "proxyd_purged_bytes", "Bytes of the recordings that were purged.", registry=REGISTRY
)
PURGES_FAILED: Final = Counter(
    "proxyd_purges_failed", "Times a purge ended with an error.", registry=REGISTRY
)
HELD: Final = Gauge("proxyd_recordings_held", "Sessions that are held now.", registry=REGISTRY)
STORED_BYTES: Final = Counter("proxyd_stored_bytes", "Bytes the store has acknowledged.", registry=REGISTRY)
STORE_FAILURES: Final = Counter(
    "proxyd_store_failures", "Times the store refused or was not reached.", registry=REGISTRY
)
STORE_PENDING: Final = Gauge(
    "proxyd_store_pending_files", "Files the store has yet to get.", registry=REGISTRY
)
STORE_LAG: Final = Gauge(
    "proxyd_store_lag_seconds", "Age of the oldest file the store has yet to get.", registry=REGISTRY
)
STORE_DELAY: Final = Histogram(
    "proxyd_store_delay_seconds",
    "Time from a file's last byte to the store's acknowledgement.",
    buckets=(1, 3, 10, 30, 60, 300, 900, 3600, 6 * 3600, 86_400),  # seconds in health, hours behind an outage
    registry=REGISTRY,
)
RECORDED_BYTES: Final = Counter("proxyd_recorded_bytes", "Bytes written to segments.", registry=REGISTRY)
FSYNC_SECONDS: Final = Histogram(
    "proxyd_fsync_seconds",
    "Time of one fdatasync of a segment.",
    buckets=(
        0.001,
        0.003,
        0.01,
        0.03,
        0.1,
        0.3,
        1,
        3,
        10,
    ),  # flash below 3 ms, disks to 30, a storage in trouble above
    registry=REGISTRY,
)
INDEX_SESSIONS: Final = Gauge("proxyd_index_sessions", "Sessions being indexed now.", registry=REGISTRY)
INDEX_LAG: Final = Gauge(
    "proxyd_index_lag_seconds", "Age of the oldest record no indexer has read yet.", registry=REGISTRY
)
INDEX_LEFT: Final = Gauge(
    "proxyd_index_left",
    "Sessions of before the daemon's start whose index is still to be made.",
    registry=REGISTRY,
)
INDEX_RESTARTS: Final = Counter(
    "proxyd_index_restarts", "Times a process of the indexer ended and another began.", registry=REGISTRY
)
INDEX_FAULTS: Final = Counter(
    "proxyd_index_faults", "Parts of recordings that indexers could not read.", registry=REGISTRY
)
INDEX_ENDED: Final = Counter(
    "proxyd_index_ended",
    "Sessions whose index is finished: whole, or given up as late, unreadable, deadly, format or storage.",
    ["result"],
    registry=REGISTRY,
)
NOTIFICATIONS: Final = Counter(
    "proxyd_notifications",
    "Notifications by how they went: sent, failed, or dropped because too many waited.",
    ["protocol", "result"],
    registry=REGISTRY,
)
EXPORTS: Final = Gauge("proxyd_exports", "Exports queued and running now.", ["state"], registry=REGISTRY)
EXPORTS_ENDED: Final = Counter(
    "proxyd_exports_ended",
    "Exports by their end: done, failed, cancelled or lost.",
    ["result"],
    registry=REGISTRY,
)
SEARCH_TEXTS: Final = Counter("proxyd_search_texts", "Texts written to the search index.", registry=REGISTRY)
SEARCH_FAILURES: Final = Counter(
    "proxyd_search_failures", "Times texts could not be written to the search index.", registry=REGISTRY
)
SEARCH_SECONDS: Final = Histogram(
    "proxyd_search_seconds",
    "Time of one search.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),  # 0.1 is promised, at 10 it is given up
    registry=REGISTRY,
)

RDP_GRAPHICS: Final = Counter(
    "proxyd_rdp_graphics",
    "Desktops begun, by how they are painted: bitmap, gfx, noavc or avc420.",
    ["policy"],
    registry=REGISTRY,
)
RDP_BROKEN: Final = Counter(
    "proxyd_rdp_broken",
    "Desktops that ended because a side broke the protocol: client or target.",
    ["by"],
    registry=REGISTRY,
)
HEALTH: Final = Gauge("proxyd_health", "What /health says: 2 ok, 1 degraded, 0 failing.", registry=REGISTRY)
RECORDABLE: Final = Gauge(
    "proxyd_recordings_possible", "1 while the disk of recordings takes new ones.", registry=REGISTRY
)
CATALOG_REACHABLE: Final = Gauge(
    "proxyd_catalog_reachable", "1 while the catalog answers.", registry=REGISTRY
)
STORE_REACHABLE: Final = Gauge(
    "proxyd_store_reachable", "1 while the store takes all it is given.", registry=REGISTRY
)

CONSOLE: Final = CollectorRegistry()
"""Of the console, which is a process of its own and has an address of its own for them."""
CONSOLE_CONNECTIONS: Final = Gauge(
    "proxyd_console_connections", "Connections of browsers now.", registry=CONSOLE
)
CONSOLE_REFUSED: Final = Counter(
    "proxyd_console_refused",
    "Refused by the console, by reason: connections (full, source, rate, penalty, startups, descriptors, handshake), "
    "requests (host, method, framing, origin, form, requests), and sign-ins (sign-in).",
    ["reason"],
    registry=CONSOLE,
)
CONSOLE_FAULTS: Final = Counter(
    "proxyd_console_faults",
    "Connections and requests that ended by a fault of the console's own.",
    registry=CONSOLE,
)
CONSOLE_SIGN_INS: Final = Gauge("proxyd_console_sign_ins", "Browsers signed in now.", registry=CONSOLE)

MAX_REQUEST_BYTES: Final = 8 << 10  # Apache's and nginx's limit for a request's head
REQUEST_SECONDS: Final = 5.0  # a scraper on the same network sends one packet
MAX_CONNECTIONS: Final = 16  # two scrapers, a health check and a curious person; more wait in the backlog
READ_BYTES: Final = 2048
TOKEN: Final = b"HTTP/1."


class Told(Protocol):
    """How the daemon is; health.Health is one."""

    @property
    def failing(self) -> bool:
        """Say whether it is of no use."""

    @property
    def text(self) -> str:
        """Say how it is."""


async def serve(
    address: str,
    health: Callable[[], Told],
    *,
    registry: CollectorRegistry = REGISTRY,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve GET and HEAD of /metrics and /health on `address` ("host:port") until cancelled.

    Starts with the address it listens on, as "host:port" (port 0 in `address`: the kernel chose). Raises OSError.
    """
    host, port = split_address(address)
    listeners = await trio.open_tcp_listeners(port, host=host)
    places = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            with trio.move_on_after(REQUEST_SECONDS):
                async with places:
                    await _answer(stream, health, registry)

    bound = listeners[0].socket.getsockname()
    task_status.started(f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}")
    await trio.serve_listeners(answer, listeners)


async def _answer(stream: trio.SocketStream, health: Callable[[], Told], registry: CollectorRegistry) -> None:
    """Read one request head, write one response, and close: no keep-alive, no body."""
    head = bytearray()
    try:
        while b"\r\n\r\n" not in head and len(head) <= MAX_REQUEST_BYTES:
            data = await stream.receive_some(READ_BYTES)
            if not data:
                return
            head += data
        await stream.send_all(response(bytes(head), health(), registry))
        await stream.send_eof()
        while await stream.receive_some(READ_BYTES):  # closing with unread data would reset what we sent
            pass
    except trio.BrokenResourceError:
        return


def response(head: bytes, health: Told, registry: CollectorRegistry = REGISTRY) -> bytes:
    """Answer a request head with the bytes of a whole HTTP/1.1 response (RFC 9112)."""
    if len(head) > MAX_REQUEST_BYTES:
        return _reply(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(TOKEN):  # method target version
        return _reply(HTTPStatus.BAD_REQUEST)
    method, path = words[0], words[1].split(b"?", 1)[0]
    if method not in (b"GET", b"HEAD"):
        return _reply(HTTPStatus.METHOD_NOT_ALLOWED, headers="Allow: GET, HEAD\r\n")
    with_body = method == b"GET"
    if path == b"/metrics":
        return _reply(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4, with_body=with_body)
    if path == b"/health":
        status = HTTPStatus.SERVICE_UNAVAILABLE if health.failing else HTTPStatus.OK
        return _reply(status, health.text.encode(), with_body=with_body)
    return _reply(HTTPStatus.NOT_FOUND, with_body=with_body)


def _reply(
    status: HTTPStatus,
    body: bytes = b"",
    kind: str = "text/plain; charset=utf-8",
    headers: str = "",
    *,
    with_body: bool = True,
) -> bytes:
    body = body or f"{status.phrase}\n".encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
