"""The configuration: one TOML file read into frozen structs, or refused in one line that names file and line.

Rule 1: what `load` returns is usable: every key known, every type right, every reference leads somewhere.
Rule 2: an error is one line, `PATH:LINE: key: what is wrong`; the values of secrets are never in it.
Rule 3: relative paths, also those in `file:` references, are relative to the configuration file's directory.
Rule 4: a file that exists but can't be looked at is no error: `proxyctl` reads the same configuration
    as an operator who may not enter the key directory.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from proxyd.config_reader import DERIVED, Reader, Where, suggestion
from proxyd.config_values import (
    CHANNELS,
    DAY_MINUTES,
    OPERATOR_ROLES,
    Address,
    CertificatePin,
    Chain,
    Channel,
    Count,
    Database,
    EmailAddress,
    EventName,
    Existing,
    Issuer,
    KeyLine,
    Located,
    MariadbEd25519,
    MaxStartups,
    MysqlNative,
    Network,
    NtHash,
    PasswordHash,
    Penalty,
    PermissionName,
    PublicAddress,
    Recipient,
    Reference,
    Regex,
    ScramVerifier,
    SearchSource,
    Seconds,
    StatementKind,
    StaticChannel,
    Text,
    TimeZone,
    UserCa,
    When,
    Window,
    is_glob,
    key_data,
    parse_startups,
    parse_window,
    split_address,
)
from proxyd.decoders import Graphics
from proxyd.errors import ConfigError
from proxyd.search import SOURCES

__all__ = [
    "CHANNELS",
    "DAY_MINUTES",
    "DERIVED",
    "OPERATOR_ROLES",
    "Account",
    "Admission",
    "Clipboard",
    "ClipboardWay",
    "Config",
    "Console",
    "Control",
    "DatabaseListen",
    "Devices",
    "Export",
    "Grant",
    "Listen",
    "Log",
    "Mail",
    "MetricsListen",
    "MysqlListen",
    "Notify",
    "Oidc",
    "Operator",
    "Penalties",
    "PostgresListen",
    "RdpListen",
    "Recording",
    "Review",
    "Role",
    "Rule",
    "Search",
    "SelfService",
    "SshListen",
    "Target",
    "TlsListen",
    "User",
    "Webhook",
    "Window",
    "is_glob",
    "key_data",
    "load",
    "parse_startups",
    "parse_window",
    "split_address",
]

LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_CONFIG_BYTES: Final = 16 << 20  # thousands of targets fit; a wrong path to a disk image does not


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the file."""


class Log(_Section, frozen=True, kw_only=True):
    """How events are written; `auto`: console on a terminal, JSON otherwise."""

    format: Literal["json", "console", "auto"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class SshListen(_Section, frozen=True, kw_only=True):
    """The SSH front. `host_ca`: private key of the CA that signs host keys for `ssh -J`; `public`: see TlsListen."""

    host_keys: Annotated[list[Existing], msgspec.Meta(min_length=1)]
    address: Address = "127.0.0.1:2222"
    public: PublicAddress = ""
    host_ca: Existing | None = None
    user_ca: list[UserCa] = []
    banner: str = ""
    rekey_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 1 << 30  # RFC 4253 9: a gigabyte
    rekey_seconds: Seconds = 3600  # RFC 4253 9: an hour
    keepalive_seconds: Seconds = 30  # below the idle limits of common NAT and load balancers
    chacha: bool = False  # costs twice AES-GCM here, and OpenSSH picks it whenever offered


class TlsListen(_Section, frozen=True, kw_only=True):
    """A front with TLS: `certificate`, `key`, PEM. `target`: where all who come here go; else users name one.

    `public`: the "host:port" users are told; empty: `address`, or this machine's name where that is every address.
    """

    address: Address
    certificate: Existing
    key: Existing
    target: str = ""
    public: PublicAddress = ""


class DatabaseListen(TlsListen, frozen=True, kw_only=True):
    """A database front."""

    client_ca: Existing | None = None  # a certificate of it logs in the user that its common name names
    tls: Literal["require", "prefer"] = "require"


class PostgresListen(DatabaseListen, frozen=True, kw_only=True):
    """The PostgreSQL front."""

    address: Address = "127.0.0.1:5432"


class MysqlListen(DatabaseListen, frozen=True, kw_only=True):
    """The MySQL and MariaDB front. `version`: what the greeting says; empty: what the first of its targets said last."""

    address: Address = "127.0.0.1:3306"
    version: str = ""


class RdpListen(TlsListen, frozen=True, kw_only=True):
    """The RDP front. `nla`: users with an `nt_hash` prove their password before anything else is said (CredSSP).

    `deferred`: clients without it send the password inside TLS, where every kind of user can be checked. `login_screen`:
    who of those sends none is asked for it on a screen proxyd draws, and for a one-time code; who names no target is
    shown a list. `public` is what .rdp files name.
    """

    address: Address = "127.0.0.1:3389"
    nla: bool = True
    deferred: bool = True
    login_screen: bool = True


class MetricsListen(_Section, frozen=True, kw_only=True):
    """Where Prometheus scrapes."""

    address: Address = "127.0.0.1:9322"


class Listen(_Section, frozen=True, kw_only=True):
    """The listeners; one left out is not opened."""

    ssh: SshListen | None = None
    postgres: PostgresListen | None = None
    mysql: MysqlListen | None = None
    rdp: RdpListen | None = None
    metrics: MetricsListen | None = None


class Penalties(_Section, frozen=True, kw_only=True):
    """OpenSSH's PerSourcePenalties, in seconds; 0 switches one off. `invalid`: broke the protocol."""

    authfail: Penalty = 5
    invalid: Penalty = 5
    noauth: Penalty = 1
    grace_exceeded: Penalty = 20
    refuseconnection: Penalty = 10
    max: Penalty = 600
    min: Penalty = 15
    max_sources4: Count = 65536
    max_sources6: Count = 65536
    overflow: Literal["permissive", "deny-all"] = "permissive"


class Admission(_Section, frozen=True, kw_only=True):
    """Limits before login. A source is an address cut to `source_prefix4` or `source_prefix6` bits."""

    grace_seconds: Seconds = 60
    max_startups: MaxStartups = "10:30:100"
    per_source_rate: Seconds = 20  # connections a second: a deployment tool's forks pass, a scanner does not
    per_source_burst: Count = 40
    source_prefix4: Annotated[int, msgspec.Meta(ge=0, le=32)] = 32
    source_prefix6: Annotated[int, msgspec.Meta(ge=0, le=128)] = 64  # what one customer gets
    exempt: list[Network] = []
    penalties: Penalties = Penalties()


class Recording(_Section, frozen=True, kw_only=True):
    """Where recordings go and who can open them. Empty `catalog` and `ledger`: below `state`, filled by load."""

    directory: Located
    recipients: Annotated[list[Recipient], msgspec.Meta(min_length=1)]
    signing_key: Existing
    identity: Located | None = None  # read by proxyctl only, perhaps on another machine: need not exist here
    sync_seconds: Seconds = 1.0
    reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 256 << 20
    catalog: Database = ""
    ledger: Located = Path()


class Retention(_Section, frozen=True, kw_only=True):
    """How long recordings of sessions to `targets` (globs) are kept; the first that fits a session decides.

    What is older than `keep_days` goes; of more than `max_bytes` the oldest; and while the disk has less than `free_bytes`
    free, the oldest. Held ones never. A policy without any of them keeps for good, as does none.
    """

    targets: Annotated[list[Text], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["*"])
    keep_days: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    free_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


class Review(_Section, frozen=True, kw_only=True):
    """Who may see sessions beyond what roles say.

    `approval`: nobody sees one but by a request of theirs that `approvers` others have approved; `live`: live ones too.
    `reasons` a request chooses from (none: any text), the pattern its governance `code` has to match (none: it may have
    one), and for how long access is given at most. `download`: whether recordings may be exported.
    """

    approval: bool = False
    live: bool = True
    approvers: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    reasons: list[Text] = []
    code: Regex = ""
    longest_days: Annotated[float, msgspec.Meta(gt=0)] = 30
    download: bool = True


class Index(_Section, frozen=True, kw_only=True):
    """What is derived of sessions while they live: screens, keystrokes, text, heat map. `workers`: processes that decode.

    `resume`: data keys of sessions that are not indexed yet are kept beside the control socket, where that is in memory, so
    that a daemon that was killed goes on with them at its next start.
    """

    enabled: bool = True
    resume: bool = True
    workers: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1


class Export(_Section, frozen=True, kw_only=True):
    """Films and replays of recordings. `jobs`: so many are made at once, by niced processes of who asks, or the console.

    `directory`: where those go that are given no file, readable by who made them; below `state` unless said. A purge takes
    what is there of a session along, and after `keep_days` it goes by itself; 0: it does not.
    """

    jobs: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    directory: Located = Path()
    keep_days: Annotated[float, msgspec.Meta(ge=0)] = 30


class Search(_Section, frozen=True, kw_only=True):
    """Full-text search over what was derived of sessions; off unless `enabled`.

    `key`: where the key is that the index is encrypted with. `sources`: what is found. Empty `index`: below `state`, filled
    by load.
    """

    enabled: bool = False
    key: Reference | None = None
    index: Located = Path()
    sources: list[SearchSource] = msgspec.field(default_factory=lambda: list(SOURCES))


class Store(_Section, frozen=True, kw_only=True):
    """Where copies of recordings go, by URL (s3://, gs://, az://, file://), as they are written.

    `options`: of its kind, as `endpoint` and `region` of S3's; `secrets`: such options as vault references. Without secrets
    the environment's or the machine's own credentials are taken. Local copies of what is stored go after `keep_local_days`;
    0: never.
    """

    url: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]+://")]
    options: dict[str, str] = {}
    secrets: dict[str, Reference] = {}
    keep_local_days: Annotated[float, msgspec.Meta(ge=0)] = 0


class Role(_Section, frozen=True, kw_only=True):
    """A role beside those that are built in: what operators and users who hold it may do."""

    name: Text
    permissions: list[PermissionName]


class Mail(_Section, frozen=True, kw_only=True):
    """The mail server notifications go through, and whom they come from. `to`: who gets alarms beside those concerned."""

    server: Address
    sender: EmailAddress
    tls: Literal["starttls", "implicit", "off"] = "starttls"
    ca: Existing | None = None  # default: the system's
    user: str = ""
    password: Reference | None = None
    to: list[EmailAddress] = []


class Webhook(_Section, frozen=True, kw_only=True):
    """Where notifications are posted, signed with `secret`; empty `events`: all."""

    url: Annotated[str, msgspec.Meta(pattern="^https?://[^/]")]
    secret: Reference
    ca: Existing | None = None
    events: list[EventName] = []


class Notify(_Section, frozen=True, kw_only=True):
    """Who is told what happened. `link`: the console's address, for links; read at start, but for users' addresses."""

    link: str = ""
    mail: Mail | None = None
    webhooks: list[Webhook] = []


class Operator(_Section, frozen=True, kw_only=True):
    """Who may use the control socket: matched by uid or gid. `user`: the proxyd user this person is."""

    name: Text
    roles: list[Text]
    uid: Annotated[int, msgspec.Meta(ge=0)] | None = None
    gid: Annotated[int, msgspec.Meta(ge=0)] | None = None
    user: str = ""


class Control(_Section, frozen=True, kw_only=True):
    """The control socket."""

    socket: Located
    operators: list[Operator] = []
    roles: list[Role] = []


class Oidc(_Section, frozen=True, kw_only=True):
    """Sign-in to the console by an OpenID Connect provider; `issuer`: exactly what it calls itself.

    `ca`: who vouches for its TLS. `claim` of what it says of a person is the `oidc` of a user, or, of one without, their
    name; there is no other user. Where [console] asks for a second factor, one of `acr` or of `amr` has to show it.
    `longest_minutes`: since they showed the provider who they are. `password`: users may sign in with name and password too.
    `logout`: sign out there as well.
    """

    issuer: Issuer
    client_id: Text
    client_secret: Reference | None = None
    name: Text = "single sign-on"
    claim: Text = "preferred_username"
    scopes: list[Text] = msgspec.field(default_factory=lambda: ["openid", "profile"])
    acr: list[Text] = []
    amr: list[Text] = msgspec.field(default_factory=lambda: ["mfa"])  # RFC 8176: several factors
    longest_minutes: Seconds | None = None
    skew_seconds: Penalty = 60  # between its clock and ours
    ca: Existing | None = None
    password: bool = True
    logout: bool = True


class Console(_Section, frozen=True, kw_only=True):
    """The web console: a process of its own, `proxyd console`; `certificate`, `key`: PEM.

    `public`: the "host:port" browsers reach it by, whose name security keys are for; empty: `address`, or this machine's
    name where that is every address. `second_factor`: nobody signs in without a one-time code or a security key, whatever
    their `factors` say. A sign-in ends after `idle_minutes` without a request, and after `hours` in any case. `metrics`:
    where Prometheus finds its own.
    """

    certificate: Existing
    key: Existing
    address: Address = "127.0.0.1:8443"
    public: PublicAddress = ""
    second_factor: bool = True
    idle_minutes: Seconds = (
        30  # ASVS 5.0 7.3.1 asks for a bound; half an hour is what NIST SP 800-63B has at AAL2
    )
    hours: Seconds = 12  # NIST SP 800-63B, AAL2: once a working day
    metrics: Address | None = None
    oidc: Oidc | None = None


class SelfService(_Section, frozen=True, kw_only=True):
    """What users may set up for themselves: SSH `keys`, a `second_factor`, a session token for a desktop (`rdp_files`).

    What they set up is in `state`. With `keys` off, keys they added do not count; a second factor counts in any case.
    """

    keys: bool = False
    second_factor: bool = False
    rdp_files: bool = False


class User(_Section, frozen=True, kw_only=True):
    """Who may log in to the proxy, and by which chains of factors; empty `factors`: see `chains`."""

    name: Annotated[str, DERIVED] = ""
    password: PasswordHash | None = None
    keys: list[KeyLine] = []
    scram: ScramVerifier | None = None
    mysql_native: MysqlNative | None = None
    mariadb_ed25519: MariadbEd25519 | None = None
    nt_hash: NtHash | None = None
    totp: Reference | None = None
    roles: list[Text] = []
    email: EmailAddress = ""
    oidc: str = ""  # what an OpenID Connect provider calls them
    factors: list[Chain] = []
    source: list[Network] = []

    @property
    def chains(self) -> tuple[frozenset[str], ...]:
        """Each set of factors that logs in; with a TOTP secret the default is a second factor, always."""
        default = ["publickey+totp", "password+totp"] if self.totp else ["publickey", "password"]
        return tuple(frozenset(chain.split("+")) for chain in self.factors or default)


class Account(_Section, frozen=True, kw_only=True):
    """A login on a target; its secrets are vault references."""

    password: Reference | None = None
    key: Reference | None = None
    certificate: Reference | None = None
    passphrase: Reference | None = None
    domain: str = ""  # of a Windows account
    keytab: Located | None = (
        None  # RDP: by Kerberos, with this file's key or this cache's ticket, never by NTLM
    )
    ccache: Located | None = None


Passing = Literal["allow", "log", "deny"]
"""What becomes of what crosses beside the screen: it passes, it passes and is told in the log, or it is refused."""


class ClipboardWay(_Section, frozen=True, kw_only=True):
    """What may be pasted in one direction: text (HTML and RTF too), files, and all else (pictures)."""

    text: Passing = "log"
    files: Passing = "deny"
    other: Passing = "log"


class Clipboard(_Section, frozen=True, kw_only=True):
    """The clipboard of desktops: `to_target`: copied at the client, pasted at the target."""

    to_target: ClipboardWay = ClipboardWay()
    to_client: ClipboardWay = ClipboardWay()


class Devices(_Section, frozen=True, kw_only=True):
    """The client's devices that a desktop may use. `ports`: serial and parallel ones."""

    drives: Passing = "deny"
    printers: Passing = "deny"
    smartcards: Passing = "deny"
    ports: Passing = "deny"


class Target(_Section, frozen=True, kw_only=True):
    """A host users reach through the proxy, its pinned keys and the accounts proxyd can log in to."""

    name: Annotated[str, DERIVED] = ""
    address: Address
    protocol: Literal["ssh", "postgres", "mysql", "rdp"] = "ssh"
    description: str = ""
    host_keys: list[KeyLine] = []
    known_hosts: Existing | None = None
    host_ca: list[KeyLine] = []
    recording: Literal["strict", "best_effort"] = "strict"
    disk_full: Literal["drop", "hold"] = "drop"
    file_bodies: bool = False
    tls: Literal["verify-full", "verify-ca", "require", "off"] = (
        "verify-full"  # databases and RDP; as libpq's sslmode
    )
    tls_ca: Existing | None = None  # default: the system's
    tls_pins: list[
        CertificatePin
    ] = []  # SHA-256 of certificates: one of these, and `tls` and `tls_ca` do not count
    statements: Literal["full", "literals-masked", "fingerprint", "off"] = "full"
    parameters: Literal["values", "types", "hash", "off"] = "values"
    mask_errors: bool = False  # quoted values in the target's error messages
    graphics: Graphics = "bitmap"  # how RDP desktops are painted
    colour_depth: Literal[32, 16] = 32  # of RDP's bitmaps, in bits
    bulk_compression: bool = True  # RDP: MPPC, where the client knows it
    clipboard: Clipboard = Clipboard()
    devices: Devices = Devices()
    static_channels: list[StaticChannel] = []  # RDP: further ones that pass, unread by proxyd
    connect_seconds: Seconds = 10
    login_seconds: Seconds = 20
    accounts: dict[str, Account] = {}

    @property
    def host(self) -> str:
        """Name or address, without brackets."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """TCP port."""
        return split_address(self.address)[1]


class Grant(_Section, frozen=True, kw_only=True):
    """Users (globs) or holders of roles reach targets (globs) as accounts (globs), with channels, at times."""

    targets: Annotated[list[Text], msgspec.Meta(min_length=1)]
    accounts: Annotated[list[Text], msgspec.Meta(min_length=1)]
    users: list[Text] = []
    roles: list[Text] = []
    channels: Annotated[list[Channel], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["shell", "exec", "sftp", "clipboard", "clipboard-files", "devices"]
    )  # none that leads past the recording
    when: list[When] = []
    timezone: TimeZone = "UTC"
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class Rule(_Section, frozen=True, kw_only=True):
    """What becomes of commands and statements that match `pattern` or are of one of `kinds`; the first rule decides.

    What permits (`allow`, `force`) must match the whole of every statement, what forbids need only be found. Patterns
    ignore case in SQL; `kinds` say nothing about shell commands. `interrupt` ends the session at the match number
    `after`; where a `force` rule applies, what no `allow` or `force` rule matches is blocked. Empty `users`, `roles`,
    `targets`: all (globs).
    """

    name: Text
    action: Literal["allow", "flag", "block", "interrupt", "force"]
    pattern: Regex = ""
    kinds: list[StatementKind] = []
    users: list[Text] = []
    roles: list[Text] = []
    targets: list[Text] = []
    after: Count = 3
    severity: Literal["info", "low", "medium", "high", "critical"] = "medium"


class Config(_Section, frozen=True, kw_only=True):
    """The whole file. `path`: where it was read from; `drain_seconds`: how long sessions may go on at a stop."""

    path: Annotated[Path, DERIVED] = Path()
    state: Located
    recording: Recording
    control: Control
    node: Text = "node1"
    drain_seconds: Penalty = 30
    log: Log = Log()
    index: Index = Index()
    export: Export = Export()
    search: Search = Search()
    listen: Listen = Listen()
    admission: Admission = Admission()
    users: dict[str, User] = {}
    targets: dict[str, Target] = {}
    grants: list[Grant] = []
    rules: list[Rule] = []
    retention: list[Retention] = []
    store: Store | None = None
    console: Console | None = None
    self_service: SelfService = SelfService()
    review: Review = Review()
    notify: Notify = Notify()


def load(path: Path) -> Config:
    """Read the configuration file at `path`, whole or not at all.

    Raises ConfigError, one line; reads small files, so call it from a thread when a loop is running.
    """
    path = path.absolute()
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", path) from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"larger than {MAX_CONFIG_BYTES >> 20} MiB", path)
    try:
        text = raw.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", path, raw.count(b"\n", 0, error.start) + 1) from None
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), path, text) from None
    except RecursionError:
        raise ConfigError("nested too deeply", path) from None
    reader = Reader(path, text)
    config: Config = reader.struct(table, Config, (), {"path": path})
    _check_consistency(config, reader)
    kept, search = config.recording, config.search
    return msgspec.structs.replace(
        config,
        search=msgspec.structs.replace(
            search, index=search.index if "index" in table.get("search", {}) else config.state / "search.db"
        ),
        recording=msgspec.structs.replace(
            kept,
            catalog=kept.catalog or f"sqlite:///{config.state / 'catalog.db'}",
            ledger=kept.ledger if "ledger" in table["recording"] else config.state / "ledger",
        ),
        export=config.export
        if "directory" in table.get("export", {})
        else msgspec.structs.replace(config.export, directory=config.state / "exports"),
    )


def _syntax_error(message: str, path: Path, text: str) -> ConfigError:
    what, _, where = message.rpartition(" (at ")
    match = re.match(r"line (\d+)", where)
    return ConfigError(what, path, int(match[1]) if match else text.rstrip().count("\n") + 1)


def _check_consistency(config: Config, reader: Reader) -> None:
    """Raise ConfigError where two parts of the file contradict each other or a reference leads nowhere."""
    for name, user in config.users.items():
        for factor in ("password", "totp"):
            wanted = any(factor in chain.split("+") for chain in user.factors)
            later = factor == "totp" and config.self_service.second_factor
            if wanted and not getattr(user, factor) and not later:
                reader.fail(("users", name, "factors"), f"{factor} is asked for, but the user has none")
    _check_identities(config, reader)
    for name, target in config.targets.items():
        for login, account in target.accounts.items():
            _check_account(account, ("targets", name, "accounts", login), reader)
        if target.tls_pins and target.tls == "off":
            reader.fail(("targets", name, "tls_pins"), "are of certificates, and its tls is off")
        if target.protocol == "rdp" and target.tls == "off":
            reader.fail(("targets", name, "tls"), "is off, and RDP is never used without TLS")
        if target.graphics != "bitmap" and target.colour_depth != 32:
            reader.fail(
                ("targets", name, "colour_depth"), 'is for graphics = "bitmap" only: all others have 32 bits'
            )
    _check_roles(config, reader)
    _check_notify(config.notify, reader)
    for place, operator in enumerate(config.control.operators):
        here = ("control", "operators", place)
        if operator.uid is None and operator.gid is None:
            reader.fail(here, "needs a uid or a gid")
        if operator.user and operator.user not in config.users:
            reader.fail((*here, "user"), _unknown("user", operator.user, config.users))
    for kind in ("postgres", "mysql", "rdp"):
        front = getattr(config.listen, kind)
        spoken = [name for name, target in config.targets.items() if target.protocol == kind]
        if front is not None and front.target and front.target not in spoken:
            reader.fail(("listen", kind, "target"), _unknown(f"{kind} target", front.target, spoken))
    if config.listen.rdp is not None and not (config.listen.rdp.nla or config.listen.rdp.deferred):
        reader.fail(("listen", "rdp", "deferred"), "nla or deferred must be true: nobody could log in")
    if config.search.enabled and config.search.key is None:
        reader.fail(("search", "key"), "is missing: it encrypts the index, which holds the words of sessions")
    if config.search.enabled and not config.index.enabled:
        reader.fail(("search", "enabled"), "is true, and index.enabled is false: nothing would be found")
    for place, rule in enumerate(config.rules):
        if not rule.pattern and not rule.kinds:
            reader.fail(("rules", place), "needs a pattern or kinds")
    for place, policy in enumerate(config.retention):
        if 0 < policy.free_bytes <= config.recording.reserve_bytes:
            reader.fail(
                ("retention", place, "free_bytes"),
                "must be over recording.reserve_bytes: at that, sessions are refused before anything is purged",
            )
    for place, grant in enumerate(config.grants):
        _check_grant(config, grant, ("grants", place), reader)


def _check_identities(config: Config, reader: Reader) -> None:
    """See that what a provider calls somebody can mean one user only."""
    meant = {name: name for name, user in config.users.items() if not user.oidc}
    for name, user in config.users.items():
        if user.oidc and meant.setdefault(user.oidc, name) != name:
            reader.fail(("users", name, "oidc"), f"is that of the user {meant[user.oidc]} already")


def _check_notify(notify: Notify, reader: Reader) -> None:
    mail = notify.mail
    if mail is not None and bool(mail.user) != bool(mail.password):
        reader.fail(("notify", "mail"), "user and password go together")
    if mail is not None and mail.user and mail.tls == "off":
        reader.fail(("notify", "mail", "tls"), "is off, and a password is never sent without it")
    for place, hook in enumerate(notify.webhooks):
        if hook.url.startswith("http:") and urlsplit(hook.url).hostname not in LOCAL_HOSTS:
            reader.fail(("notify", "webhooks", place, "url"), "is https:, unless it is on this machine")


def _check_roles(config: Config, reader: Reader) -> None:
    known = list(OPERATOR_ROLES)
    for place, role in enumerate(config.control.roles):
        if role.name in known:
            reader.fail(("control", "roles", place, "name"), f'there is a role "{role.name}" already')
        known.append(role.name)
    for place, operator in enumerate(config.control.operators):
        for index, name in enumerate(operator.roles):
            if name not in known:
                said = f'"{name[:60]}" is not one of {", ".join(known)}'
                reader.fail(("control", "operators", place, "roles", index), said)


def _check_account(account: Account, where: Where, reader: Reader) -> None:
    if not account.password and not account.key:
        reader.fail(where, "needs a password or a key")
    if (account.keytab or account.ccache) and not account.password:
        reader.fail(where, "a keytab or ccache needs the password too: the target is handed it")
    if not account.key and (account.certificate or account.passphrase):
        reader.fail(where, "a certificate or passphrase needs a key")


def _check_grant(config: Config, grant: Grant, where: Where, reader: Reader) -> None:
    if not grant.users and not grant.roles:
        reader.fail(where, "names no user and no role")
    for kind, names, known in (
        ("user", grant.users, config.users),
        ("target", grant.targets, config.targets),
    ):
        for index, name in enumerate(names):
            if not is_glob(name) and name not in known:
                reader.fail((*where, f"{kind}s", index), _unknown(kind, name, known))
    if any(map(is_glob, grant.targets)):
        return  # a pattern is also for targets to come, with accounts to come
    logins = {login for name in grant.targets for login in config.targets[name].accounts}
    for index, login in enumerate(grant.accounts):
        if not is_glob(login) and login not in logins:
            reader.fail((*where, "accounts", index), _unknown("account of these targets", login, logins))


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    return f'no such {kind}: "{name}"{suggestion(name, known)}'
