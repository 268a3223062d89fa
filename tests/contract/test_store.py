"""The store of recordings elsewhere keeps its promises in a directory, on S3 and on Azure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from proxyd.recorder.remote import Object, Remote, StoreError
from tests.peers import s3
from tests.peers.azure import Azure, installed
from tests.peers.endpoint import HOST
from tests.peers.nodejs import NotInstalled
from tests.peers.process import free_port
from tests.peers.s3 import KEYS, S3

_prefixes = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    if not s3.INSTALLED:
        pytest.skip("moto is not installed")
    with S3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    try:
        installed()
    except NotInstalled as missing:
        pytest.skip(str(missing))
    with Azure(tmp_path_factory.mktemp("azure")) as running:
        yield running


@pytest.fixture(params=["directory", "s3", pytest.param("azure", marks=pytest.mark.slow)])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    if request.param == "directory":
        return Remote(f"file://{tmp_path}/store", {})
    if request.param == "azure":
        there: Azure = request.getfixturevalue("azure")
        return Remote(f"{there.url}/{next(_prefixes)}", there.options)
    server: S3 = request.getfixturevalue("server")
    return Remote(f"{server.url}/{next(_prefixes)}", server.options | KEYS)


def made(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "000000.pxr"
    path.write_bytes(content)
    return path


def test_an_object_is_there_whole(remote: Remote, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000
    assert remote.put("2026/11/22/abc/000000.pxr", made(tmp_path, content)) == len(content)
    assert b"".join(remote.read("2026/11/22/abc/000000.pxr")) == content
    assert b"".join(remote.read("2026/11/22/abc/000000.pxr", 1000, 300)) == content[1000:1300]
    assert list(remote.objects()) == [Object("2026/11/22/abc/000000.pxr", len(content))]


def test_an_object_is_never_written_over(remote: Remote, tmp_path: Path) -> None:
    remote.put("a/b", made(tmp_path, b"first"))
    assert remote.put("a/b", made(tmp_path, b"first")) == 5, "the same again, as after a crash"
    with pytest.raises(StoreError, match="with other bytes"):
        remote.put("a/b", made(tmp_path, b"other"))
    assert b"".join(remote.read("a/b")) == b"first"


def test_delete_takes_one_prefix_alone(remote: Remote, tmp_path: Path) -> None:
    for key in ("d/abc/1", "d/abc/2", "d/abcd/1"):
        remote.put(key, made(tmp_path, b"x"))
    assert remote.delete("d/abc") == 2
    assert [found.key for found in remote.objects()] == ["d/abcd/1"]
    assert remote.delete("d/abc") == 0
    with pytest.raises(StoreError, match="can't be read"):
        list(remote.read("d/abc/1"))


@pytest.mark.parametrize("url", ["s3://", "nonsense://x", "s3://bucket/x?y"])
def test_a_store_that_is_of_no_use_is_one_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="store"):
        Remote(url, {"endpoint": f"http://{HOST}:{free_port()}"} | KEYS).put("a", made(tmp_path, b"x"))


def test_secrets_stay_out_of_what_goes_wrong(server: S3, tmp_path: Path) -> None:
    elsewhere = Remote("s3://no-such-bucket/x", server.options | KEYS)
    with pytest.raises(StoreError) as refused:
        elsewhere.put("a", made(tmp_path, b"x"))
    assert KEYS["secret_access_key"] not in str(refused.value)
    assert "\n" not in str(refused.value)
