"""The metrics server: what it answers, and what it shrugs off."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from proxyd import metrics
from proxyd.config import split_address
from proxyd.health import Health
from tests.peers.process import open_sockets

pytestmark = pytest.mark.mission("M18")


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, int]]:
    async with trio.open_nursery() as nursery:
        yield split_address(await nursery.start(metrics.serve, "127.0.0.1:0", Health))
        nursery.cancel_scope.cancel()


async def exchange(address: tuple[str, int], request: bytes) -> bytes:
    stream = await trio.open_tcp_stream(*address)
    with trio.fail_after(60):
        async with stream:
            await stream.send_all(request)
            return b"".join([part async for part in stream])


def fetch(address: tuple[str, int], method: str, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


async def test_a_scrape_with_a_real_client() -> None:
    metrics.LOGINS.labels("ssh", "ok").inc()
    async with serving() as address:
        status, kind, body = await trio.to_thread.run_sync(fetch, address, "GET", "/metrics?x=1")
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        samples = {
            sample.name
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        assert {"proxyd_logins_total", "proxyd_unsealed_segments", "proxyd_fsync_seconds_bucket"} <= samples
        assert await trio.to_thread.run_sync(fetch, address, "GET", "/health") == (
            200,
            "text/plain; charset=utf-8",
            b"ok\n",
        )
        assert (await trio.to_thread.run_sync(fetch, address, "GET", "/"))[0] == 404
        assert (await trio.to_thread.run_sync(fetch, address, "POST", "/metrics"))[0] == 405
        status, _, body = await trio.to_thread.run_sync(fetch, address, "HEAD", "/metrics")
        assert (status, body) == (200, b"")


async def test_oversized_request_is_refused() -> None:
    async with serving() as address:
        answer = await exchange(address, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_garbage_is_a_bad_request() -> None:
    async with serving() as address:
        assert (await exchange(address, b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert (await exchange(address, b"GET /health HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_silent_peers_neither_stay_nor_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REQUEST_SECONDS", 0.3)
    before = open_sockets(os.getpid())
    async with serving() as address:
        silent = [await trio.open_tcp_stream(*address) for _ in range(metrics.MAX_CONNECTIONS + 4)]
        with trio.fail_after(60):
            for stream in silent:
                assert await stream.receive_some(1) == b""
                await stream.aclose()
        monkeypatch.undo()  # a request has its time
        status, _, _ = await trio.to_thread.run_sync(fetch, address, "GET", "/health")
        assert status == 200
    assert open_sockets(os.getpid()) == before


async def test_a_peer_that_resets_harms_nobody() -> None:
    async with serving() as address:
        for _ in range(5):
            stream = await trio.open_tcp_stream(*address)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            await stream.send_all(b"GET /metrics HTTP/1.1\r\n\r\n")
            await stream.aclose()
        assert (await trio.to_thread.run_sync(fetch, address, "GET", "/health"))[0] == 200


@given(st.binary(max_size=200))
def test_any_head_gets_a_whole_response(head: bytes) -> None:
    answer = metrics.response(head + b"\r\n\r\n", Health())
    top, _, body = answer.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 ")
    assert f"Content-Length: {len(body)}".encode() in top


def test_no_label_comes_from_a_peer() -> None:
    allowed = {
        "protocol",
        "state",
        "direction",
        "result",
        "reason",
        "by",
        "code",
        "severity",
        "policy",
        "rule",
        "action",
        "le",
    }
    declared = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    assert len(declared) > 20
    for metric in declared:  # by its declaration: a label that has no sample yet counts too
        assert set(metric._labelnames) <= allowed, metric._name
