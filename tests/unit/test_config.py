"""What the configuration refuses, and with which line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd import config
from proxyd.config_reader import _Lines
from proxyd.errors import ConfigError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDnc7DzHVBLN+NySiIAdcHYtO5V5IrfN5sx4MLi6YJP someone"
RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
HASH = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"

BASE = f"""state = "state"
[recording]
directory = "recordings"
recipients = ["{RECIPIENT}"]
signing_key = "signing.pem"
[control]
socket = "control.sock"
"""
BASE_LINES = BASE.count("\n")


@pytest.fixture
def write(tmp_path: Path):
    (tmp_path / "signing.pem").write_text("a key")

    def write(text: str, base: str = BASE) -> Path:
        path = tmp_path / "proxyd.toml"
        path.write_text(base + text)
        return path

    return write


def refusal(path: Path) -> tuple[int | None, str]:
    """The line and the message of the one line `load` says; the line counts from the end of BASE."""
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    text = str(caught.value)
    assert "\n" not in text
    line = caught.value.line
    assert text.startswith(f"{path}:{line}: " if line else f"{path}: ")
    return line, text.split(": ", 1)[1]


def test_defaults_and_derived_places(write, tmp_path: Path) -> None:
    loaded = config.load(write(""))
    assert loaded.path == tmp_path / "proxyd.toml"
    assert (loaded.node, loaded.drain_seconds, loaded.users, loaded.targets, loaded.grants) == (
        "node1",
        30,
        {},
        {},
        [],
    )
    assert loaded.state == tmp_path / "state"
    assert loaded.recording.catalog == f"sqlite:///{tmp_path}/state/catalog.db"
    assert loaded.recording.ledger == tmp_path / "state" / "ledger"
    assert loaded.recording.identity is None
    assert loaded.listen.ssh is None
    assert loaded.admission.penalties.grace_exceeded == 20


def test_everything_typed(write, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("")
    loaded = config.load(
        write(f"""
        [listen.ssh]
        host_keys = ["signing.pem"]
        address = "[::1]:0"
        user_ca = ["file:signing.pem", "{KEY}"]
        [users."anna@corp"]
        password = "{HASH}"
        totp = "file:totp/anna"
        [targets.web1]
        address = "[fe80::1]:2222"
        known_hosts = "hosts"
        accounts = {{ root = {{ key = "file:/keys/root", certificate = "command:vault read x" }} }}
        [[grants]]
        users = ["anna*"]
        targets = ["web1"]
        accounts = ["root"]
        when = ["mon-fri 08:00-18:00", "sat", "22:00-06:00"]
        timezone = "Europe/Berlin"
        expires = 2030-01-01T00:00:00+01:00
        """)
    )
    anna, web1 = loaded.users["anna@corp"], loaded.targets["web1"]
    assert anna.name == "anna@corp"
    assert anna.totp == f"file:{tmp_path}/totp/anna"
    assert anna.chains == (frozenset({"publickey", "totp"}), frozenset({"password", "totp"}))
    assert (web1.name, web1.host, web1.port) == ("web1", "fe80::1", 2222)
    assert web1.accounts["root"].key == "file:/keys/root"
    assert web1.accounts["root"].certificate == "command:vault read x"
    assert loaded.listen.ssh is not None
    assert loaded.listen.ssh.user_ca == [f"file:{tmp_path}/signing.pem", KEY]
    assert loaded.grants[0].expires is not None
    assert loaded.grants[0].channels == ["shell", "exec", "sftp", "clipboard", "clipboard-files", "devices"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param("[user.bob]\n", 1, 'user: unknown key; did you mean "users"?', id="table"),
        pytest.param(
            "[users.bob]\n\nkeyz=[]\n",
            3,
            'users.bob.keyz: unknown key; did you mean "keys"?',
            id="in a table",
        ),
        pytest.param(
            "[users]\nbob.roles=[]\nbob.pasword='x'\n",
            3,
            'users.bob.pasword: unknown key; did you mean "password"?',
            id="dotted",
        ),
        pytest.param(
            "[log]\nzzzzzz=1\n", 2, "log.zzzzzz: unknown key; known here: format, level", id="nothing near"
        ),
        pytest.param(
            '[users."a.b"]\nname = "x"\n',
            2,
            'users."a.b".name: unknown key; known here: password, keys, scram, mysql_native, mariadb_ed25519, nt_hash, totp, roles, email, oidc, factors, source',
            id="derived",
        ),
        pytest.param(
            "[targets.t]\naddress='h:1'\naccounts.a = {key = 'env:K', pass = 1}\n",
            3,
            'targets.t.accounts.a.pass: unknown key; did you mean "password"?',
            id="inline",
        ),
        pytest.param(
            "[[grants]]\ntargets=['*']\naccounts=['*']\nusers=['*']\n[[grants]]\ntargets=['*']\ntarget=1\n",
            7,
            'grants[1].target: unknown key; did you mean "targets"?',
            id="array of tables",
        ),
        pytest.param(
            "[admission.penalties]\nmin=1\n# x = [\n'max'='y'\n",
            4,
            "admission.penalties.max: expected float, got str",
            id="quoted key",
        ),
        pytest.param(
            "[log]\nformat = 'text'\n", 2, 'log.format: "text" is not one of json, console, auto', id="choice"
        ),
        pytest.param("[log]\nlevel = true\n", 2, "log.level: expected str, got bool", id="choice type"),
        pytest.param("[users]\nbob = 3\n", 2, "users.bob: expected a table, got a number", id="no table"),
        pytest.param(
            "users = 3\n", 1, "control.users: unknown key; known here: socket, operators", id="wrong place"
        ),
        pytest.param(
            "[users.bob]\nkeys = [\n  # first\n  '''KEY''',\n  'ssh-rsa AAAA'\n]\n",
            5,
            "users.bob.keys[1]: not a public key line: its data is not that of a ssh-rsa key",
            id="array element",
        ),
        pytest.param(
            '[users.bob]\npassword = """\n hunter2"""\n',
            2,
            'users.bob.password: expected an argon2id hash; make one with "proxyctl users hash-password"',
            id="password",
        ),
        pytest.param(
            "[users.bob]\ntotp = 'JBSWY3DPEHPK3PXP'\n",
            2,
            "users.bob.totp: expected a reference (file:PATH, env:NAME, systemd:NAME or command:ARGV), not the secret itself",
            id="reference",
        ),
        pytest.param(
            "[users.bob]\nfactors = ['publickey', 'publickey+otp']\n",
            2,
            'users.bob.factors[1]: "publickey+otp" is not a chain of',
            id="factor",
        ),
        pytest.param(
            "[users.bob]\nfactors = ['totp']\n",
            2,
            "users.bob.factors[0]: totp is a second factor",
            id="totp alone",
        ),
        pytest.param(
            "[users.bob]\nfactors = ['password']\n",
            2,
            "users.bob.factors: password is asked for, but the user has none",
            id="factor without",
        ),
        pytest.param(
            "[users.bob]\nsource = ['10.0.0.1/8']\n",
            2,
            "users.bob.source[0]: 10.0.0.1/8 has host bits set",
            id="network",
        ),
        pytest.param(
            "[targets.t]\naddress = 'host'\n", 2, 'targets.t.address: expected "host:port"', id="address"
        ),
        pytest.param(
            "[targets.t]\naddress = '::1:22'\n",
            2,
            "targets.t.address: an IPv6 address needs brackets: [::1]:22",
            id="address 6",
        ),
        pytest.param("[targets.t]\ndescription = ''\n", 1, 'targets.t: "address" is missing', id="missing"),
        pytest.param(
            "[targets.t]\naddress='h:1'\n[targets.t.accounts.root]\n",
            3,
            "targets.t.accounts.root: needs a password or a key",
            id="no credential",
        ),
        pytest.param(
            "[targets.t]\naddress='h:1'\nknown_hosts='nowhere'\n",
            3,
            "targets.t.known_hosts: no such file: DIR/nowhere",
            id="missing file",
        ),
        pytest.param(
            "[listen.ssh]\nhost_keys=['signing.pem', 'none']\n",
            2,
            "listen.ssh.host_keys[1]: no such file: DIR/none",
            id="missing file in array",
        ),
        pytest.param(
            "[listen.ssh]\nhost_keys=[]\n", 2, "listen.ssh.host_keys: must not be empty", id="empty"
        ),
        pytest.param(
            "[listen.ssh]\nhost_keys=['signing.pem']\nuser_ca=['file:gone']\n",
            3,
            "listen.ssh.user_ca[0]: no such file: DIR/gone",
            id="missing CA",
        ),
        pytest.param(
            "[admission]\nmax_startups='10:30'\n",
            2,
            'admission.max_startups: expected "start:rate:full", as "10:30:100"',
            id="startups",
        ),
        pytest.param(
            "[admission]\nmax_startups='10:130:100'\n",
            2,
            "admission.max_startups: start must be 1 to full, and rate a percentage",
            id="startups range",
        ),
        pytest.param(
            "[recording.x]\n", 1, "recording.x: unknown key; known here: directory", id="reopened table"
        ),
        pytest.param(
            "[admission]\ngrace_seconds = inf\n",
            2,
            "admission.grace_seconds: expected a finite number",
            id="infinite",
        ),
        pytest.param(
            "[admission]\ngrace_seconds = -1\n",
            2,
            "admission.grace_seconds: expected float > 0.0",
            id="range",
        ),
        pytest.param(
            "[[grants]]\nusers=['bob']\ntargets=['*']\naccounts=['*']\n[users.bobby]\n",
            2,
            'grants[0].users[0]: no such user: "bob"; did you mean "bobby"?',
            id="unknown user",
        ),
        pytest.param(
            "[[grants]]\nusers=['*']\ntargets=['web*',\n'db1']\naccounts=['*']\n",
            4,
            'grants[0].targets[1]: no such target: "db1"',
            id="unknown target",
        ),
        pytest.param(
            "[targets.t]\naddress='h:1'\naccounts.root.key='env:K'\n[[grants]]\nusers=['*']\ntargets=['t']\naccounts=['rot']\n",
            7,
            'grants[0].accounts[0]: no such account of these targets: "rot"; did you mean "root"?',
            id="unknown account",
        ),
        pytest.param(
            "[[grants]]\nusers=['*']\ntargets=[]\naccounts=['*']\n",
            3,
            "grants[0].targets: must not be empty",
            id="no targets",
        ),
        pytest.param(
            "[[grants]]\ntargets=['*']\naccounts=['*']\n",
            1,
            "grants[0]: names no user and no role",
            id="nobody",
        ),
        pytest.param(
            "[[grants]]\nroles=['a']\ntargets=['*']\naccounts=['*']\nchannels=['shell','scp']\n",
            5,
            'grants[0].channels[1]: "scp" is not one of shell, exec',
            id="channel",
        ),
        pytest.param(
            "[[grants]]\nroles=['a']\ntargets=['*']\naccounts=['*']\nwhen=['mon-fry']\n",
            5,
            "grants[0].when[0]: a day is one of mon, tue",
            id="day",
        ),
        pytest.param(
            "[[grants]]\nroles=['a']\ntargets=['*']\naccounts=['*']\nwhen=['mon 8-9']\n",
            5,
            "grants[0].when[0]: expected days and times",
            id="time",
        ),
        pytest.param(
            "[[grants]]\nroles=['a']\ntargets=['*']\naccounts=['*']\nwhen=['mon 08:00-24:30']\n",
            5,
            "grants[0].when[0]: a time is 00:00 to 24:00",
            id="late",
        ),
        pytest.param(
            "[[grants]]\nroles=['a']\ntargets=['*']\naccounts=['*']\ntimezone='Europe/Bern'\n",
            5,
            'grants[0].timezone: no such time zone: "Europe/Bern"',
            id="zone",
        ),
        pytest.param(
            "[[grants]]\nroles=['a']\ntargets=['*']\naccounts=['*']\nexpires=2030-01-01T00:00:00\n",
            5,
            "grants[0].expires: expected datetime with a timezone component",
            id="naive",
        ),
        pytest.param(
            "[[control.operators]]\nname='o'\nroles=['PAM Auditr']\nuid=1\n",
            3,
            'control.operators[0].roles[0]: "PAM Auditr" is not one of PAM Administrator',
            id="role",
        ),
        pytest.param(
            "[[control.roles]]\nname='PAM Auditor'\npermissions=[]\n",
            2,
            'control.roles[0].name: there is a role "PAM Auditor" already',
            id="built-in role",
        ),
        pytest.param(
            "[[control.roles]]\nname='night'\npermissions=['sessions.wach']\n",
            3,
            'control.roles[0].permissions[0]: "sessions.wach" is not one of sessions.list, sessions.watch',
            id="permission",
        ),
        pytest.param(
            "[[control.operators]]\nname='o'\nroles=[]\n",
            1,
            "control.operators[0]: needs a uid or a gid",
            id="operator",
        ),
        pytest.param(
            "[[control.operators]]\nname='o'\nroles=[]\nuid=0\nuser='eve'\n",
            5,
            'control.operators[0].user: no such user: "eve"',
            id="operator user",
        ),
        pytest.param("[users.bob\n", 1, "Expected ']' at the end of a table declaration", id="syntax"),
        pytest.param("[users.bob]\nkeys = [\n", 2, "Invalid value", id="syntax at the end"),
    ],
)
def test_refused_with_the_exact_line(write, tmp_path: Path, text: str, line: int, message: str) -> None:
    found_line, found = refusal(write(text.replace("KEY", KEY)))
    assert found_line == BASE_LINES + line
    assert found.startswith(message.replace("DIR", str(tmp_path)))
    assert "hunter2" not in found
    assert "JBSWY3" not in found


def test_database_urls(write, tmp_path: Path) -> None:
    def catalog(url: str) -> str:
        return config.load(
            write("", base=BASE.replace("[control]", f'catalog = "{url}"\n[control]'))
        ).recording.catalog

    assert catalog("sqlite:///sub/c.db") == f"sqlite:///{tmp_path}/sub/c.db"
    assert catalog("sqlite:////var/c.db") == "sqlite:////var/c.db"
    assert catalog("postgresql://db/c") == "postgresql://db/c"
    assert refusal(write("", base=BASE.replace("[control]", 'catalog = "c.db"\n[control]')))[0] == 6


def test_first_table_refused_at_line_one(write) -> None:
    assert refusal(write("", base="node = 'n'\n")) == (1, '"state" is missing')
    assert refusal(write("", base=BASE.replace("directory", "dir"))) == (
        3,
        'recording.dir: unknown key; did you mean "directory"?',
    )
    line, message = refusal(write("", base=BASE.replace(RECIPIENT, RECIPIENT[:-1])))
    assert (line, message) == (4, 'recording.recipients[0]: expected an age public key, as "age1..."')


def test_unreadable_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml") == (None, "can't be read: No such file or directory")
    assert refusal(tmp_path) == (None, "can't be read: Is a directory")
    (tmp_path / "latin").write_bytes(b'# fine\nnode = "\xff"\n')
    assert refusal(tmp_path / "latin") == (2, "is not UTF-8 text")
    (tmp_path / "deep").write_text("a = " + "[" * 100_000)
    assert refusal(tmp_path / "deep") == (None, "nested too deeply")


def test_a_key_directory_of_others_is_no_error(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", refuse)
    assert config.load(write("")).recording.signing_key == tmp_path / "signing.pem"


@pytest.mark.parametrize(
    ("text", "days", "start", "end"),
    [
        ("mon-fri 08:00-18:00", {0, 1, 2, 3, 4}, 480, 1080),
        ("fri-mon", {4, 5, 6, 0}, 0, 1440),
        ("Sat,Sun 00:00-24:00", {5, 6}, 0, 1440),
        ("22:00-06:30", set(range(7)), 1320, 390),
        ("mon,wed-thu 09:00-10:00", {0, 2, 3}, 540, 600),
    ],
)
def test_windows(text: str, days: set[int], start: int, end: int) -> None:
    assert config.parse_window(text) == (days, start, end)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "mon 8:00-9:00",
        "mon08:00-09:00",
        "08:00-09:60",
        "mon- 08:00-09:00",
        "mon-fri 08:00",
        "٠٨:00-09:00",
    ],
)
def test_windows_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected days|a day is|a time is"):
        config.parse_window(text)


def test_lines_of_every_form_of_toml() -> None:
    text = '''# c = 1
a.b."c.d" = 1
'e' = { f = 1.5, "g" = [1,
  2, {h = """
]"""} ] }
[x]
y = 2020-01-01 07:32:00 # ] }
z = [ [1,2], # [
 [3,
 4]]
[[t]]
n = """a"""""
[[t.u]]
v = ''
[[t.u]]
v = "\\\\"
[t.w.q]
r = -inf
[[t]]
"n" = 'x#'
'''
    found = _Lines(text).found
    assert found[("a", "b", "c.d")] == 2
    assert found[("e", "f")] == found[("e", "g", 0)] == 3
    assert found[("e", "g", 1)] == found[("e", "g", 2, "h")] == 4
    assert (
        found[("x",)],
        found[("x", "y")],
        found[("x", "z", 0, 1)],
        found[("x", "z", 1, 0)],
        found[("x", "z", 1, 1)],
    ) == (6, 7, 8, 9, 10)
    assert (found[("t",)], found[("t", 0, "n")], found[("t", 0, "u", 0, "v")]) == (11, 12, 14)
    assert (found[("t", 0, "u", 1)], found[("t", 0, "u", 1, "v")]) == (15, 16)
    assert (found[("t", 0, "w", "q")], found[("t", 0, "w", "q", "r")], found[("t", 1, "n")]) == (17, 18, 20)


@given(st.text(alphabet="ab.=[]{}\"'\n#,\\ 1-", max_size=40))
def test_any_text_is_refused_or_found(text: str) -> None:
    """Whatever tomllib accepts, the scanner walks through and knows each top-level key."""

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = _Lines(text).found
    for key in table:
        assert (key,) in found


def test_names_of_the_interface() -> None:
    assert config.CHANNELS[:7] == ("shell", "exec", "sftp", "local-forward", "remote-forward", "agent", "x11")
    assert config.CHANNELS[7:] == (
        *("replication", "local-infile"),
        *("clipboard", "clipboard-files", "devices"),
    )
    assert re.fullmatch(r"\d+:\d+:\d+", config.Admission().max_startups)


def test_a_front_goes_to_a_target_of_its_protocol(write, tmp_path: Path) -> None:
    (tmp_path / "tls.pem").write_text("")
    front = '[listen.postgres]\ncertificate = "tls.pem"\nkey = "tls.pem"\ntarget = "shop"\n'
    target = '[targets.shop]\naddress = "shop:5432"\nprotocol = "{}"\n'
    assert config.load(write(front + target.format("postgres"))).listen.postgres is not None
    line, text = refusal(write(front + target.format("mysql")))
    assert (line, text) == (BASE_LINES + 4, 'listen.postgres.target: no such postgres target: "shop"')


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ('name = "x"\naction = "block"', "needs a pattern or kinds"),
        ('name = "x"\naction = "block"\npattern = "("', "not a regular expression"),
        ('name = "x"\naction = "block"\nkinds = ["dropp"]', "dropp"),
    ],
)
def test_rules_that_say_nothing_are_refused(rule: str, wrong: str, write) -> None:
    assert wrong in refusal(write(f"[[rules]]\n{rule}\n"))[1]


def test_rdp_is_never_without_tls_and_somebody_must_get_in(write) -> None:
    target = (
        '[targets.desk]\nprotocol = "rdp"\naddress = "h:3389"\ntls = "off"\naccounts.a.password = "env:P"\n'
    )
    _, text = refusal(write(target))
    assert text == "targets.desk.tls: is off, and RDP is never used without TLS"
    write("").with_name("tls.pem").touch()
    front = '[listen.rdp]\ncertificate = "tls.pem"\nkey = "tls.pem"\nnla = false\ndeferred = false\n'
    _, text = refusal(write(front))
    assert text == "listen.rdp.deferred: nla or deferred must be true: nobody could log in"


def test_colours_are_for_bitmaps_only(write) -> None:
    desk = '[targets.desk]\nprotocol = "rdp"\naddress = "h:3389"\ncolour_depth = 16\naccounts.a.password = "env:P"\n'
    assert config.load(write(desk)).targets["desk"].colour_depth == 16
    _, text = refusal(write(desk.replace("16", "24")))
    assert text == "targets.desk.colour_depth: 24 is not one of 32, 16"
    _, text = refusal(write(desk.replace("colour", 'graphics = "noavc"\ncolour')))
    assert text == 'targets.desk.colour_depth: is for graphics = "bitmap" only: all others have 32 bits'


def test_an_nt_hash_is_one(write) -> None:
    good = "$NT$8846f7eaee8fb117ad06bdd830b7586c"
    assert config.load(write(f'[users.ann]\nnt_hash = "{good}"\n')).users["ann"].nt_hash == good
    _, text = refusal(write(f'[users.ann]\nnt_hash = "{good.upper()}"\n'))
    assert text.startswith("users.ann.nt_hash: expected an NT hash")
    assert good[5:].upper() not in text


def test_a_pinned_certificate_is_its_sha_256(write) -> None:
    target = '[targets.desk]\nprotocol = "rdp"\naddress = "h:3389"\naccounts.a.password = "env:P"\n'
    pins = f'tls_pins = ["{"AB:" * 31}AB", "{"cd" * 32}"]\n'
    (desk,) = config.load(write(target.replace("accounts", pins + "accounts"))).targets.values()
    assert desk.tls_pins == ["ab" * 32, "cd" * 32]
    for wrong in ("ab" * 31, "xy" * 32, "ab" * 20):
        _, text = refusal(write(target.replace("accounts", f'tls_pins = ["{wrong}"]\naccounts')))
        assert text.startswith("targets.desk.tls_pins[0]: expected the SHA-256 of a certificate")
    off = target.replace("rdp", "mysql").replace("accounts", f'tls = "off"\n{pins}accounts')
    _, text = refusal(write(off))
    assert text == "targets.desk.tls_pins: are of certificates, and its tls is off"


def test_what_rdp_files_call_the_proxy_is_an_address(write) -> None:
    write("").with_name("tls.pem").touch()
    front = '[listen.rdp]\ncertificate = "tls.pem"\nkey = "tls.pem"\n'
    assert config.load(write(front)).listen.rdp.public == ""
    named = config.load(write(front + 'public = "proxy.example:3389"\n'))
    assert named.listen.rdp.public == "proxy.example:3389"
    _, text = refusal(write(front + 'public = "proxy.example"\n'))
    assert text == 'listen.rdp.public: expected "host:port"'


def test_what_crosses_beside_a_desktop(write) -> None:
    target = '[targets.desk]\naddress = "desk:3389"\nprotocol = "rdp"\n'
    desk = config.load(write(target)).targets["desk"]
    for way in (desk.clipboard.to_target, desk.clipboard.to_client):
        assert (way.text, way.files, way.other) == ("log", "deny", "log")
    assert desk.devices == config.Devices(drives="deny", printers="deny", smartcards="deny", ports="deny")
    more = target + 'static_channels = ["MyApp"]\nclipboard.to_client.text = "deny"\ndevices.drives = "log"\n'
    desk = config.load(write(more)).targets["desk"]
    assert (desk.clipboard.to_client.text, desk.clipboard.to_target.text) == ("deny", "log")
    assert (desk.devices.drives, desk.static_channels) == ("log", ["myapp"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('static_channels = ["CLIPRDR"]', "static_channels[0]: cliprdr is not named here: see clipboard"),
        (
            'static_channels = ["too-long"]',
            "static_channels[0]: expected the name of a static virtual channel",
        ),
        ('devices.drives = "yes"', 'devices.drives: "yes" is not one of allow, log, deny'),
        ('clipboard.to_target.text = "block"', 'clipboard.to_target.text: "block" is not one of'),
    ],
)
def test_what_crosses_beside_a_desktop_is_refused(write, setting: str, message: str) -> None:
    line, text = refusal(write(f'[targets.desk]\naddress = "desk:3389"\nprotocol = "rdp"\n{setting}\n'))
    assert line == BASE_LINES + 4
    assert f"targets.desk.{message}" in text
