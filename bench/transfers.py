"""What telling files apart costs the event loop: SFTP's blocks beside the relay, and commands before it.

Promise: to watch a 32 KiB block takes <= 2 x the time it takes to decrypt and encrypt it, which no relay can spare
itself (the hash is made in a thread of its own, and is not in it); a command twice as long takes <= 3 x as long to judge.
"""

from __future__ import annotations

import os
import statistics
import struct
from collections.abc import Callable, Iterator
from time import thread_time_ns
from unittest.mock import patch

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.rig import Promise, Report, Rig, Table, plain, ratio, rounds
from proxyd.digest import Digest
from proxyd.protocols.ssh.sftp import SftpWatch
from proxyd.protocols.ssh.sftp_packets import Packet
from proxyd.protocols.ssh.transfers import COMMAND_LIMIT, classify
from proxyd.protocols.ssh.wire import string, uint32

BLOCK = 32768  # what OpenSSH puts into one packet, and asyncssh's channels into one payload
IN_FLIGHT = 64  # OpenSSH's requests side by side
BLOCKS, BLOCKS_QUICK = 4000, 1000
ROUNDS, ROUNDS_QUICK = 9, 3
CIPHER, PUT, GET = "decrypt and encrypt", "watch a put", "watch a get"
WATCH_TO_CIPHER, TWICE_AS_LONG = 2.0, 3.0
READ, WRITE_NEW = 1, 2 | 8 | 16  # flags of OPEN (filexfer-02, 6.3)
HANDLE = string(b"\0\0\0\1")
OPENED, MOVED = 0, 1  # request ids: blocks count on from MOVED

# What is slow to judge, if anything is: words that nearly are options, quotes that may not end.
PARTS = (b"-t ", b"scp ", b"sudo -a ", b"$a", b"-t-f ", b"'a'", b'"$a"', b"\\ ")
ENDS = (b"", b";", b"'", b" -t x;")

Payload = tuple[bool, bytes]  # by the client?, data


def measure(rig: Rig) -> Report:
    """Both, in rounds."""
    report = Report("transfers", data={"rounds": rig.pick(ROUNDS_QUICK, ROUNDS)})
    _blocks(report, rig)
    _commands(report, rig)
    report.notes.append("microseconds are of this thread's CPU, medians; a ratio is the median (least..most)")
    return report


def _blocks(report: Report, rig: Rig) -> None:
    count = rig.pick(BLOCKS_QUICK, BLOCKS)
    ways: dict[str, Callable[[], object]] = {CIPHER: lambda: ciphered(count)}
    for name in (PUT, GET):
        payloads = list(payloads_of(name, count))
        ways[name] = lambda payloads=payloads: watched(payloads)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _, name in rounds(list(ways), rig.pick(ROUNDS_QUICK, ROUNDS)):
        spent[name].append(_microseconds(ways[name]) / count)
    to_cipher = {name: ratio(each, spent[CIPHER]) for name, each in spent.items()}
    table = Table(f"a block of {BLOCK} bytes", ("way", "us", "to the cipher"))
    for name, each in spent.items():
        table.rows.append((name, f"{statistics.median(each):.1f}", str(to_cipher[name])))
    report.tables.append(table)
    for name in (PUT, GET):
        text = f"{name}, to what the cipher takes"
        report.promises.append(Promise(text, to_cipher[name].median, WATCH_TO_CIPHER))
    report.data["blocks"] = {"count": count, "microseconds": spent, "to_cipher": plain(to_cipher)}


def _commands(report: Report, rig: Rig) -> None:
    halves: list[float] = []
    wholes: list[float] = []
    sizes = {COMMAND_LIMIT // 2: halves, COMMAND_LIMIT: wholes}
    for _, size in rounds(list(sizes), rig.pick(ROUNDS_QUICK, ROUNDS)):
        commands = list(commands_of(size))
        sizes[size].append(_microseconds(lambda commands=commands: judged(commands)) / len(commands))
    to_half = ratio(wholes, halves)
    table = Table("a command that is hard to judge", ("bytes", "us", "to half as long"))
    table.rows.append((str(COMMAND_LIMIT // 2), f"{statistics.median(halves):.0f}", ""))
    table.rows.append((str(COMMAND_LIMIT), f"{statistics.median(wholes):.0f}", str(to_half)))
    report.tables.append(table)
    report.promises.append(Promise("a command twice as long", to_half.median, TWICE_AS_LONG))
    report.data["commands"] = {
        "microseconds": {str(size): each for size, each in sizes.items()},
        "to_half": plain({"whole": to_half}),
    }


def _microseconds(work: Callable[[], object]) -> float:
    began = thread_time_ns()
    work()
    return (thread_time_ns() - began) / 1000


def ciphered(count: int) -> None:
    """What the relay's two connections do with `count` blocks: take off one cipher, put on the other."""
    near, far, nonce, data = AESGCM(os.urandom(16)), AESGCM(os.urandom(16)), os.urandom(12), os.urandom(BLOCK)
    sealed = near.encrypt(nonce, data, None)
    for _ in range(count):
        far.encrypt(nonce, near.decrypt(nonce, sealed, None), None)


def watched(payloads: list[Payload]) -> None:
    """Feed one watch; no hash is made."""
    with patch.object(Digest, "update", _unhashed):
        watch = SftpWatch(_untold, _untold)
        for by_client, data in payloads:
            (watch.from_client if by_client else watch.from_target)(data)
    if watch.broken or watch.lookups:
        raise RuntimeError("what was fed is not the SFTP that was meant")


def _unhashed(_: Digest, data: bytes | memoryview) -> None:
    """Stand for `Digest.update`, which hands the bytes to the hashing thread."""


def _untold(_: object) -> None:
    """Take an event, or a call for later: nobody listens."""


def payloads_of(way: str, count: int) -> Iterator[Payload]:
    """A put or a get of `count` blocks, IN_FLIGHT at once; the body's side in payloads of BLOCK bytes."""
    body = string(os.urandom(BLOCK))
    flags = uint32(WRITE_NEW if way == PUT else READ)
    yield True, _packet(Packet.INIT, 3)
    yield False, _packet(Packet.VERSION, 3)
    yield True, _packet(Packet.OPEN, OPENED, string(b"/x"), flags, uint32(0))
    yield False, _packet(Packet.HANDLE, OPENED, HANDLE)
    done = uint32(0) + string(b"") + string(b"")
    for first in range(0, count, IN_FLIGHT):
        numbers = range(first, min(first + IN_FLIGHT, count))
        places = {MOVED + number: HANDLE + struct.pack(">Q", number * BLOCK) for number in numbers}
        if way == PUT:
            asked = [_packet(Packet.WRITE, number, place, body) for number, place in places.items()]
            answered = [_packet(Packet.STATUS, number, done) for number in places]
        else:
            asked = [_packet(Packet.READ, number, place, uint32(BLOCK)) for number, place in places.items()]
            answered = [_packet(Packet.DATA, number, body) for number in places]
        for by_client, packets in ((True, asked), (False, answered)):
            carries = by_client is (way == PUT)
            for data in _cut(b"".join(packets)) if carries else packets:
                yield by_client, data


def _packet(kind: Packet, number: int, *fields: bytes) -> bytes:
    content = bytes([kind]) + uint32(number) + b"".join(fields)
    return string(content)


def _cut(stream: bytes) -> list[bytes]:
    return [stream[at : at + BLOCK] for at in range(0, len(stream), BLOCK)]


def commands_of(size: int) -> Iterator[bytes]:
    """Commands of nearly `size` bytes, each of one part over and over."""
    for part in PARTS:
        for end in ENDS:
            repeated = part * (size // len(part) - 8)  # room for what is before and behind
            yield repeated + end
            yield b"scp -t " + repeated + end


def judged(commands: list[bytes]) -> None:
    """Judge each as the engine does."""
    for command in commands:
        classify("exec", command, _untold, _untold)
