"""A real server of Azure's blobs as a throw-away store: Microsoft's Azurite (npm, MIT), installed once from its lock."""

from __future__ import annotations

import base64
import hashlib
import hmac
import urllib.request
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers import nodejs
from tests.peers.endpoint import HOST
from tests.peers.nodejs import node
from tests.peers.process import Process, eventually, free_port

SOURCE = Path(__file__).parent
HOME = Path(__file__).parents[3] / "build" / "azurite"
START_S = 60.0
CONTAINER = "recordings"
VERSION = "2021-12-02"  # of the protocol, that the container is made by
ACCOUNT = "devstoreaccount1"  # the one every Azurite has, and its key, as its manual says
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def installed() -> Path:
    """Give where it is, installed when it is not there yet; raises nodejs.NotInstalled."""
    return nodejs.installed(SOURCE, HOME)


class Azure:
    """`with Azure(directory) as azure: Remote(azure.url, azure.options)`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()

    @property
    def endpoint(self) -> str:
        """Where the account is."""
        return f"http://{HOST}:{self.port}/{ACCOUNT}"

    @property
    def url(self) -> str:
        """The store, as proxyd's configuration has it."""
        return f"az://{CONTAINER}"

    @property
    def options(self) -> dict[str, str]:
        """What Azure's stores need to be told beside."""
        return {"account_name": ACCOUNT, "account_key": KEY, "endpoint": self.endpoint}

    def __enter__(self) -> Self:
        program = installed() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
        told = ["--blobHost", HOST, "--blobPort", str(self.port), "--location", str(self.directory)]
        quiet = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        argv = node(str(program), *told, *quiet)
        self.process = Process(argv, log=self.directory / "log", cwd=self.directory)
        eventually("azurite listens", lambda: "successfully listens" in self.process.text(), within_s=START_S)
        self._make_container()
        return self

    def _make_container(self) -> None:
        """Make the container, by a request that is signed with the account's key (Authorize with Shared Key)."""
        date = formatdate(usegmt=True)
        headers = {"x-ms-date": date, "x-ms-version": VERSION}
        said = "".join(f"{name}:{value}\n" for name, value in headers.items())
        signed = "PUT" + "\n" * 12 + f"{said}/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256))
        headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature.decode()}", "Content-Length": "0"}
        wanted = urllib.request.Request(
            f"{self.endpoint}/{CONTAINER}?restype=container", method="PUT", headers=headers
        )
        urllib.request.urlopen(wanted, timeout=10).close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()
