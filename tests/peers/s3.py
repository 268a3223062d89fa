"""A real S3 server as a throw-away store: moto's, which knows conditional writes; it forgets all when it stops."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError

from tests.peers.endpoint import HOST
from tests.peers.process import Process, eventually, free_port

INSTALLED = find_spec("moto") is not None
KEYS = {"access_key_id": "recorder", "secret_access_key": "S3SecretCanary1"}
BUCKET = "recordings"
START_S = 60.0


class S3:
    """`with S3(directory) as s3: s3.settings(...)`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        request = urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The store, as proxyd's configuration has it."""
        return f"s3://{BUCKET}/node1"

    @property
    def options(self) -> dict[str, str]:
        """What S3's stores need to be told beside."""
        return {"endpoint": self.endpoint, "region": "us-east-1"}

    def settings(self, directory: Path) -> dict[str, Any]:
        """Give proxyd's settings for this store, the secrets in files of `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        secrets = {}
        for name, value in KEYS.items():
            path = directory / name
            path.write_text(value)
            path.chmod(0o600)
            secrets[name] = f"file:{path}"
        return {"url": self.url, "options": self.options, "secrets": secrets}

    def start(self) -> None:
        """Start the server, empty."""
        argv = [
            sys.executable,
            "-c",
            "from moto.server import main; main()",
            "-H",
            HOST,
            "-p",
            str(self.port),
        ]
        self.process = Process(argv, log=self.directory / "log", cwd=self.directory)
        eventually("moto answers", self._answers, within_s=START_S)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5).close()
        except (URLError, OSError):
            return False
        return True

    def pause(self, stopped: bool) -> None:
        """Stop, or go on, answering; connections are taken and nothing comes."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP if stopped else signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server."""
        if self.process is not None:
            self.process.stop()
