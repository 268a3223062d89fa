"""What `proxyd init` does: everything a first start needs, below one directory.

Rule 1: nothing that exists is touched: run again, it makes what is missing and says what it found.
Rule 2: a file is whole or absent: written aside, synced, then linked to its name, which fails if that exists.
Rule 3: private files are 0600 in directories of 0700.
Rule 4: the configuration it writes is the commented example of conf/proxyd.toml, with the values filled in.
"""

from __future__ import annotations

import os
import pwd
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import pyrage
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxyd.errors import ConfigError

PRIVATE_FILE: Final = 0o600
PUBLIC_FILE: Final = 0o644
PRIVATE_DIRECTORY: Final = 0o700
TLS_VALID: Final = timedelta(days=397)  # the longest that browsers and Apple's clients accept
CLOCK_SKEW: Final = timedelta(hours=1)  # a client's clock may be behind ours

PLACEHOLDERS: Final = {
    "@NODE@": "node1",
    "@SSH_PORT@": "2222",
    "@METRICS_PORT@": "9322",
    "@RECIPIENT@": "age1-put-the-public-key-of-your-vault-here",
    "@OPERATOR@": "root",
    "@UID@": "0",
}


@dataclass(slots=True)
class Made:
    """What `initialise` found and made; `config` is the file to start with, `recipient` the age public key."""

    config: Path
    recipient: str = ""
    created: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)


def initialise(directory: Path, *, ssh_port: int = 2222, metrics_port: int = 9322) -> Made:
    """Make keys, state directory and configuration below `directory`, leaving alone what is there.

    Port 0 lets the kernel choose at each start. Raises ConfigError when the disk says no. Blocks: files are synced.
    """
    directory = directory.absolute()
    made = Made(directory / "proxyd.toml")
    keys = directory / "keys"
    try:
        for place in (directory, keys, directory / "state", directory / "recordings"):
            _make_directory(place, made)
        _make_ssh_key(keys / "ssh_host_ed25519_key", f"proxyd@{socket.gethostname()}", made)
        _make_ssh_key(keys / "host_ca", "proxyd host CA", made)
        _make(keys / "signing.pem", _signing_key, made)
        _make(keys / "vault.identity", _identity, made)
        _make(keys / "search.key", _search_key, made)
        _make_certificate(keys, made)
        made.recipient = _recipient(keys / "vault.identity")
        authority = (keys / "host_ca.pub").read_text().strip()
        _make(directory / "known_hosts", f"@cert-authority * {authority}\n".encode, made, PUBLIC_FILE)
        _make(directory / "targets.known_hosts", TARGETS_KNOWN_HOSTS.encode, made)
        values = {
            "@SSH_PORT@": str(ssh_port),
            "@METRICS_PORT@": str(metrics_port),
            "@RECIPIENT@": made.recipient,
            "@OPERATOR@": _own_name(),
            "@UID@": str(os.geteuid()),
        }
        _make(made.config, lambda: example(values).encode(), made)
    except OSError as error:
        raise ConfigError(f"can't be made: {error.strerror}", Path(error.filename or directory)) from None
    return made


def example(values: dict[str, str]) -> str:
    """Return the commented configuration with `values` (and for the rest PLACEHOLDERS) filled in."""
    text = EXAMPLE
    for name, value in (PLACEHOLDERS | values).items():
        text = text.replace(name, value)
    return text


def _make_directory(path: Path, made: Made) -> None:
    try:
        path.mkdir(PRIVATE_DIRECTORY, parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise
        made.kept.append(path)
    else:
        made.created.append(path)


def _make(path: Path, content: Callable[[], bytes], made: Made, mode: int = PRIVATE_FILE) -> None:
    """Write `content()` to a new file, whole (Rule 2); keep a file that is there."""
    if path.exists():
        made.kept.append(path)
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)  # the umask had its say in open
            file.write(content())
            file.flush()
            os.fsync(fd)
        path.hardlink_to(aside)
    finally:
        aside.unlink()
    made.created.append(path)


def _make_ssh_key(path: Path, comment: str, made: Made) -> None:
    """Make an Ed25519 key in OpenSSH's own format, and always the .pub beside it from the key that is there."""
    _make(path, lambda: _pem(Ed25519PrivateKey.generate(), PrivateFormat.OpenSSH), made)
    _make(path.with_name(f"{path.name}.pub"), lambda: _public_line(path, comment), made, PUBLIC_FILE)


def _public_line(path: Path, comment: str) -> bytes:
    key = load_ssh_private_key(path.read_bytes(), None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + f" {comment}\n".encode()


def _pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, kind: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, kind, NoEncryption())


def _signing_key() -> bytes:
    return _pem(Ed25519PrivateKey.generate(), PrivateFormat.PKCS8)


def _search_key() -> bytes:
    return f"{secrets.token_hex(32)}\n".encode()


def _identity() -> bytes:
    """Return a new age identity in the form age-keygen writes."""
    identity = pyrage.x25519.Identity.generate()
    return (
        f"# created: {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n"
        f"# public key: {identity.to_public()}\n"
        "# It opens every recording made for this public key. proxyd never reads it: move it to a safe place,\n"
        "# and keep a copy: without it no recording can be replayed.\n"
        f"{identity}\n"
    ).encode()


def _recipient(path: Path) -> str:
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            try:
                return str(pyrage.x25519.Identity.from_str(line.strip()).to_public())
            except pyrage.IdentityError:
                break
    raise ConfigError("is not an age identity", path)


def _make_certificate(keys: Path, made: Made) -> None:
    """Make a self-signed TLS certificate for this host; both files, or neither when one is there."""
    certificate, private = keys / "tls.crt", keys / "tls.key"
    if certificate.exists() and not private.exists():
        raise ConfigError(f"its key {private.name} is missing; remove it to get a new pair", certificate)
    _make(private, lambda: _pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.PKCS8), made)
    _make(certificate, lambda: _self_signed(private), made, PUBLIC_FILE)


def _self_signed(private: Path) -> bytes:
    key = load_pem_private_key(private.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("is not an elliptic curve key; remove it to get a new pair", private)
    host, now = socket.gethostname(), datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    names += [x509.DNSName(host)] if host.isascii() and host != "localhost" else []
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])  # RFC 5280 A.1: 64 at most
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + TLS_VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


TARGETS_KNOWN_HOSTS: Final = """\
# The host keys of targets, in the syntax of OpenSSH's known_hosts; a key that is not here is refused.
# Fetch them with "ssh-keyscan HOST", compare the fingerprints with the ones the host's owner gives you.
"""

EXAMPLE: Final = """\
# proxyd: the configuration. "proxyd check" reads it and names the line of whatever is wrong.
#
# Paths are relative to this file's directory. "# text" explains; "#key = ..." is an example to uncomment.
# Reload users, targets and grants without touching live sessions: "proxyctl reload" or SIGHUP.

# The name of this node in recordings and in the ledger.
node = "@NODE@"
# Where the daemon keeps its own state.
state = "state"
# How long live sessions may go on after a stop was asked for, in seconds.
drain_seconds = 30

[log]
# "json", "console", or "auto": console on a terminal and JSON otherwise. To standard error.
format = "auto"
# "debug", "info", "warning" or "error".
level = "info"

# ---------------------------------------------------------------------------------------------- listeners

[listen.ssh]
# Loopback, for a first look; "0.0.0.0:22" or "[::]:22" for everybody.
address = "127.0.0.1:@SSH_PORT@"
# What users are told to connect to, here and below; default: address, or this machine's name where that is every address.
#public = "proxy.example:22"
# The proxy's own keys, shown to clients.
host_keys = ["keys/ssh_host_ed25519_key"]
# The CA that signs the host keys shown for "ssh -J": users trust it with the line in the file known_hosts.
host_ca = "keys/host_ca"
# CAs of user certificates, as public key lines or "file:PATH"; a certificate's principal is the proxyd user.
user_ca = []
# Shown before login.
banner = ""
# New session keys after so many bytes or seconds.
rekey_bytes = 1073741824
rekey_seconds = 3600
# How often a silent client is asked whether it is still there.
keepalive_seconds = 30
# Offer chacha20-poly1305: twice the work of AES-GCM here, and OpenSSH takes it whenever it is offered.
chacha = false

#[listen.postgres]
#address = "127.0.0.1:5432"
#public = "proxy.example:5432"
# The front's own TLS, PEM.
#certificate = "keys/tls.crt"
#key = "keys/tls.key"
# A certificate of this CA logs in the user that its common name names.
#client_ca = "keys/tls.crt"
# "require" TLS of clients, or only "prefer" it.
#tls = "require"
# The one target of all who come here; without it users name theirs: psql -U alice+app+shop.
#target = ""

#[listen.mysql]
#address = "127.0.0.1:3306"
#public = "proxy.example:3306"
#certificate = "keys/tls.crt"
#key = "keys/tls.key"
#client_ca = "keys/tls.crt"
#tls = "require"
#target = ""
# The server version to greet clients with; default: what a target's greeting said.
#version = "10.11.0-MariaDB"

#[listen.rdp]
#address = "127.0.0.1:3389"
#public = "proxy.example:3389"
#certificate = "keys/tls.crt"
#key = "keys/tls.key"
# Network Level Authentication: users with an nt_hash prove their password first; Windows' own client asks for it.
#nla = true
# Clients that do not ask for it send the password inside TLS, with a one-time code behind it.
#deferred = true
# Who of those sends no password, or needs a code, is asked on a screen of proxyd's own; who names no target gets a list.
#login_screen = true
# Without a target users name theirs, alice%svc%desk1 or alice%desk1, or pick it from that list.
#target = ""

[listen.metrics]
# /metrics for Prometheus, /health for the rest.
address = "127.0.0.1:@METRICS_PORT@"

# ------------------------------------------------------------------------------------- limits before login

[admission]
# A login not done by then is ended, in seconds.
grace_seconds = 60
# "start:rate:full" as sshd's MaxStartups: from start connections in login on, drop rate %; all from full on.
max_startups = "10:30:100"
# New connections a second from one source, and how many at once.
per_source_rate = 20
per_source_burst = 40
# A source is an address cut to so many bits.
source_prefix4 = 32
source_prefix6 = 64
# Networks free of per-source limits and penalties.
exempt = []

[admission.penalties]
# As sshd's PerSourcePenalties, in seconds; 0 is off. A source is refused above min and until all is served.
authfail = 5
# Broke the protocol.
invalid = 5
# Came and went without trying to log in.
noauth = 1
grace_exceeded = 20
# Turned away by a rule.
refuseconnection = 10
max = 600
min = 15
# How many sources are remembered, and what happens above: "permissive" forgets some, "deny-all" lets nobody in.
max_sources4 = 65536
max_sources6 = 65536
overflow = "permissive"

# ----------------------------------------------------------------------------------------------- recording

[recording]
directory = "recordings"
# age public keys: each one's owner can open every recording. At least one; the daemon has none of the private keys.
recipients = ["@RECIPIENT@"]
# Signs recordings and the ledger, so that a change shows.
signing_key = "keys/signing.pem"
# The private half of a recipient, read by proxyctl to replay and export, never by the daemon.
identity = "keys/vault.identity"
# What was recorded is on disk after at most this many seconds.
sync_seconds = 1.0
# With less free space than this, new sessions are refused.
reserve_bytes = 268435456
# Default: state/catalog.db and state/ledger. The catalog may be in PostgreSQL (pip install 'proxyd[postgresql]'), as
# "postgresql+psycopg://proxyd@db.example/proxyd?sslmode=verify-full&passfile=/etc/proxyd/pgpass".
#catalog = "sqlite:///state/catalog.db"
#ledger = "state/ledger"

# --------------------------------------------------------------------------------------------------- index

[index]
# What is derived of desktops and terminals (screens, keystrokes, text, heat map) while sessions live, in processes
# that have nothing else.
enabled = true
# How many such processes; one follows a dozen desktops, or a few hundred terminals.
workers = 1
# A daemon that was killed goes on with what it had not indexed: until then the keys of those sessions are in memory beside
# the control socket (/run is), for the daemon's user alone. false, or a socket on a disk: proxyd index --all does it.
resume = true

# -------------------------------------------------------------------------------------------------- exports

[export]
# How many films and replays are made at once, by processes of those who ask for them (proxyctl export --background) or of
# the console.
jobs = 1
# Where those go that are given no file; default: state/exports. They are in the clear, for their maker's eyes only.
#directory = "state/exports"
# For how long what is there is kept; 0: until its recording is purged.
keep_days = 30

# -------------------------------------------------------------------------------------------------- search

[search]
# "proxyctl search": which words were typed and shown, run and answered, in which session and when.
enabled = true
# What its index is encrypted with: file:PATH, env:NAME, systemd:NAME or command:ARGV. The index has the words of recordings
# without their recipients' key: keep this one off the disk the index is on, or encrypt that disk.
key = "file:keys/search.key"
# What is found. "keys" has what is typed at desktops, passwords too.
sources = ["commands", "screen", "sql", "keys", "titles", "transfers", "findings"]
# Default: state/search.db.
#index = "state/search.db"

# ------------------------------------------------------------------------------------------------- control

[control]
socket = "state/control.sock"

# Who may use the socket: by uid or gid. Roles: "PAM Administrator", "PAM Auditor", "PAM Operator",
# "System Administrator", and those below. user: the proxyd user this person is; nobody blocks their own session.
# "Console" may act for users who have signed in, and nothing else: users hold these roles by their own "roles".
[[control.operators]]
name = "@OPERATOR@"
uid = @UID@
#gid = 0
roles = ["PAM Administrator", "System Administrator"]
#user = "alice"

# A role of your own: what who holds it may do. "proxyctl status" lists the permissions you have.
#[[control.roles]]
#name = "Night shift"
#permissions = ["sessions.list", "sessions.block", "sessions.drop", "daemon.status"]

# ------------------------------------------------------------------------------------------------- console

# The web console, "proxyd console": users sign in with their password and one-time code, and see what their roles allow.
# It reads this file, and opens recordings with recording.identity.
#[console]
#address = "127.0.0.1:8443"
#certificate = "keys/tls.crt"
#key = "keys/tls.key"
# What browsers call it; default: address, or this machine's name where that is every address.
# Security keys are made for this name; for an address there are none.
#public = "console.example:443"
# Nobody signs in without a one-time code or a security key.
#second_factor = true
# A sign-in ends after so long without a request, and after so long in any case.
#idle_minutes = 30
#hours = 12
# Where Prometheus finds what the console refuses; default: nowhere.
#metrics = "127.0.0.1:9323"

# Sign-in by an OpenID Connect provider: its issuer, exactly as it writes it, and what proxyd is to it. Register there
# https://CONSOLE/sign-in/provider/back as where to go back, https://CONSOLE/sign-in for after signing out, and
# https://CONSOLE/sign-in/provider/logout for logouts it tells (back-channel).
#[console.oidc]
#issuer = "https://login.example/realms/staff"
#client_id = "proxyd"
#client_secret = "file:secrets/oidc"
# What the button says.
#name = "single sign-on"
# What names a user: their "oidc", or, where they have none, their name. "sub" never means somebody else later.
#claim = "preferred_username"
#scopes = ["openid", "profile"]
# With second_factor one of these has to be in what the provider says: "acr" is asked for, "amr" is RFC 8176's.
#acr = []
#amr = ["mfa"]
# Since they last showed the provider who they are, at most; default: as the provider has it.
#longest_minutes = 480
# Between the provider's clock and this one.
#skew_seconds = 60
# Who vouches for the provider's certificate; default: the system's.
#ca = "keys/tls.crt"
# Users may also sign in with name, password and one-time code.
#password = true
# Signing out of the console goes on to signing out of the provider.
#logout = true

# -------------------------------------------------------------------------------------------- self-service

[self_service]
# What users may set up for themselves on the console's page "My access", by their password and code: SSH keys, which log in
# like those of the configuration; second factors; a session token that opens a desktop once. What they set up is in
# state/enrolled.json. Keys they added stop counting when this is switched off, a second factor never does.
keys = true
second_factor = true
rdp_files = true

# ------------------------------------------------------------------------------------------------ review

[review]
# Nobody, administrators included, sees a session but by a request of theirs that others have approved (proxyctl request);
# live ones too, unless live = false.
approval = false
live = true
# How many others have to approve.
approvers = 1
# What a request gives as its reason; none: any text. The pattern of the governance code it needs; "": it may have one.
reasons = []
code = ""
# For how long access is given at most.
longest_days = 30
# Whether recordings may be exported, and exports downloaded.
download = true

# ------------------------------------------------------------------------------------------------ notify

# Who is told: of a video that is ready or failed who asked for it, of a request to view who may decide, of its decision who
# asked, of a change to what they log in with the user; of critical findings and recordings that fail those of "to". Read at
# start.
#[notify]
# The console's address, for links.
#link = "https://console.example"

#[notify.mail]
#server = "smtp.example:587"
#sender = "proxyd@example.org"
# "starttls", "implicit" or "off" (without a password only); and whose certificates are believed: default, the system's.
#tls = "starttls"
#ca = "keys/tls.crt"
#user = "proxyd"
#password = "file:secrets/smtp"
#to = ["soc@example.org"]

# Posted as JSON. Proxyd-Signature is t=SECONDS,v1=HEX: HMAC-SHA-256, by the secret, over "SECONDS." and the body.
#[[notify.webhooks]]
#url = "https://chat.example/hooks/proxyd"
#secret = "file:secrets/webhook"
#ca = "keys/tls.crt"
# Which: "video-ready", "video-failed", "request-waits", "request-decided", "critical-finding", "recording-failed",
# "credential-changed"; default: all.
#events = ["critical-finding", "recording-failed"]

# --------------------------------------------------------------------------------------------------- users

#[users.alice]
# From "proxyctl users hash-password".
#password = "$argon2id$v=19$m=65536,t=3,p=4$OckGgCzvW+3kUtQ0XTHeAw$ZWd3/yITIIy/T3N6m5BK8Hco1pxv+dO3pggVg2VpgEA"
#keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDnc7DzHVBLN+NySiIAdcHYtO5V5IrfN5sx4MLi6YJP alice@laptop"]
# For database clients, which prove a password without sending it; from "proxyctl users hash-password --databases".
#scram = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
#mysql_native = "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"
#mariadb_ed25519 = "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY"
# For RDP by Network Level Authentication.
#nt_hash = "$NT$8846f7eaee8fb117ad06bdd830b7586c"
# Where the base32 secret of the second factor is: file:PATH, env:NAME, systemd:NAME or command:ARGV.
#totp = "file:secrets/alice.totp"
# What logs in; this is the default with a second factor. Without one: ["publickey", "password"].
#factors = ["publickey+totp", "password+totp"]
# For grants and rules; a role of [control] as well: this is what the user may do in the console.
#roles = ["ops"]
# Where notifications go.
#email = "alice@example.org"
# What the OpenID Connect provider of the console calls them; default: the user's name.
#oidc = "248289761001"
# Where from; default: anywhere.
#source = ["127.0.0.0/8", "10.0.0.0/8"]

# ------------------------------------------------------------------------------------------------- targets

#[targets.web1]
#address = "web1.example:22"
#protocol = "ssh"
#description = "the shop"
# The host's keys, pinned; one of these three, or several.
#host_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUMHGtuhsUTzNqyYWvbVkQfCcEKuRBEEsYfnWYvcC0k"]
#known_hosts = "targets.known_hosts"
#host_ca = []
# "strict": no recording, no session. "best_effort": a session goes on, and the recording tells what it lacks.
#recording = "strict"
# When the disk is full: "drop" the session, or "hold" it until there is space.
#disk_full = "drop"
# Record what is in the files that are transferred, not only their names, sizes and SHA-256.
#file_bodies = false
# Databases, RDP: how TLS to it is checked, as libpq's sslmode ("verify-full", "verify-ca", "require", "off"), by which CA.
#tls = "verify-full"
#tls_ca = "keys/tls.crt"
# In place of both: the SHA-256 of its certificate, as a self-signed one of a Windows host needs it; two while it changes.
#tls_pins = ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
# What is kept of a statement: "full" (secrets masked), "literals-masked", "fingerprint", "off"; and of its parameters:
# "values", "types", "hash", "off". Rows never are.
#statements = "full"
#parameters = "values"
# Mask what stands in quotes in the target's error messages.
#mask_errors = false
# RDP: how a desktop is painted. "bitmap" is decoded by aardwolf alone; "gfx" is the graphics pipeline and RemoteFX, with all
# codecs, "noavc" without H.264, "avc420" with H.264 at half the colour only: their recordings need FreeRDP's library, and
# without it sessions are painted by bitmaps. In 32 or 16 bits (bitmap).
#graphics = "bitmap"
#colour_depth = 32
# RDP: let the target compress what it paints (MPPC), as clients ask for. Recordings of office work weigh a third without it,
# and the wire carries several times as much.
#bulk_compression = true
# RDP: further static virtual channels that pass, unread by proxyd; all others the target never hears of.
#static_channels = []
#connect_seconds = 10
#login_seconds = 20

# RDP: what crosses beside the screen: "allow" (it is in the raw recording only), "log" (the session's log tells of it: the
# text, or names, sizes and SHA-256), or "deny". What is pasted at the target, and at the client: text (HTML and RTF too),
# files, and all other formats, as pictures.
#[targets.web1.clipboard.to_target]
#text = "log"
#files = "deny"
#other = "log"

#[targets.web1.clipboard.to_client]
#text = "log"
#files = "deny"
#other = "log"

# The client's devices that the target may use; "log" names the files of drives with size and SHA-256.
#[targets.web1.devices]
#drives = "deny"
#printers = "deny"
#smartcards = "deny"
#ports = "deny"

# The logins proxyd has there. Values are references, as for totp: a password, or a key, perhaps with a certificate.
#[targets.web1.accounts.root]
#key = "file:secrets/web1.key"
#certificate = "file:secrets/web1-cert.pub"
#passphrase = "command:pass show web1"

#[targets.web1.accounts.deploy]
#password = "env:WEB1_DEPLOY_PASSWORD"
# RDP: the domain of a Windows account; and files by which it logs in with Kerberos, not NTLM: a key, or a ticket kept fresh
# by other means (kinit). Needs the extra "kerberos", and the target's address by its name.
#domain = ""
#keytab = "secrets/deploy.keytab"
#ccache = "secrets/deploy.ccache"

# -------------------------------------------------------------------------------------------------- grants

# Users (names or globs) or holders of roles reach targets (names or globs) as accounts (names or globs).
#[[grants]]
#users = ["alice"]
#roles = ["ops"]
#targets = ["web*"]
#accounts = ["root", "deploy"]
# Any of: shell exec sftp local-forward remote-forward agent x11; for databases: replication local-infile; for
# desktops, as far as the target lets them: clipboard clipboard-files devices. Default: the first three and the last three.
#channels = ["shell", "exec", "sftp", "local-forward"]
# Default: always. A window may end on the next day: "fri 22:00-06:00".
#when = ["mon-fri 08:00-18:00", "sat 10:00-14:00"]
#timezone = "Europe/Berlin"
#expires = 2099-12-31T23:59:59Z

# --------------------------------------------------------------------------------------------------- rules

# What becomes of a command or statement; the first rule that matches decides. A match is a finding of the session.
#[[rules]]
#name = "no-drop"
# "allow", "flag", "block", "interrupt" (the session ends at the match number after), or "force": only such pass.
#action = "block"
# A regular expression to be found in the command or statement, and kinds of SQL statements: either is enough.
#pattern = "(?i)rm +-rf"
#kinds = ["drop", "truncate", "delete-without-where"]
# Whom it is for; default: all.
#users = ["alice"]
#roles = ["ops"]
#targets = ["web*"]
#after = 3
# "info", "low", "medium", "high" or "critical".
#severity = "high"

# ------------------------------------------------------------------------------------------------ retention

# How long recordings are kept; the first that fits a session's target decides, and without one they stay for good.
# Held recordings (proxyctl hold) always stay. What would go now: proxyctl purge --dry-run
#[[retention]]
#targets = ["web*"]
#keep_days = 365
# Of more than this the oldest go; and while the disk has less than free_bytes free, the oldest go.
#max_bytes = 500_000_000_000
#free_bytes = 10_000_000_000

# ---------------------------------------------------------------------------------------------------- store

# Copies of recordings elsewhere, as they are written (pip install 'proxyd[store]'): s3://BUCKET/PREFIX, gs://, az://
# or file:///DIRECTORY. Objects are written once. Read at start.
#[store]
#url = "s3://recordings/node1"
# What its kind needs to be told: of S3's endpoint, region, ...; and the secret ones, by reference.
#options = { endpoint = "https://s3.example", region = "eu-central-1" }
#secrets = { access_key_id = "file:keys/s3_id", secret_access_key = "file:keys/s3_secret" }
# Local copies of what the store has go after so many days; 0: never. They are read there then, range by range.
#keep_local_days = 30
"""
