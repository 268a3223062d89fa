"""Who a user is at the RDP front: passwords, codes and tokens; and that the time it takes tells nobody whose name is known."""

from __future__ import annotations

import pyotp
import pytest

from proxyd import access as access_module
from proxyd.access import Access, hash_password
from proxyd.config import load
from proxyd.protocols.rdp.proof import KEYS, Proofs
from proxyd.setup import initialise
from proxyd.tokens import MAX_PER_USER, Tokens
from proxyd.verifiers import nt_hash, nt_key
from tests.peers.daemon import toml

PASSWORD = "correct horse"
SECRET = "KRSXG5CTMVRXEZLUKN2XAZLSKRSXG5CT"


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Access:
    directory = tmp_path_factory.mktemp("proof")
    made = initialise(directory, ssh_port=0, metrics_port=0)
    seed = directory / "seed"
    seed.write_text(SECRET)
    seed.chmod(0o600)
    both = {"password": hash_password(PASSWORD), "nt_hash": nt_hash(PASSWORD)}
    users = {
        "both": both,
        "hash": {"nt_hash": nt_hash(PASSWORD)},
        "clear": {"password": both["password"]},
        "code": both | {"totp": f"file:{seed}"},
        "code-hash": {"nt_hash": nt_hash(PASSWORD), "totp": f"file:{seed}"},
        "key": {"factors": ["publickey"], **both},
    }
    with made.config.open("a") as file:
        file.write(toml({"users": users}))
    return Access(load(made.config))


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
def proofs(access: Access, tokens: Tokens) -> Proofs:
    return Proofs(access, tokens)


async def how(proofs: Proofs, name: str, text: str) -> str | None:
    proof = await proofs.said(name, text)
    return proof and proof.how


async def test_inside_tls(proofs: Proofs) -> None:
    assert await how(proofs, "both", PASSWORD) == "password"
    assert await how(proofs, "hash", PASSWORD) == "password"
    assert await how(proofs, "clear", PASSWORD) == "password"
    for name in ("both", "hash", "clear", "code", "key", "nobody"):
        assert await how(proofs, name, "wrong") is None
    for name in ("code", "code-hash", "key", "nobody"):
        assert await how(proofs, name, PASSWORD) is None
    assert await how(proofs, "code", PASSWORD + "123456") is None
    assert await how(proofs, "code", PASSWORD + pyotp.TOTP(SECRET).now()) == "password+totp"
    assert await how(proofs, "code-hash", PASSWORD + pyotp.TOTP(SECRET).now()) == "password+totp"


@pytest.mark.parametrize(
    ("name", "known"), [("both", True), ("hash", True), ("clear", False), ("code", False), ("key", False)]
)
def test_by_nla_a_password_counts_where_it_is_enough(proofs: Proofs, name: str, known: bool) -> None:
    offered = proofs.network_level(name)
    assert (nt_key(PASSWORD) in offered) == known
    if known:
        assert offered[nt_key(PASSWORD)].how == "nla"


@pytest.mark.parametrize("name", ["both", "clear", "code", "key"])
async def test_a_token_stands_for_every_factor(proofs: Proofs, tokens: Tokens, name: str) -> None:
    text = tokens.issue(name, "desk", proofs.clock(), issuer="ann").text
    assert await how(proofs, name, text) == "token issued by ann"
    offered = proofs.network_level(name)[nt_key(text)]
    assert offered.how == "token issued by ann"
    assert offered.token and offered.token.target == "desk"
    assert await how(proofs, "hash", text) is None
    assert nt_key(text) not in proofs.network_level("hash")
    tokens.revoke(offered.token)
    assert await how(proofs, name, text) is None
    assert nt_key(text) not in proofs.network_level(name)


async def test_a_token_of_a_user_who_is_gone_opens_nothing(proofs: Proofs, tokens: Tokens) -> None:
    text = tokens.issue("nobody", "desk", proofs.clock(), issuer="ann").text
    assert await how(proofs, "nobody", text) is None
    assert nt_key(text) not in proofs.network_level("nobody")


def test_nla_tries_as_many_keys_whoever_it_is(proofs: Proofs, tokens: Tokens) -> None:
    for _ in range(MAX_PER_USER + 3):
        tokens.issue("both", "desk", proofs.clock(), issuer="ann")
    tokens.issue("code", "desk", proofs.clock(), issuer="ann")
    for name in ("both", "code", "hash", "clear", "nobody"):
        assert len(proofs.network_level(name)) == KEYS


async def test_a_wrong_password_costs_one_hash_whoever_it_is(
    proofs: Proofs, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[bytes] = []

    def counted(stored: str, data: bytes) -> bool:
        hashed.append(data)
        return matches(stored, data)

    matches = access_module._matches
    monkeypatch.setattr(access_module, "_matches", counted)
    for name in ("nobody", "hash", "both", "code-hash"):
        hashed.clear()
        assert await proofs.said(name, "a wrong password") is None
        assert len(hashed) == 1, name
