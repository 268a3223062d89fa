"""What a process that reads hostile bytes gives up before it reads the first of them.

Rule 1: it reads standard input and writes standard output, and that is all it can do: no network, no new file longer than
        nothing, no program, no other process, no core, no privilege to be had again.
Rule 2: what the machine does not permit is said, not hidden: a container may forbid namespaces, a kernel filters.
Rule 3: work on one frame is bounded in processor time, all of it in memory.
Linux alone has these; elsewhere only resource limits hold.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

MEMORY_BYTES: Final = (
    3 << 29
)  # of address space: libraries 300 MB, and eight desktops of 1080p with their copies
FRAME_CPU_S: Final = 60  # for what one frame asks: a thousand times what real ones need
NICE: Final = 10  # sessions go first
OOM_FIRST: Final = "800"  # of 1000: where memory ends, this is what can be made anew
OPEN_FILES: Final = 32  # a library that is loaded late still finds its files
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38  # <linux/prctl.h>
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # <linux/sched.h>
_SECCOMP_MODE_FILTER: Final = 2
# BPF: load a word of seccomp_data, jump if equal, return (<linux/bpf_common.h>, <linux/seccomp.h>).
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_AT_NUMBER, _AT_ARCHITECTURE = 0, 4
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050001
# By machine: its audit number, and the system calls nothing here needs: socket, socketpair, connect, bind, sendto, sendmsg,
# execve, execveat, ptrace, process_vm_readv, process_vm_writev, unlink(at), rename(at, at2), mount, kexec and keyctl,
# io_uring_setup (which would do any of these by another way), bpf, and userfaultfd.
_FORBIDDEN: Final = {
    "x86_64": (
        0xC000003E,
        (41, 53, 42, 49, 44, 46, 59, 322, 101, 310, 311, 87, 263, 82, 264, 316, 165, 246, 250, 425, 321, 323),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 199, 203, 200, 206, 211, 221, 281, 117, 270, 271, 35, 38, 276, 40, 104, 219, 425, 280, 282),
    ),
}


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def enter() -> tuple[bool, bool]:
    """Give it all up, once and for good; says whether the network is gone and whether system calls are filtered."""
    with suppress(OSError):  # a filter of the whole service may keep priorities as they are
        os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_FIRST)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    os.environ.clear()
    if sys.platform != "linux":
        return False, False
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    isolated = library.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0 or library.unshare(_CLONE_NEWNET) == 0
    library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filtered = _filter(library)
    return isolated or filtered, filtered


def allow_frame() -> None:
    """Give the next frame its processor time (rule 3); the kernel ends the process where it takes more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + FRAME_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def _filter(library: ctypes.CDLL) -> bool:
    """Have the kernel refuse what _FORBIDDEN lists; False where it is not known, or not permitted."""
    known = _FORBIDDEN.get(platform.machine())
    if known is None:
        return False
    architecture, numbers = known
    steps = [(_LOAD, 0, 0, _AT_ARCHITECTURE), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    steps.append((_LOAD, 0, 0, _AT_NUMBER))
    steps += [(_JUMP_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
    code = b"".join(struct.pack("<HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    done: int = library.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    return done == 0
