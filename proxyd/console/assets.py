"""What a browser needs beside the pages: scripts and style sheets, held in memory, each under the hash of its content.

Rule 1: only what was built into the package is served; a request names an entry of a table, never a path.
Rule 2: a name with its hash never changes what it holds, so browsers keep it for good.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from proxyd.errors import ConfigError

FOLDER: Final = "static"
TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "txt": "text/plain; charset=utf-8",
                "svg": "image/svg+xml"}  # fmt: skip
KEPT: Final = "public, max-age=31536000, immutable"
HASH_DIGITS: Final = 16
SHARED: Final = "chunk-"  # what several scripts import: esbuild has put a hash into its name already


class Asset(NamedTuple):
    """One file; `address` is its path with its hash."""

    address: str
    kind: str
    data: bytes
    packed: bytes


class Assets:
    """All of them."""

    def __init__(self) -> None:
        """Read what the package holds. Raises ConfigError when it was installed without."""
        self._named: dict[str, Asset] = {}
        try:
            folder = resources.files("proxyd.console") / FOLDER
            files = [file for file in folder.iterdir() if file.name.rpartition(".")[2] in TYPES]
            for file in files:
                self._named[file.name] = _asset(file.name, file.read_bytes())
        except OSError:
            self._named = {}
        if not self._named:
            raise ConfigError(
                "the console's scripts are missing in this installation: install proxyd from its wheel"
            )
        self._addressed = {asset.address: asset for asset in self._named.values()}

    def address(self, name: str) -> str:
        """Give the address of a file by its name; raises KeyError."""
        return self._named[name].address

    async def serve(self, request: Request) -> Response:
        """Answer a request for one."""
        asset = self._addressed.get(request.url.path)
        if asset is None:
            return Response("There is no such file.", 404, media_type="text/plain")
        packed = "gzip" in request.headers.get("accept-encoding", "")
        headers = {"cache-control": KEPT, "vary": "accept-encoding"}
        if packed:
            headers["content-encoding"] = "gzip"
        return Response(asset.packed if packed else asset.data, headers=headers, media_type=asset.kind)


def _asset(name: str, data: bytes) -> Asset:
    stem, _, kind = name.rpartition(".")
    if not name.startswith(SHARED):
        stem = f"{stem}.{hashlib.sha256(data).hexdigest()[:HASH_DIGITS]}"
    return Asset(f"/{FOLDER}/{stem}.{kind}", TYPES[kind], data, gzip.compress(data, 9, mtime=0))
