"""How to reach a target with the clients people have: whole command lines, ready for a shell.

Rule 1: every word that is not ours is quoted for the shell, and in URLs and connection strings for those: names of users and
        targets may hold anything.
Rule 2: a command trusts what the front really shows, by its host keys, its certificate or its fingerprint; none switches
        checking off.
Rule 3: a command says what the permit allows: no file transfer where there is none.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Final, NamedTuple
from urllib.parse import quote

from proxyd.fronts import Front

SSH_PORT: Final = 22
SEPARATORS: Final = {"rdp": "%"}  # mstsc takes what is behind @ or before \ for a domain; all others take +
SEPARATOR: Final = "+"
DATABASE: Final = {
    "postgres": "postgres",
    "mysql": "",
}  # one that is always there; psql would take the user's name for it
FILE: Final = "report.pdf"  # what a copied example names


class Way(NamedTuple):
    """One command: what it is for, and what to type."""

    name: str
    command: str


class Wish(NamedTuple):
    """Who wants to go where, with what they may open there (ssh channels)."""

    user: str
    login: str
    target: str
    channels: Collection[str] = ()


def username(front: Front, wish: Wish) -> str:
    """Give what a client says for its user's name."""
    parts = (wish.user, wish.login) if front.bound else (wish.user, wish.login, wish.target)
    return SEPARATORS.get(front.protocol, SEPARATOR).join(parts)


def certificate_file(front: Front) -> str:
    """Give the name under which commands expect the front's certificate."""
    return f"proxyd-{front.protocol}.pem"


def known_hosts(front: Front) -> list[str]:
    """Give the lines of known_hosts by which OpenSSH knows the front, and its authority for `ssh -J`."""
    host = front.host if front.port == SSH_PORT else f"[{front.host}]:{front.port}"
    authority = [f"@cert-authority * {front.authority}"] if front.authority else []
    return [f"{host} {key}" for key in front.keys] + authority


def trust(front: Front) -> str:
    """Give the command that adds those lines; "" where there are none."""
    lines = known_hosts(front)
    return f"printf '%s\\n' {' '.join(map(shlex.quote, lines))} >> ~/.ssh/known_hosts" if lines else ""


def ways(front: Front, wish: Wish) -> list[Way]:
    """Give the commands for a permit."""
    return _OF[front.protocol](front, wish)


def _line(*words: str) -> str:
    return " ".join(map(shlex.quote, filter(None, words)))


def _ssh(front: Front, wish: Wish) -> list[Way]:
    name = username(front, wish)
    plain = front.port == SSH_PORT
    small, large = ("", "") if plain else (f"-p{front.port}", f"-P{front.port}")
    there = f"{name}@{front.host}"
    bracketed = f"{name}@{_bracketed(front.host)}"
    found = []
    if "shell" in wish.channels:
        found.append(Way("Shell", _line("ssh", small, there)))
    if "exec" in wish.channels:
        found.append(Way("One command", _line("ssh", small, there, "uname -a")))
    if front.authority and "shell" in wish.channels:
        jump = f"{wish.user}@{_bracketed(front.host)}" + ("" if plain else f":{front.port}")
        found.append(
            Way(
                "Through the proxy, the target by its name",
                _line("ssh", "-J", jump, f"{wish.login}@{wish.target}"),
            )
        )
    if "sftp" in wish.channels:
        found.append(Way("Files, interactively", _line("sftp", large, bracketed)))
        found.append(Way("Copy a file there", _line("scp", large, FILE, f"{bracketed}:")))
        found.append(Way("Copy a file from there", _line("scp", large, f"{bracketed}:{FILE}", ".")))
    return found


def _postgres(front: Front, wish: Wish) -> list[Way]:
    database, trusted = DATABASE["postgres"], _root(front)
    values = {"host": front.host, "port": str(front.port), "user": username(front, wish), "dbname": database,
              "sslmode": "verify-full", "sslrootcert": trusted}  # fmt: skip
    said = " ".join(f"{key}={_libpq(value)}" for key, value in values.items())
    asked = f"sslmode=verify-full&sslrootcert={quote(trusted, safe='')}"
    where = f"{quote(username(front, wish), safe='')}@{_bracketed(front.host)}:{front.port}"
    return [
        Way("psql", _line("psql", said)),
        Way("As a URI, for drivers", f"postgresql://{where}/{database}?{asked}"),
    ]


def _root(front: Front) -> str:
    return certificate_file(front) if front.self_signed else "system"


def _libpq(value: str) -> str:
    """Quote a value of a connection string (libpq 34.1.1.1)."""
    if value and not any(mark in value for mark in " '\\"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _mysql(front: Front, wish: Wish) -> list[Way]:
    local = (
        "--protocol=tcp" if front.host == "localhost" else ""
    )  # else it is a socket of their own machine's
    where = [local, "-h", front.host, "-P", str(front.port), "-u", username(front, wish), "-p"]
    ca = f"--ssl-ca={certificate_file(front)}" if front.self_signed else ""
    return [
        Way("MariaDB's client", _line("mariadb", *where, ca, "--ssl-verify-server-cert")),
        Way("MySQL's client", _line("mysql", *where, ca, "--ssl-mode=VERIFY_IDENTITY")),
    ]


def _rdp(front: Front, wish: Wish) -> list[Way]:
    where = f"/v:{_bracketed(front.host)}:{front.port}"
    trusted = f"/cert:fingerprint:sha256:{front.sha256}" if front.sha256 else ""
    # A proof by NLA takes an `nt_hash`, and has no place for a one-time code: on the screen every user logs in.
    inside = "/sec:tls" if front.login_screen else ""
    return [Way("FreeRDP", _line("xfreerdp", where, f"/u:{username(front, wish)}", inside, trusted))]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_OF: Final = {"ssh": _ssh, "postgres": _postgres, "mysql": _mysql, "rdp": _rdp}
