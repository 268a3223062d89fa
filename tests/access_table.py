"""What it takes to use each address of the console and each command of the control socket, in the words of `tests.access_model`.

Who adds a route or a command adds a line here: `sees` names each way in which it shows of a session what happened in it, in the
order they are asked for, and has it tried by everybody at every kind of session; `needs` is what it takes besides, or without.
`tests/unit/console/test_access_table.py` fails for one that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NOBODY = "nobody has to have signed in"
OWN = "own"  # one's own things, whoever one is


@dataclass(frozen=True)
class Address:
    """A route. `fine`: the statuses of one who may, `away`: of one who may not, beside a refusal. `drawn`: it is asked for as it stands here, by anybody, at any session.
    `known`: it takes leave to see the session besides, live or replayed, and shows what was said of it: that is no view.

    What is not has a method of its own among the attempts (`tests/e2e/access_web.py`): it is a form, a search or a socket.
    """

    needs: str = "list"
    sees: tuple[str, ...] = ()
    known: bool = False
    fine: tuple[int, ...] = (200,)
    away: tuple[int, ...] = ()
    drawn: bool = True


_ONE = "/sessions/{session}"
_RECORDING = f"{_ONE}/recording"
GONE = (200, 303)  # it leads to where the session is: live, ended, or waiting for leave

ADDRESSES: dict[tuple[str, str], Address] = {
    ("GET", "/sign-in"): Address(NOBODY, fine=GONE),
    ("POST", "/sign-in"): Address(NOBODY, drawn=False),
    ("GET", "/static/{name}"): Address(NOBODY, fine=(404,)),
    ("POST", "/sign-in/key"): Address(NOBODY, drawn=False),
    ("POST", "/sign-in/provider"): Address(NOBODY, drawn=False),
    ("POST", "/sign-in/provider/logout"): Address(NOBODY, drawn=False),
    ("GET", "/sign-in/provider/back"): Address(NOBODY, fine=(404,)),
    ("POST", "/sign-out"): Address(OWN, drawn=False),
    ("GET", "/sign-ins"): Address(OWN),
    ("POST", "/sign-ins"): Address(OWN, drawn=False),
    ("GET", "/signed-in"): Address("signins"),
    ("POST", "/signed-in"): Address("signins", drawn=False),
    ("GET", "/access"): Address(OWN),
    ("GET", "/access/certificates/{protocol}"): Address(OWN, fine=(200, 404)),
    ("GET", "/access/desktop.rdp"): Address(OWN, fine=(200, 400, 404, 409)),
    ("POST", "/access/desktop"): Address(OWN, drawn=False),
    ("POST", "/access/keys"): Address(OWN, drawn=False),
    ("POST", "/access/keys/remove"): Address(OWN, drawn=False),
    ("POST", "/access/device"): Address(OWN, drawn=False),
    ("POST", "/access/device/confirm"): Address(OWN, drawn=False),
    ("POST", "/access/passkeys"): Address(OWN, drawn=False),
    ("POST", "/access/passkeys/confirm"): Address(OWN, drawn=False),
    ("POST", "/access/passkeys/challenge"): Address(OWN, drawn=False),
    ("POST", "/access/passkeys/remove"): Address(OWN, drawn=False),
    ("POST", "/access/recovery"): Address(OWN, drawn=False),
    ("GET", "/"): Address(away=(303,)),  # to one's own things, for who may list nothing
    ("GET", "/search"): Address("search", drawn=False),
    ("GET", "/requests"): Address("ask"),
    ("POST", "/requests/{request}/{verdict}"): Address("ask", drawn=False),
    ("GET", "/exports"): Address(),
    ("GET", "/exports/{export}"): Address(fine=(404,)),  # of one that is there: `download` among the attempts
    ("GET", "/exports/{export}/file"): Address(fine=(404,)),
    ("GET", "/exports/{export}/manifest"): Address(fine=(404,)),
    ("GET", "/exports/{export}/verify"): Address(fine=(404,)),
    ("POST", "/exports/{export}/cancel"): Address("export", drawn=False),
    ("GET", "/blocked"): Address("blocks"),
    ("POST", "/blocked/release"): Address("block", drawn=False),
    ("GET", _ONE): Address(),
    ("GET", f"{_ONE}/logs"): Address(sees=("log",)),
    ("GET", f"{_ONE}/live"): Address(fine=GONE),
    ("WEBSOCKET", f"{_ONE}/live/stream"): Address(sees=("live",), drawn=False),
    ("GET", f"{_ONE}/play"): Address(fine=GONE),
    ("GET", _RECORDING): Address(sees=("replay", "log")),
    ("GET", f"{_RECORDING}/pieces/{{number}}"): Address(sees=("replay",), fine=(200, 404)),
    ("GET", f"{_RECORDING}/pictures/{{at_us}}"): Address(sees=("replay",), fine=(200, 204, 400)),
    ("GET", f"{_RECORDING}/screens/{{at_us}}"): Address(sees=("replay",), fine=(200, 204, 400)),
    ("GET", f"{_RECORDING}/thumbs/{{at_us}}"): Address(sees=("replay",), fine=(200, 204, 400)),
    ("GET", f"{_RECORDING}/stills/{{at_us}}"): Address(sees=("replay",), fine=(200, 204, 400)),
    ("GET", f"{_RECORDING}/motion/{{first_us}}/{{last_us}}/{{step_us}}"): Address(
        sees=("replay",), fine=(200, 400)
    ),
    ("GET", f"{_ONE}/video"): Address(),
    ("POST", f"{_ONE}/video"): Address("export", drawn=False),
    ("GET", f"{_ONE}/comments"): Address(known=True),
    ("POST", f"{_ONE}/comments"): Address("review", drawn=False),
    ("POST", f"{_ONE}/review"): Address("review", drawn=False),
    ("GET", f"{_ONE}/drop"): Address(),
    ("POST", f"{_ONE}/drop"): Address("drop", drawn=False),
    ("POST", f"{_ONE}/block"): Address("block", drawn=False),
    ("POST", f"{_ONE}/unblock"): Address("block", drawn=False),
    ("POST", f"{_ONE}/message"): Address("message", drawn=False),
    ("GET", f"{_ONE}/auditors"): Address("status"),
    ("POST", f"{_ONE}/auditors"): Address("auditors", drawn=False),
    ("GET", f"{_ONE}/request"): Address(),
    ("POST", f"{_ONE}/request"): Address("ask", drawn=False),
    ("GET", f"{_ONE}/hold"): Address(),
    ("POST", f"{_ONE}/hold"): Address("hold", drawn=False),
    ("POST", f"{_ONE}/release"): Address("hold", drawn=False),
}
FILLED: dict[str, tuple[str, ...]] = {
    "number": ("0", "1", "2", "9"),
    "protocol": ("postgres", "x"),
    "export": ("0" * 32,),
    "at_us": ("0", "4000", "99000000"),
    "first_us": ("0", "1000"),
    "last_us": ("1000", "99000000"),
    "step_us": ("40000",),
    "name": ("console.js", "x"),
}  # what stands for the parts of an address that name no session and no request


@dataclass(frozen=True)
class Asking:
    """A command. `arguments`: some that would do; `harmless`: also those ask it who are let, whatever it answers.
    `known`: as of an address.
    """

    needs: str
    arguments: dict[str, Any] = field(default_factory=dict)
    harmless: bool = False
    known: bool = False


_SESSION = {"session": "{session}"}
_JOB = {"job": "0" * 32}
COMMANDS: dict[str, Asking] = {
    "status": Asking("status", harmless=True),
    "sessions": Asking("list", {"limit": 5}, harmless=True),
    "show": Asking("list", _SESSION, harmless=True),
    "watch": Asking("live", _SESSION),
    "look": Asking("live", _SESSION),
    "picture": Asking("live", _SESSION),
    "block": Asking("block", _SESSION),
    "unblock": Asking("block", {"whom": "{session}"}),
    "blocked": Asking("blocks", harmless=True),
    "message": Asking("message", _SESSION | {"text": "hello"}),
    "drop": Asking("drop", _SESSION),
    "verify": Asking("log", _SESSION, harmless=True),
    "fetch": Asking("list", {"ticket": "0" * 32, "file": "000000.pxr", "start": 0, "length": 1}, harmless=True),
    "export-job": Asking("export", _SESSION | {"form": "webm", "path": "/nowhere/x"}),
    "export-resume": Asking("export", _JOB),
    "export-ask": Asking("export", _SESSION | {"form": "jsonl"}),
    "export-waiting": Asking("act", harmless=True),
    "export-told": Asking("export", _JOB | {"percent": 1}, harmless=True),
    "export-sign": Asking("export", _JOB | {"sha256": "0" * 64, "size": 1, "duration_us": 1}, harmless=True),
    "export-end": Asking("export", _JOB, harmless=True),
    "export-cancel": Asking("export", _JOB, harmless=True),
    "export-fetch": Asking("export", _JOB, harmless=True),
    "export-piece": Asking("export", {"ticket": "0" * 32, "file": "file", "start": 0, "length": 1}, harmless=True),
    "exports": Asking("list", _SESSION, harmless=True),
    "search": Asking("search", {"text": "needle"}),
    "read": Asking("list", _SESSION | {"kind": "live"}, harmless=True),
    "views": Asking("list", _SESSION, harmless=True),
    "auditors": Asking("list", _SESSION, harmless=True),
    "set-auditors": Asking("auditors", _SESSION | {"people": []}),
    "comments": Asking("list", _SESSION, harmless=True, known=True),
    "comment": Asking("review", _SESSION | {"text": "remarkable"}),
    "review": Asking("review", _SESSION),
    "request": Asking("ask", _SESSION | {"justification": "why", "ends_at": 1.0}, harmless=True),
    "requests": Asking("ask", harmless=True),
    "approve": Asking("decide", {"request": "{request}"}),
    "deny": Asking("decide", {"request": "{request}"}),
    "revoke": Asking("ask", {"request": "{request}"}),
    "hold": Asking("hold", _SESSION | {"reason": "why"}),
    "release": Asking("hold", _SESSION),
    "holds": Asking("list", harmless=True),
    "purge": Asking("purge", {"sessions": ["{session}"], "reason": "why"}),
    "rdp-file": Asking("issue", {"user": "alice", "target": "web1"}),
    "rdp-revoke": Asking("issue", {"user": "alice"}),
    "sign-in": Asking("act", {"user": "alice"}),
    "sign-in-by-key": Asking("act", {"browser": "x", "answer": "{}"}, harmless=True),
    "sign-ins-join": Asking("act"),
    "sign-ins-tell": Asking("act", {"console": "0" * 32, "rows": []}, harmless=True),
    "sign-ins": Asking("signins", harmless=True),
    "sign-out": Asking("signins", {"user": "alice"}),
    "recovery-code": Asking("issue", {"user": "alice"}),
    "unenrol": Asking("issue", {"user": "alice"}),
    "access": Asking(OWN, harmless=True),
    "own-key-add": Asking(OWN, {"line": "x"}),
    "own-key-remove": Asking(OWN, {"fingerprint": "x"}),
    "own-totp": Asking(OWN),
    "own-totp-confirm": Asking(OWN, {"code": "123456"}),
    "own-passkey": Asking(OWN, {"name": "x", "origin": "https://localhost:1"}),
    "own-passkey-confirm": Asking(OWN, {"answer": "{}"}),
    "own-passkey-challenge": Asking(OWN, {"origin": "https://localhost:1"}),
    "own-passkey-remove": Asking(OWN, {"fingerprint": "x"}),
    "own-recovery": Asking(OWN),
    "own-desktop": Asking(OWN, {"target": "web1"}),
    "fsck": Asking("status"),
    "reload": Asking("reload"),
    "users": Asking("status", harmless=True),
}  # fmt: skip
