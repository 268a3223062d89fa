"""Logins, factors, grants: who gets in, where to, and what everybody else is told."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import argon2
import pyotp
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from proxyd import access, config
from proxyd.access import Access, Wanted, closing, parse_username
from proxyd.config import Account, Config, Control, Grant, Listen, Recording, SshListen, Target, User
from proxyd.errors import ConfigError, Denied

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDnc7DzHVBLN+NySiIAdcHYtO5V5IrfN5sx4MLi6YJP anna@laptop"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUMHGtuhsUTzNqyYWvbVkQfCcEKuRBEEsYfnWYvcC0k ca"
HASH = access.hash_password("correct horse")
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC).timestamp()  # a Wednesday
ROOT = {"root": Account(key="env:K")}
DEFAULT = {"shell", "exec", "sftp", "clipboard", "clipboard-files", "devices"}  # of a grant that names none
FROM = "192.0.2.7"


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(
    *,
    users: dict[str, User] | None = None,
    targets: dict[str, Target] | None = None,
    grants: tuple[Grant, ...] = (),
    user_ca: tuple[str, ...] = (),
    clock: Clock | None = None,
) -> Access:
    return Access(settings(users or {}, targets or {}, grants, user_ca), clock or Clock())


def settings(
    users: dict[str, User],
    targets: dict[str, Target],
    grants: tuple[Grant, ...] = (),
    user_ca: tuple[str, ...] = (),
) -> Config:
    return Config(
        state=Path("/s"),
        recording=Recording(directory=Path("/r"), recipients=["age1"], signing_key=Path("/k")),
        control=Control(socket=Path("/c")),
        listen=Listen(ssh=SshListen(host_keys=[Path("/h")], user_ca=list(user_ca))),
        users={name: config.msgspec.structs.replace(user, name=name) for name, user in users.items()},
        targets={name: config.msgspec.structs.replace(target, name=name) for name, target in targets.items()},
        grants=list(grants),
    )


def everything(**more: object) -> Grant:
    return Grant(**{"users": ["*"], "targets": ["*"], "accounts": ["*"]} | more)


# -- proving who it is


async def test_password() -> None:
    known = make(users={"anna": User(password=HASH), "keys": User(keys=[KEY])})
    assert await known.verify_password("anna", "correct horse")
    assert not await known.verify_password("anna", "correct horse ")
    assert not await known.verify_password("anna", "")
    assert not await known.verify_password("keys", "correct horse")
    assert not await known.verify_password("nobody", "correct horse")
    assert not await known.verify_password("anna", "\udcff\0")
    assert not await known.verify_password("anna", "x" * 5000)


def test_the_hash_of_nobody_has_the_default_profile() -> None:
    assert argon2.extract_parameters(access.NOBODY) == argon2.extract_parameters(HASH)
    assert argon2.extract_parameters(access.NOBODY).type is argon2.Type.ID


async def test_unknown_users_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hash of the same profile each; an end-to-end test looks at the clock."""
    known = make(users={"anna": User(password=HASH), "keys": User(keys=[KEY])})
    checked: list[str] = []
    matches = access._matches

    def counted(stored: str, password: bytes) -> bool:
        checked.append(stored)
        return matches(stored, password)

    monkeypatch.setattr(access, "_matches", counted)
    for name in ("anna", "keys", "nobody"):
        assert not await known.verify_password(name, "wrong")
    assert checked == [HASH, access.NOBODY, access.NOBODY]


async def test_password_checks_are_bounded_and_off_the_loop() -> None:
    known = make(users={"anna": User(password=HASH)})
    limiter = known._checks
    assert limiter.total_tokens == access.PASSWORD_CHECKS == 2
    most = 0.0
    results = []

    async def check() -> None:
        results.append(await known.verify_password("anna", "correct horse"))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(check)
        while len(results) < 6:  # the loop goes on turning meanwhile
            most = max(most, limiter.borrowed_tokens)
            await trio.lowlevel.checkpoint()
    assert results == [True] * 6
    assert most == 2


async def test_a_cancelled_check_does_not_hold_the_login() -> None:
    known = make(users={"anna": User(password=HASH)})
    with trio.move_on_after(0) as scope:
        await known.verify_password("anna", "correct horse")
    assert scope.cancelled_caught
    assert await known.verify_password("anna", "correct horse")


def test_keys() -> None:
    known = make(users={"anna": User(keys=[KEY]), "bert": User(keys=[OTHER_KEY])})
    data = config.key_data(KEY)
    assert known.key_allowed("anna", data)
    assert not known.key_allowed("bert", data)
    assert not known.key_allowed("nobody", data)
    assert not known.key_allowed("anna", data + b"\0")


def test_user_ca_inline_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pub").write_text(f"# ours\n\n{OTHER_KEY}\n")
    assert make(user_ca=(KEY, f"file:{tmp_path}/ca.pub")).user_ca() == (KEY, OTHER_KEY)
    (tmp_path / "ca.pub").write_text(f"{KEY}\nssh-ed25519 AAAA\n")
    with pytest.raises(ConfigError, match=r"ca\.pub:2: not a public key line"):
        make(user_ca=(f"file:{tmp_path}/ca.pub",))
    with pytest.raises(ConfigError, match=r"none: can't be read"):
        make(user_ca=(f"file:{tmp_path}/none",))


@pytest.mark.parametrize(
    ("user", "done", "missing"),
    [
        (User(), set(), {"publickey", "password"}),
        (User(), {"publickey"}, set()),
        (User(), {"certificate"}, set()),
        (User(), {"password"}, set()),
        (User(totp="env:T"), set(), {"publickey", "password"}),
        (User(totp="env:T"), {"certificate"}, {"totp"}),
        (User(totp="env:T"), {"password", "totp"}, set()),
        (User(totp="env:T"), {"totp"}, {"publickey", "password"}),
        (User(totp="env:T", factors=["publickey+totp"]), set(), {"publickey"}),
        (User(totp="env:T", factors=["publickey+totp"]), {"password"}, {"publickey"}),
        (User(totp="env:T", factors=["publickey+totp"]), {"publickey"}, {"totp"}),
        (User(factors=["publickey+password"], password=HASH), {"publickey"}, {"password"}),
        (User(factors=["publickey+password"], password=HASH), {"publickey", "password"}, set()),
    ],
)
def test_missing_factors(user: User, done: set[str], missing: set[str]) -> None:
    assert make(users={"anna": user}).missing("anna", frozenset(done)) == missing


def test_nothing_logs_an_unknown_user_in() -> None:
    assert make().missing("nobody", frozenset()) == {"publickey", "password"}
    for done in ({"publickey"}, {"certificate"}, {"password", "totp", "publickey"}):
        assert make().missing("nobody", frozenset(done)) is None


# -- one-time codes

SEED = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # RFC 6238 appendix B


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> tuple[Access, Clock]:
    monkeypatch.setenv("SEED", SEED)
    monkeypatch.setenv("BROKEN", "1!")
    clock = Clock(59)
    users = {
        "anna": User(totp="env:SEED"),
        "bert": User(totp="env:SEED"),
        "carl": User(totp="env:GONE"),
        "dora": User(totp="env:BROKEN"),
        "emil": User(),
    }
    return make(users=users, clock=clock), clock


@pytest.mark.parametrize(
    ("now", "code"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")]
)
async def test_totp_as_in_the_rfc(seeded: tuple[Access, Clock], now: int, code: str) -> None:
    known, clock = seeded
    clock.now = now
    assert await known.verify_totp("anna", code)


async def test_a_code_is_good_once_and_across_reloads(seeded: tuple[Access, Clock]) -> None:
    known, _ = seeded
    assert await known.verify_totp("anna", "287 082")
    assert not await known.verify_totp("anna", "287082")
    renewed = known.renewed(settings({"anna": User(totp="env:SEED")}, {}))
    assert not await renewed.verify_totp("anna", "287082")
    assert renewed.user("bert") is None
    assert await known.verify_totp("bert", "287082")


async def test_two_at_once_use_a_code_once(seeded: tuple[Access, Clock]) -> None:
    known, _ = seeded
    results = []

    async def check() -> None:
        results.append(await known.verify_totp("anna", "287082"))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(check)
    assert results.count(True) == 1


async def test_one_step_either_way_and_never_backwards(seeded: tuple[Access, Clock]) -> None:
    known, clock = seeded
    device = pyotp.TOTP(SEED)
    clock.now = 1000 * access.TOTP_STEP_SECONDS
    for steps, good in ((-2, False), (2, False), (-1, True), (-1, False), (1, True), (0, False)):
        assert await known.verify_totp("anna", device.generate_otp(1000 + steps)) is good


async def test_codes_that_are_none(seeded: tuple[Access, Clock]) -> None:
    known, _ = seeded
    for code in ("", "0", "287082x", "٢٨٧٠٨٢", "28708", "2870820"):
        assert not await known.verify_totp("anna", code)
    for name in ("carl", "dora", "emil", "nobody"):
        assert not await known.verify_totp(name, "287082")


async def test_guessing_is_stopped_for_a_while(seeded: tuple[Access, Clock]) -> None:
    known, clock = seeded
    for _ in range(access.MAX_WRONG_CODES):
        assert not await known.verify_totp("anna", "000000")
    assert not await known.verify_totp("anna", "287082")
    assert await known.verify_totp("bert", "287082")
    clock.now += access.WRONG_CODES_SECONDS
    assert await known.verify_totp("anna", pyotp.TOTP(SEED).generate_otp(int(clock.now) // 30))


# -- what they may reach


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("web1", "web1"),
        ("WEB1", "web1"),
        ("web1:22", "web1"),
        ("web1:2022", "web1"),
        ("Web1.Example.", "web1"),
        ("web1.example:2022", "web1"),
        ("web1.example:22", "web1"),
        ("10.0.0.5", "db1"),
        ("10.0.0.5:22", "db1"),
        ("[fd00:0::1]:22", "six"),
        ("fd00::1", "six"),
        ("web1:23", None),
        ("10.0.0.5:2022", None),
        ("web", None),
        ("", None),
    ],
)
def test_a_target_by_name_then_by_address(asked: str, found: str | None) -> None:
    targets = {
        "web1": Target(address="web1.example:2022", accounts=ROOT),
        "db1": Target(address="10.0.0.5:22", accounts=ROOT),
        "six": Target(address="[fd00::1]:22", accounts=ROOT),
        "10.0.0.5:23": Target(address="db1:22", accounts=ROOT),
    }
    known = make(users={"anna": User()}, targets=targets, grants=(everything(),))
    if found is None:
        with pytest.raises(Denied):
            known.authorize("anna", "root", asked, FROM)
    else:
        assert known.authorize("anna", "root", asked, FROM).target.name == found


def two_logins(*grants: Grant, **user: object) -> Access:
    accounts = {"root": Account(key="env:K"), "deploy": Account(key="env:K")}
    return make(
        users={"anna": User(**user)},
        targets={"web1": Target(address="web1:22", accounts=accounts)},
        grants=grants,
    )


def test_the_only_login_is_implied() -> None:
    permit = two_logins(everything(accounts=["deploy"])).authorize("anna", None, "web1", FROM)
    assert (permit.user, permit.target.name, permit.account, permit.expires) == (
        "anna",
        "web1",
        "deploy",
        None,
    )
    assert permit.channels == DEFAULT


@pytest.mark.parametrize(
    ("grants", "login", "target", "told"),
    [
        ((), None, None, "No target was named; log in as USER+TARGET or USER+LOGIN+TARGET."),
        ((), "root", "web1", "You may not reach web1 as root; ask for a grant."),
        ((), "root", "web9", "You may not reach web9 as root; ask for a grant."),
        ((), None, "web1", "You may not reach web1; ask for a grant."),
        ((everything(users=["bert"]),), "root", "web1", "You may not reach web1 as root; ask for a grant."),
        ((everything(targets=["db*"]),), "root", "web1", "You may not reach web1 as root; ask for a grant."),
        (
            (everything(),),
            None,
            "web1",
            "You may reach web1 as deploy, root; name one of these, as in USER+LOGIN+web1.",
        ),
        (
            (everything(accounts=["deploy"]),),
            "root",
            "web1",
            "You may not reach web1 as root, only as deploy; name such a login or ask for a grant.",
        ),
        (
            (everything(when=["sat,sun"], timezone="Europe/Rome"),),
            "root",
            "web1",
            "You may reach web1 as root only at these times: sat,sun Europe/Rome; come back then.",
        ),
        (
            (everything(expires=datetime(2026, 1, 1, tzinfo=UTC)),),
            "root",
            "web1",
            "Your grant to reach web1 as root ended on 2026-01-01 00:00 UTC; ask for a new one.",
        ),
        (
            (),
            "ro\x1b[2Jot",
            "web\n1" + "x" * 100,
            "You may not reach web?1" + "x" * 59 + " as ro?[2Jot; ask for a grant.",
        ),
    ],
)
def test_refusals(grants: tuple[Grant, ...], login: str | None, target: str | None, told: str) -> None:
    with pytest.raises(Denied) as caught:
        two_logins(*grants).authorize("anna", login, target, FROM)
    assert str(caught.value) == told


def test_an_unknown_user_is_told_the_same() -> None:
    with pytest.raises(Denied, match=r"^You may not reach web1 as root; ask for a grant\.$"):
        two_logins(everything()).authorize("nobody", "root", "web1", FROM)


def test_several_targets_at_one_address() -> None:
    targets = {name: Target(address="10.0.0.5:22", accounts=ROOT) for name in ("a", "b")}
    known = make(users={"anna": User()}, targets=targets, grants=(everything(),))
    with pytest.raises(
        Denied, match=r"^10\.0\.0\.5 as root is the address of several targets: a, b; name one"
    ):
        known.authorize("anna", "root", "10.0.0.5", FROM)
    assert known.authorize("anna", "root", "b", FROM).target.name == "b"
    only_a = make(users={"anna": User()}, targets=targets, grants=(everything(targets=["a"]),))
    assert only_a.authorize("anna", None, "10.0.0.5", FROM).target.name == "a"


def test_grants_by_role_and_glob() -> None:
    grant = Grant(roles=["ops"], targets=["web[0-9]"], accounts=["d*"])
    assert two_logins(grant, roles=["ops"]).authorize("anna", None, "web1", FROM).account == "deploy"
    with pytest.raises(Denied):
        two_logins(grant, roles=["dev"]).authorize("anna", None, "web1", FROM)


@pytest.mark.parametrize(
    ("source", "ip", "allowed"),
    [
        (["192.0.2.0/24"], "192.0.2.7", True),
        (["192.0.2.0/24"], "::ffff:192.0.2.7", True),
        (["192.0.2.0/24"], "192.0.3.7", False),
        (["192.0.2.0/24", "fd00::/8"], "fd12::1", True),
        (["192.0.2.0/24"], "", False),
        ([], "", True),
    ],
)
def test_source_addresses(source: list[str], ip: str, *, allowed: bool) -> None:
    known = two_logins(everything(accounts=["root"]), source=source)
    assert [permit.account for permit in known.reachable("anna", ip)] == (["root"] if allowed else [])
    if allowed:
        assert known.authorize("anna", None, "web1", ip).account == "root"
    else:
        with pytest.raises(Denied, match=r"You may not log in from .*; connect from"):
            known.authorize("anna", None, "web1", ip)


def test_the_menu() -> None:
    targets = {
        name: Target(address=f"{name}:22", accounts=ROOT | {"app": Account(password="env:P")})
        for name in ("web2", "web1", "db1")
    }
    grants = (
        everything(targets=["web*"], accounts=["root"]),
        everything(targets=["db1"], when=["sun"]),
        everything(targets=["web1"], accounts=["app"]),
    )
    known = make(users={"anna": User()}, targets=targets, grants=grants)
    assert [(p.target.name, p.account) for p in known.reachable("anna", FROM)] == [
        ("web1", "app"),
        ("web1", "root"),
        ("web2", "root"),
    ]
    assert known.reachable("nobody", FROM) == []


def test_channels_join_and_the_shortest_needed_grant_ends_the_permit() -> None:
    till_two = everything(accounts=["root"], channels=["agent"], when=["wed 08:00-14:00"])
    till_one = everything(accounts=["root"], channels=["shell"], when=["wed 08:00-13:00"])
    always = everything(accounts=["root"])
    permit = two_logins(till_one, always).authorize("anna", "root", "web1", FROM)
    assert (permit.channels, permit.expires) == (DEFAULT, None)
    permit = two_logins(till_one, always, till_two).authorize("anna", "root", "web1", FROM)
    assert (permit.channels, permit.expires) == (DEFAULT | {"agent"}, NOON + 2 * 3600)
    ends = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
    assert (
        two_logins(everything(accounts=["root"], expires=ends))
        .authorize("anna", "root", "web1", FROM)
        .expires
        == ends.timestamp()
    )


# -- time windows

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("windows", "at", "closes"),
    [
        (["mon-fri 08:00-18:00"], "2026-03-04 08:00", "2026-03-04 18:00"),
        (["mon-fri 08:00-18:00"], "2026-03-04 07:59", None),
        (["mon-fri 08:00-18:00"], "2026-03-04 18:00", None),
        (["mon-fri 08:00-18:00"], "2026-03-07 12:00", None),
        (["fri 22:00-06:00"], "2026-03-06 23:00", "2026-03-07 06:00"),
        (["fri 22:00-06:00"], "2026-03-07 05:59", "2026-03-07 06:00"),
        (["fri 22:00-06:00"], "2026-03-06 05:00", None),
        (["fri-mon"], "2026-03-08 00:00", "2026-03-10 00:00"),
        (["mon-sun"], "2026-03-08 00:00", "never"),
        (["00:00-24:00"], "2026-03-08 00:00", "never"),
        (["wed 08:00-12:00", "wed 12:00-14:00", "wed 13:00-16:00"], "2026-03-04 09:00", "2026-03-04 16:00"),
        (["00:00-00:00"], "2026-03-08 10:00", "never"),
        (["sun 01:00-04:00"], "2026-03-29 01:30", "2026-03-29 04:00"),  # 02:00-03:00 does not exist
        (["sun 01:00-04:00"], "2026-10-25 01:30", "2026-10-25 04:00"),  # 02:00-03:00 comes twice
    ],
)
def test_when_windows_close(windows: list[str], at: str, closes: str | None) -> None:
    now = datetime.fromisoformat(at).replace(tzinfo=BERLIN).timestamp()
    found = closing([config.parse_window(text) for text in windows], BERLIN, now)
    expected = {None: now, "never": float("inf")}.get(closes) or datetime.fromisoformat(closes or "").replace(
        tzinfo=BERLIN
    ).timestamp()
    assert found == expected


@given(
    st.integers(0, 2**32),
    st.lists(
        st.sampled_from(["mon 10:00-11:00", "22:00-03:00", "sat,sun", "tue-thu 08:00-18:30", "02:00-03:00"]),
        min_size=1,
    ),
)
def test_open_until_it_closes(now: int, windows: list[str]) -> None:
    parsed = [config.parse_window(text) for text in windows]
    closes = closing(parsed, BERLIN, now)
    assert closes >= now
    if closes != float("inf"):
        assert closing(parsed, BERLIN, closes) == closes


# -- user names


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("anna", Wanted("anna")),
        ("anna+web1", Wanted("anna", None, "web1")),
        ("anna+root+web1", Wanted("anna", "root", "web1")),
        ("anna@root@web1", Wanted("anna", "root", "web1")),
        ("anna%root%web1", Wanted("anna", "root", "web1")),
        ("anna++web1", Wanted("anna", None, "web1")),
        ("anna+", Wanted("anna")),
        ("anna+CORP\\svc@corp.example+web1", Wanted("anna", "CORP\\svc@corp.example", "web1")),
        ("anna+10.0.0.5:22", Wanted("anna", None, "10.0.0.5:22")),
        ("bert@corp.example", Wanted("bert@corp.example")),
        ("bert@corp.example+web1", Wanted("bert@corp.example", None, "web1")),
        ("bert@corp.example@web1", Wanted("bert@corp.example", None, "web1")),
        ("bert@corp.example@root@web1", Wanted("bert@corp.example", "root", "web1")),
        ("bert@corp.example+root+web1", Wanted("bert@corp.example", "root", "web1")),
        ("carl+tag@corp.example", Wanted("carl+tag@corp.example")),
        ("carl+tag@corp.example+web1", Wanted("carl+tag@corp.example", None, "web1")),
        ("carl+tag@corp.example@root@web1", Wanted("carl+tag@corp.example", "root", "web1")),
        ("dora+root+web1", Wanted("dora", "root", "web1")),
        ("eve", Wanted("eve")),
        ("eve+web1", Wanted("eve", None, "web1")),
        ("x+y+z+w", Wanted("x+y", "z", "w")),
        ("", Wanted("")),
        ("+", Wanted("")),
    ],
)
def test_user_names(text: str, wanted: Wanted) -> None:
    known = {"anna", "bert@corp.example", "carl+tag@corp.example", "dora", "dora+root"}
    assert parse_username(text, known) == wanted
    assert make(users={name: User() for name in known}).parse_username(text) == wanted


@given(st.text(alphabet="ab+%@ ", max_size=12), st.sets(st.text(alphabet="ab+%@", max_size=5), max_size=4))
def test_no_user_name_is_read_as_somebody_it_does_not_begin_with(text: str, known: set[str]) -> None:
    wanted = parse_username(text, known)
    assert text.startswith(wanted.user)
    if text in known:
        assert wanted == Wanted(text)
