"""asyncssh's private names that proxyd uses: when an update moves one, this says which, before a user finds out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import asyncssh
import pytest
from asyncssh.channel import SSHChannel
from asyncssh.connection import SSHClientConnection, SSHConnection, SSHServerConnection
from asyncssh.crypto.cipher import GCMCipher
from asyncssh.encryption import Encryption, GCMEncryption

import proxyd.protocols.ssh as package

# What our code overrides: name and parameters must stay, for asyncssh calls them.
OVERRIDDEN = {
    (SSHConnection, "connection_made"): ("self", "transport"),
    (SSHConnection, "connection_lost"): ("self", "exc"),
    (SSHConnection, "data_received"): ("self", "data", "datatype"),
    (SSHConnection, "pause_writing"): ("self",),
    (SSHConnection, "resume_writing"): ("self",),
    (SSHConnection, "send_packet"): ("self", "pkttype", "args", "handler"),
    (SSHConnection, "send_newkeys"): ("self", "k", "h"),
    (SSHConnection, "abort"): ("self",),
    (SSHConnection, "_force_close"): ("self", "exc"),
    (SSHConnection, "_send_kexinit"): ("self",),
    (SSHConnection, "_process_kexinit"): ("self", "_pkttype", "_pktid", "packet"),
    (SSHConnection, "_process_disconnect"): ("self", "_pkttype", "_pktid", "packet"),
    (SSHConnection, "_process_userauth_request"): ("self", "_pkttype", "_pktid", "packet"),
    (SSHConnection, "_recv_data"): ("self",),
    (SSHConnection, "_send"): ("self", "data"),
    (SSHConnection, "_send_deferred_packets"): ("self",),
    (SSHConnection, "_finish_recv_packet"): ("self", "pkttype", "seq", "_task", "is_async"),
    (SSHConnection, "_process_channel_open"): ("self", "_pkttype", "_pktid", "packet"),
    (SSHConnection, "_process_global_request"): ("self", "_pkttype", "_pktid", "packet"),
    (SSHConnection, "_reset_keepalive_timer"): ("self",),
    (SSHConnection, "_keepalive_timer_callback"): ("self",),
    (SSHConnection, "send_userauth_failure"): ("self", "partial_success"),
    (SSHConnection, "send_userauth_success"): ("self",),
    (SSHServerConnection, "reload_config"): ("self",),
    (SSHServerConnection, "validate_public_key"): ("self", "username", "key_data", "msg", "signature"),
    (SSHServerConnection, "_validate_client_public_key"): ("self", "username", "key_data"),
    (SSHServerConnection, "_validate_openssh_certificate"): ("self", "username", "cert"),
    (SSHServerConnection, "validate_password"): ("self", "username", "password"),
    (SSHServerConnection, "get_kbdint_challenge"): ("self", "username", "lang", "submethods"),
    (SSHServerConnection, "validate_kbdint_response"): ("self", "username", "responses"),
    (SSHServerConnection, "change_password"): ("self", "username", "old_password", "new_password"),
    (SSHServerConnection, "host_based_auth_supported"): ("self",),
    (SSHClientConnection, "validate_server_host_key"): ("self", "key_data"),
    (SSHChannel, "_deliver_data"): ("self", "data", "datatype"),
    (SSHChannel, "write"): ("self", "data", "datatype"),
    (SSHChannel, "_flush_send_buf"): ("self",),
    (SSHChannel, "_process_response"): ("self", "pkttype", "_pktid", "packet"),
    (SSHChannel, "_process_close"): ("self", "_pkttype", "_pktid", "packet"),
    (SSHChannel, "_flush_recv_buf"): ("self", "exc"),
    (SSHChannel, "_process_request"): ("self", "_pkttype", "_pktid", "packet"),
    (Encryption, "encrypt_packet"): ("self", "seq", "header", "packet"),
    (Encryption, "decrypt_header"): ("self", "seq", "first_block", "header_len"),
    (Encryption, "decrypt_packet"): ("self", "seq", "first", "rest", "header_len", "mac"),
}

# What our code calls, with the parameters it relies on.
CALLED = {
    (SSHConnection, "_send"): ("self", "data"),
    (SSHConnection, "_send_disconnect"): ("self", "code", "reason", "lang"),
    (SSHConnection, "_recv_data"): ("self",),
    (SSHConnection, "_recv_pkthdr"): ("self",),
    (SSHConnection, "_recv_packet"): ("self",),
    (SSHConnection, "_recv_version"): ("self",),
    (SSHConnection, "_send_global_request"): ("self", "request", "args", "want_reply"),
    (SSHConnection, "_finish_recv_packet"): ("self", "pkttype", "seq", "_task", "is_async"),
    (SSHConnection, "_make_global_request"): ("self", "request", "args"),
    (SSHConnection, "_cleanup"): ("self", "exc"),
    (SSHConnection, "_set_keepalive_timer"): ("self",),
    (SSHConnection, "send_channel_open_failure"): ("self", "send_chan", "code", "reason", "lang"),
    (SSHConnection, "create_task"): ("self", "coro", "task_logger"),
    (SSHConnection, "internal_error"): ("self", "exc_info", "error_logger"),
    (SSHChannel, "_close_send"): ("self",),
    (SSHChannel, "_accept_data"): ("self", "data", "datatype"),
    (SSHChannel, "_open"): ("self", "chantype", "args"),
    (SSHChannel, "_send_request"): ("self", "request", "args", "want_reply"),
    (SSHChannel, "_pause_resume_writing"): ("self",),
    (SSHChannel, "process_open"): ("self", "send_chan", "send_window", "send_pktsize", "session"),
    (SSHServerConnection, "send_auth_banner"): ("self", "msg", "lang"),
}


@pytest.mark.parametrize(
    ("where", "parameters"), (OVERRIDDEN | CALLED).items(), ids=lambda item: str(item)[-60:]
)
def test_a_method_still_takes_what_we_give_it(where: tuple[type, str], parameters: tuple[str, ...]) -> None:
    owner, name = where
    assert tuple(inspect.signature(getattr(owner, name)).parameters) == parameters


def _attributes_used() -> set[str]:
    """Every private attribute read or written on asyncssh's objects by this package."""
    used: set[str] = set()
    for source in Path(package.__path__[0]).glob("*.py"):
        if source.name in {
            "throwaway.py",
            "sftp.py",
            "sftp_packets.py",
            "scp.py",
            "transfers.py",
            "watch.py",
        }:
            continue
        used |= set(re.findall(r"\._([a-z][a-z_]*)\b", source.read_text()))
    return {"_" + name for name in used}


def test_every_private_attribute_is_still_asyncsshs_or_ours() -> None:
    theirs = "".join(
        inspect.getsource(module)
        for module in (asyncssh.connection, asyncssh.channel, asyncssh.encryption, asyncssh.crypto.cipher)
    )
    ours = "".join(path.read_text() for path in Path(package.__path__[0]).glob("*.py"))
    defined_here = set(re.findall(r"(?:self\.|def |^    )(_[a-z][a-z_]*)\b(?:\s*[:=(])", ours, re.MULTILINE))
    unknown = {
        name
        for name in _attributes_used()
        if not re.search(rf"\b{name}\b", theirs) and name not in defined_here
    }
    assert not unknown


def test_the_gcm_shim_keeps_its_key_and_nonce_where_we_take_them() -> None:
    cipher = GCMEncryption.new("aes128-gcm", bytes(16), bytes(12))._cipher
    assert isinstance(cipher, GCMCipher)
    assert (cipher._key, cipher._iv) == (bytes(16), bytes(12))


def test_the_version_is_the_one_pinned() -> None:
    assert asyncssh.__version__.startswith("2.24.")
