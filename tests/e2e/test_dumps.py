"""Dumps and restores through proxyd: the dump is byte for byte the direct one, the copy holds what the original holds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.databases import MariaRig, PostgresRig, mariadb_rig, postgres_rig
from tests.peers import mariadb, postgres

MYSQLDUMP = shutil.which("mysqldump")  # the name everybody's scripts have; Debian's is MariaDB's
ORIGIN = "origin"

pytestmark = [pytest.mark.mission("M14"), pytest.mark.timeout(240)]
needs_postgres = pytest.mark.skipif(not postgres.INSTALLED, reason="pg_dump is NOT tested: Debian's postgresql is not installed")  # fmt: skip
needs_mariadb = pytest.mark.skipif(not (mariadb.INSTALLED and MYSQLDUMP),
                                   reason="mysqldump is NOT tested: Debian's mariadb-server and mariadb-client are not installed")  # fmt: skip

# ------------------------------------------------------------------ PostgreSQL

POSTGRES = r"""
create schema "Odd näme";
create type mood as enum ('low', 'high');
create table plain (id bigserial primary key, name text not null, made timestamptz default '2026-01-01', price numeric(12, 3));
insert into plain (name, price) select md5(n::text) || E'\t\\ ''"ä\n', n / 7.0 from generate_series(1, 20000) n;
create table bytes (id int primary key, b bytea);
insert into bytes select n, sha512(n::text::bytea) || '\x00ff5c0a'::bytea from generate_series(1, 2000) n;
insert into bytes values (0, ''), (-1, null), (-2, decode(repeat('00ff5c', 1000000), 'hex'));
create table arrays (a int[], t text[][], j jsonb, m mood, r int4range, u uuid, v tsvector);
insert into arrays select array[n, null, -n], array[['a"b', 'c,d'], [null, '']], jsonb_build_object('n', n, 'x', '{"'), 'high',
    int4range(n, n + 5), md5(n::text)::uuid, to_tsvector('word' || n) from generate_series(1, 500) n;
insert into arrays (a) values ('{}'), (null);
create table "Odd näme"."T ""x"" \" (id int generated always as identity (start 5 increment 7), "a b" text);
insert into "Odd näme"."T ""x"" \" ("a b") select 'row ' || n from generate_series(1, 100) n;
create table parts (k int, t text) partition by range (k);
create table parts_low partition of parts for values from (0) to (500);
create table parts_high partition of parts for values from (500) to (1000);
insert into parts select n, repeat('p', n) from generate_series(0, 999) n;
create sequence lonely start 17 increment 5 minvalue -3;
select nextval('lonely'), nextval('lonely');
create sequence untouched;
create view seen as select id, name from plain where id % 2 = 0;
create index by_name on plain (lower(name));
create function twice(int) returns int language sql as $$ select $1 * 2 $$;
create table documents (id int, o oid);
insert into documents select n, lo_from_bytea(0, sha512(n::text::bytea)) from generate_series(1, 20) n;
insert into documents values (0, lo_from_bytea(0, decode(repeat('ff005c0a27', 800000), 'hex')));
comment on table plain is 'it''s plain';
"""
TABLES = """
select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = relnamespace
where relkind in ('r', 'p') and n.nspname !~ '^(pg_|information)' order by 1"""
SEQUENCES = """
select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = relnamespace
where relkind = 'S' order by 1"""
OBJECTS = "select count(*) || ' ' || md5(string_agg(oid || md5(lo_get(oid)), ',' order by oid)) from pg_largeobject_metadata"


@pytest.fixture(scope="module")
def pg(shared: Path) -> Iterator[PostgresRig]:
    """PostgreSQL behind proxyd, with a database of everything in it."""
    with postgres_rig(shared / "dumps-postgres") as rig:
        rig.server.psql(f"create database {ORIGIN}")
        rig.server.psql(POSTGRES, ORIGIN)
        yield rig


def restricted(dump: bytes) -> list[bytes]:
    r"""Give the lines of a dump without the random word that \restrict has."""
    return [line for line in dump.split(b"\n") if not line.startswith((b"\\restrict ", b"\\unrestrict "))]


def contents(rig: PostgresRig, database: str) -> dict[str, str]:
    """Hash what every table, sequence and large object holds, asked past proxyd."""
    found = {}
    for table in rig.server.psql(TABLES, database).splitlines():
        text = f"select count(*) || ' ' || md5(coalesce(string_agg(t::text, chr(10) order by t::text), '')) from {table} t"
        found[table] = rig.server.psql(text, database)
    for sequence in rig.server.psql(SEQUENCES, database).splitlines():
        found[sequence] = rig.server.psql(f"select last_value || ' ' || is_called from {sequence}", database)
    found["large objects"] = rig.server.psql(OBJECTS, database)
    return found


def assert_copied(rig: PostgresRig, database: str) -> None:
    """The copy holds what the original holds, and is made of the same things."""
    original, copy = contents(rig, ORIGIN), contents(rig, database)
    assert len(original) == 13 and original["public.plain"].startswith("20000 ")
    assert original["large objects"].startswith("21 ") and original["public.lonely"] == "22 true"
    assert copy == original
    made = [restricted(rig.run_directly("pg_dump", "--schema-only", name).stdout) for name in (ORIGIN, database)]  # fmt: skip
    assert made[0] == made[1]


@needs_postgres
@pytest.mark.parametrize("options", [(), ("--inserts",), ("--data-only", "--column-inserts")], ids=" ".join)
def test_plain_dump_is_the_direct_one(pg: PostgresRig, options: tuple[str, ...]) -> None:
    direct = pg.run_directly("pg_dump", *options, ORIGIN).stdout
    through = pg.run("pg_dump", *options, ORIGIN).stdout
    assert restricted(through) == restricted(direct)
    assert len(through) > 10_000_000


@needs_postgres
def test_custom_dump_holds_the_direct_one(pg: PostgresRig) -> None:
    paths = [pg.directory / "direct.dump", pg.directory / "through.dump"]
    pg.run_directly("pg_dump", "-Fc", "-f", paths[0], ORIGIN)
    pg.run("pg_dump", "-Fc", "-f", paths[1], ORIGIN)
    direct, through = (restricted(pg.run_directly("pg_restore", "-f", "-", path).stdout) for path in paths)
    assert through == direct and len(through) > 20_000


@needs_postgres
def test_plain_dump_restores(pg: PostgresRig) -> None:
    before = pg.proxyd.ids()
    pg.server.psql("create database restored_plain")
    dump = pg.run("pg_dump", ORIGIN).stdout
    pg.run("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", "restored_plain", stdin=dump)
    assert_copied(pg, "restored_plain")
    told = pg.told_since(before)
    assert all("result" in one and not one["result"].get("error") for one in told)
    copied = [one["result"]["rows"] for one in told if one["text"].lower().startswith("copy public.plain")]
    assert copied == [20_000, 20_000]  # out of the one, into the other


@needs_postgres
@pytest.mark.parametrize("form", ["custom", "directory", "tar"])
def test_archive_restores(pg: PostgresRig, form: str) -> None:
    database, archive = f"restored_{form}", pg.directory / f"archive.{form}"
    several = ("-j", "2") if form == "directory" else ()  # connections that share a snapshot
    pg.server.psql(f"create database {database}")
    pg.run("pg_dump", f"--format={form}", *several, "-f", archive, ORIGIN)
    jobs = () if form == "tar" else ("-j", "2")
    pg.run("pg_restore", "--exit-on-error", *jobs, "-d", database, archive)
    assert_copied(pg, database)


@needs_postgres
def test_custom_dump_piped_into_a_restore(pg: PostgresRig) -> None:
    pg.server.psql("create database restored_pipe")
    dump = pg.run("pg_dump", "-Fc", ORIGIN).stdout
    pg.run("pg_restore", "--exit-on-error", "--single-transaction", "-d", "restored_pipe", stdin=dump)
    assert_copied(pg, "restored_pipe")


# ------------------------------------------------------------------ MariaDB

MARIADB = r"""
set names utf8mb4;
create database origin character set utf8mb4;
use origin;
create table plain (id int auto_increment primary key, name varchar(80) not null, price decimal(12, 3), made datetime(6), key (name));
insert into plain (name, price, made) select concat(md5(seq), '\t\\\'"ä🐘\n'), seq / 7, '2026-01-01' + interval seq second
    from seq_1_to_20000;
create table bytes (id int primary key, b longblob, t text character set latin1, j json, y bit(9), e enum('low', 'high'), s set('a', 'b'));
insert into bytes select seq, concat(unhex(sha2(seq, 512)), x'00ff5c0a27'), 'ä', json_object('n', seq, 'x', '{"'), b'101', 'high', 'a,b'
    from seq_1_to_2000;
insert into bytes values (0, '', '', null, null, null, ''), (-1, null, null, null, null, null, null);
insert into bytes (id, b) values (-2, repeat(x'00ff5c27', 5000000));
create table `odd "näme" \` (`a b` int, f double, g float, t time(3), n varchar(10) default 'null');
insert into `odd "näme" \` select seq, pi() * seq, seq / 8, sec_to_time(seq), null from seq_1_to_100;
create table parts (k int, t text) partition by range (k) (partition low values less than (500), partition high values less than maxvalue);
insert into parts select seq, repeat('p', seq) from seq_0_to_999;
create sequence lonely start with 17 increment by 5;
select nextval(lonely), nextval(lonely);
create view seen as select id, name from plain where id % 2 = 0;
create function twice(n int) returns int deterministic return n * 2;
delimiter //
create procedure several() begin select 1; select 'it''s ä'; end //
create trigger noted before insert on parts for each row begin set new.t = coalesce(new.t, 'x'); end //
delimiter ;
"""
OPTIONS = ("--skip-comments", "--single-transaction", "--routines", "--triggers")


@pytest.fixture(scope="module")
def maria(shared: Path) -> Iterator[MariaRig]:
    """MariaDB behind proxyd, with a database of everything in it."""
    with mariadb_rig(shared / "dumps-mariadb") as rig:
        rig.server.sql(MARIADB)
        yield rig


def checksums(rig: MariaRig, database: str) -> dict[str, str]:
    """Hash what every table holds and where every sequence stands, asked past proxyd."""
    kinds = f"select table_name from information_schema.tables where table_schema = '{database}' and table_type = "
    found = {}
    for table in rig.server.sql(kinds + "'BASE TABLE'").splitlines():
        name = table.replace("\\\\", "\\")  # the client prints it escaped
        counted = rig.server.sql(f"select count(*) from {database}.`{name}`").strip()
        checksum = rig.server.sql(f"checksum table {database}.`{name}` extended").split()[-1]
        found[name] = f"{counted} {checksum}"
    for name in rig.server.sql(kinds + "'SEQUENCE'").splitlines():
        found[name] = rig.server.sql(f"select * from {database}.{name}")
    return found


@needs_mariadb
@pytest.mark.parametrize("more", [(), ("--hex-blob", "--skip-extended-insert"), ("--quick", "--no-create-info")], ids=" ".join)  # fmt: skip
def test_mysqldump_is_the_direct_one(maria: MariaRig, more: tuple[str, ...]) -> None:
    direct = maria.run_directly(str(MYSQLDUMP), *OPTIONS, *more, ORIGIN).stdout
    through = maria.run(str(MYSQLDUMP), *OPTIONS, *more, ORIGIN).stdout
    assert through == direct
    assert len(through) > 20_000_000


@needs_mariadb
def test_mysqldump_restores(maria: MariaRig) -> None:
    before = maria.proxyd.ids()
    maria.server.sql("create database restored character set utf8mb4")
    dump = maria.run(str(MYSQLDUMP), *OPTIONS, "--max-allowed-packet=128M", ORIGIN).stdout
    maria.run(str(mariadb.CLIENT), "--max-allowed-packet=128M", "--binary-mode", "restored", stdin=dump)
    original = checksums(maria, ORIGIN)
    assert len(original) == 5 and original["plain"].startswith("20000 ")
    assert checksums(maria, "restored") == original
    again = [maria.run_directly(str(MYSQLDUMP), *OPTIONS, name).stdout for name in (ORIGIN, "restored")]
    assert again[0].replace(b"`origin`", b"`restored`") == again[1]
    told = maria.told_since(before)
    assert all("result" in one and not one["result"].get("error") for one in told)
    poured = [one["result"]["rows"] for one in told if one["text"].startswith("INSERT INTO `plain`")]
    assert sum(poured) == 20_000
