"""Secrets in SQL do not survive redaction, whatever they look like and wherever they stand."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd import redact

SECRET = "hunter2"
SLOW_S = 10.0  # of the processor's time: a hundred times what these take, and what grows with the square takes minutes

NAMED = [
    "ALTER USER bob WITH PASSWORD 'hunter2'",
    "alter role bob encrypted password E'hun\\'ter2hunter2' valid until '2030-01-01'",
    "CREATE USER 'a'@'%' IDENTIFIED BY 'hunter2' REQUIRE SSL",
    "CREATE USER a IDENTIFIED WITH caching_sha2_password BY 'hunter2'",
    "ALTER USER a IDENTIFIED VIA ed25519 USING PASSWORD('hunter2')",
    "SET PASSWORD FOR 'a'@'%' = PASSWORD('hunter2')",
    "SET PASSWORD = 'hunter2'",
    "GRANT ALL ON *.* TO a IDENTIFIED BY 'hunter2'",
    "CHANGE MASTER TO MASTER_PASSWORD='hunter2', MASTER_HOST='h'",
    "CREATE LOGIN x WITH PASSWORD = N'hunter2' MUST_CHANGE",
    "ALTER LOGIN x WITH PASSWORD = 'hunter2' OLD_PASSWORD = 'hunter2'",
    "CREATE USER MAPPING FOR bob SERVER s OPTIONS (user 'bob', password 'hunter2')",
    "select dblink_connect('host=h user=u password=hunter2')",
    "CREATE SUBSCRIPTION s CONNECTION 'host=h password=hunter2 dbname=d' PUBLICATION p",
    "ALTER USER a PASSWORD $x$hunter2$x$",
    "ALTER USER a IDENTIFIED BY hunter2",
    "copy t from program 'curl https://u:hunter2@h/x'",
    "CREATE MASTER KEY ENCRYPTION BY PASSWORD = 'hunter2'",
    "DO $$ begin execute 'alter user a password ''hunter2'''; end $$",
    "alter user a password 'hunter2",
    "ALTER USER a IDENTIFIED WITH mysql_native_password BY hunter2",
    "INSERT INTO users (name, password) VALUES ('bob', 'hunter2')",
    "SELECT 'hunter2' AS password",
    "SELECT pgp_sym_encrypt('data', 'hunter2')",
    "SELECT format('alter user %I password %L', 'bob', 'hunter2')",
    "ALTER USER a PASSWORD/**/'hunter2'",
    "/* password 'hunter2' */ SELECT 1",
    "-- password: hunter2\nSELECT 1",
    "CREATE USER a PASSWORD 'x\\', 'hunter2', 'y",
    "ALTER USER a PASSWORD U&'hunter2'",
    'SET PASSWORD = "hunter2"',
    "ALTER SYSTEM SET primary_conninfo = 'host=a password=hunter2'",
    "CREATE USER name@'h' IDENTIFIED BY 'a' , password@'hunter2'",
    "UPDATE conf SET v = 'postgres://u:hunter2@h/d'",
    "INSERT INTO settings VALUES ('password', 'hunter2')",
]
TEMPLATES = [one for one in NAMED if "'hunter2'" in one]
NOT_SECRET = [
    "select * from t where password is null",
    "ALTER ROLE a PASSWORD NULL",
    "SELECT id, password FROM users ORDER BY password DESC",
    "SELECT 1 WHERE name LIKE '%password%'",
    "SELECT 'https://example.com/a' , 'x'",
    "CREATE TABLE t (id int, password text NOT NULL)",
    "SELECT * FROM t WHERE id = 5 AND name = 'bob'",
]


@pytest.mark.parametrize("dialect", ["postgres", "mysql"])
@pytest.mark.parametrize("text", NAMED)
def test_named_secret_is_gone(text: str, dialect: str) -> None:
    if dialect == "postgres" and '"hunter2"' in text:
        text = text.replace("SET PASSWORD", "ALTER USER a PASSWORD")
    masked = redact.redact(text, dialect)
    assert SECRET not in masked
    assert "***" in masked
    assert redact.redact(masked, dialect) == masked


@pytest.mark.parametrize("dialect", ["postgres", "mysql"])
@pytest.mark.parametrize("text", NOT_SECRET)
def test_what_holds_no_secret_is_kept(text: str, dialect: str) -> None:
    assert redact.redact(text, dialect) == text


@pytest.mark.parametrize("dialect", ["postgres", "mysql"])
def test_unnameable_secret_is_for_masked_literals(dialect: str) -> None:
    text = "PREPARE p AS select $1; EXECUTE p('hunter2')"
    assert SECRET not in redact.mask_literals(text, dialect)


def test_account_names_are_kept() -> None:
    masked = redact.redact("SET PASSWORD FOR 'bob'@'10.%' = PASSWORD('hunter2')", "mysql")
    assert masked == "SET PASSWORD FOR 'bob'@'10.%' = PASSWORD('***')"


def test_masked_literals() -> None:
    masked = redact.mask_literals(
        "SELECT a, 'x''y' /* z */ FROM \"t\" WHERE b = -1.5e3 AND c = $1 AND d = $$q$$", "postgres"
    )
    assert masked == "SELECT a, '***' /* *** */ FROM \"t\" WHERE b = -? AND c = $1 AND d = '***'"
    assert redact.mask_literals('SELECT "x", `t`.`a` # hm', "mysql") == "SELECT '***', `t`.`a` /* *** */"


def test_nested_comments_of_postgres_end_where_they_end() -> None:
    assert redact.mask_literals("/* a /* b */ 'x' */ SELECT 'y'", "postgres") == "/* *** */ SELECT '***'"


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'a\\'', 'hunter2'",
        "SELECT 'a\\', 'hunter2', 'b'",
        "SELECT 'C:\\', 'hunter2'",
        "SELECT 'C:\\','hunter2','D:\\'",
        "SELECT 'C:\\', ' hunter2 ', 'D:\\'",
    ],
)
@pytest.mark.parametrize("dialect", ["postgres", "mysql"])
def test_doubtful_backslashes_hide_the_rest(text: str, dialect: str) -> None:
    assert SECRET not in redact.mask_literals(text, dialect)


def test_fingerprint_is_the_shape() -> None:
    one = redact.fingerprint(
        "select *  from t where a in (1, 2,3) and b='x' -- hi\n and c = 1.5e3", "postgres"
    )
    assert one == "select * from t where a in (?) and b=? and c = ?"
    assert redact.fingerprint("SELECT * FROM t WHERE a IN (7) AND b='' AND c = 2", "mysql") == one
    rows = redact.fingerprint("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')", "mysql")
    assert rows == "insert into t values (?)"
    assert len(redact.digest(rows)) == 16
    assert SECRET not in redact.fingerprint("ALTER USER a IDENTIFIED BY hunter2", "mysql")


@pytest.mark.parametrize(
    ("text", "verb"),
    [
        ("  /* x */ -- y\n(SELECT 1)", "select"),
        ("hunter2", "other"),
        ("", "other"),
        ("/*" * 5000, "other"),
        ("-- " * 3000, "other"),
        (" " * 8000 + "!", "other"),
    ],
)
def test_verb(text: str, verb: str) -> None:
    began = time.process_time()
    assert redact.verb(text) == verb
    assert time.process_time() - began < SLOW_S


@pytest.mark.parametrize(
    ("message", "masked"),
    [
        ('relation "x" does not exist', 'relation "***" does not exist'),
        ("Duplicate entry 'bob@x' for key 'users.email'", "Duplicate entry '***'"),
        ("near 'IDENTIFIED BY 'hunter2'' at line 1", "near '***' at line 1"),
        ("can't do that", "can't do that"),
        ("near 'hunter2", "near '***"),
        ("Spalte \u201ehunter2\u201c fehlt", "Spalte \u201e***\u201c fehlt"),
        ("out of memory", "out of memory"),
    ],
)
def test_mask_quoted(message: str, masked: str) -> None:
    assert redact.mask_quoted(message) == masked


SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="'\\\"$"), min_size=1, max_size=30).map(
    lambda text: f"S3{text}cr"
)


@given(template=st.sampled_from(TEMPLATES), secret=SECRETS, dialect=st.sampled_from(["postgres", "mysql"]))
def test_no_secret_in_any_template(template: str, secret: str, dialect: str) -> None:
    text = template.replace(SECRET, secret)
    assert secret not in redact.redact(text, dialect)
    assert secret not in redact.mask_literals(text, dialect)
    assert secret.lower() not in redact.fingerprint(text, dialect)


@given(
    pieces=st.lists(
        st.sampled_from(
            ["'", "\\", '"', "$", "$$", "$a$", "password", "by ", "identified ", "alter ", "/*", "*/", "--", "\n", " ",
             "#", "=", "(", ")", "x", "1", "0x1", "@", "user ", "://a:b@", "E'", "U&'", "`", "***", "%password%"]
        ),
        max_size=40,
    ),
    dialect=st.sampled_from(["postgres", "mysql"]),
)  # fmt: skip
def test_redaction_is_idempotent(pieces: list[str], dialect: str) -> None:
    text = "".join(pieces)
    for function in (redact.redact, redact.mask_literals):
        once = function(text, dialect)
        assert function(once, dialect) == once


@given(text=st.text(max_size=200), dialect=st.sampled_from(["postgres", "mysql"]))
def test_tokens_lose_nothing(text: str, dialect: str) -> None:
    assert "".join(token for _, token in redact.tokens(text, dialect)) == text


@pytest.mark.parametrize(
    "text",
    ["'" * 65536, "\\'" * 32768, "$a$" * 21845, "/*" * 32768, "://a:" * 13107 + "@", '"' * 65535, "(?," * 2700,
     "password " * 7281, "$a" * 32768, "1e" * 32768, "/*/" * 21845],
)  # fmt: skip
@pytest.mark.parametrize("dialect", ["postgres", "mysql"])
def test_hostile_text_costs_no_time(text: str, dialect: str) -> None:
    began = time.process_time()
    redact.redact("password" + text, dialect)
    redact.mask_literals(text, dialect)
    redact.fingerprint(text, dialect)
    assert time.process_time() - began < SLOW_S
