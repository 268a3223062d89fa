"""What has been sent and not arrived: the question a gate asks that nothing else does."""

from __future__ import annotations

import fcntl
import struct
import termios

from proxyd.stream import Stream


def undelivered(stream: Stream) -> int:
    """Count the bytes sent on a stream that the other side's kernel has not taken: ours, and our kernel's."""
    transport = stream._transport  # noqa: SLF001 - the one question about a stream only a gate asks
    waiting = int(transport.get_write_buffer_size())
    sock = transport.get_extra_info("socket")
    try:
        queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return waiting
    return waiting + int(struct.unpack("i", queued)[0])
