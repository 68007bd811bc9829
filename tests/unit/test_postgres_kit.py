"""The PostgreSQL of the tests does what the tests of the store rely on."""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from postgres_kit import PgBouncer, Server, either, or_skip, wait_until
from postgres_server import NoPostgres, find_binaries

MakeServer = Callable[..., Server]
MakePgBouncer = Callable[..., PgBouncer]
COUNT = "SELECT count(*) FROM kept"


@pytest.fixture
def own(make_postgres: MakeServer) -> Server:
    """A server with a table of one row."""
    server = make_postgres()
    server.execute("CREATE TABLE kept (number int)")
    server.execute("INSERT INTO kept VALUES (1)")
    return server


def count(server: Server) -> int:
    ((number,),) = server.execute(COUNT)
    assert isinstance(number, int)
    return number


def processes_of(folder: Path) -> list[int]:
    """Return who works in a folder, and is not dead."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if folder in ((entry / "cwd").readlink(), *(entry / "cwd").readlink().parents):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


# --- the server and its databases --------------------------------------------------------


def test_a_server_speaks_utf8_in_collation_c_on_loopback_only(postgres: Server) -> None:
    row = "current_setting('server_encoding'), datcollate, current_setting('listen_addresses')"
    rows = postgres.execute(f"SELECT {row} FROM pg_database WHERE datname = 'template1'")
    assert rows == [("UTF8", "C", "127.0.0.1")]
    assert stat.S_IMODE(postgres.folder.stat().st_mode) == 0o700
    socket = f"postgresql://postgres@/postgres?host={postgres.folder}&port={postgres.port}"
    psycopg.connect(socket).close()


def test_a_server_runs_as_somebody_who_is_not_root(postgres: Server) -> None:
    assert postgres.process is not None
    status = Path(f"/proc/{postgres.process.pid}/status").read_text()
    users = next(line for line in status.splitlines() if line.startswith("Uid:"))
    assert "0" not in users.split()[1:]
    groups = next(line for line in status.splitlines() if line.startswith("Groups:"))
    assert "0" not in groups.split()[1:]


def test_every_test_gets_an_empty_database_and_leaves_none_also_with_a_client_in_it(
    postgres: Server,
) -> None:
    for number in range(3):
        name = f"measured_{number}"
        with closing(psycopg.connect(postgres.create_database(name))) as client:
            assert client.execute("SELECT count(*) FROM pg_stat_user_tables").fetchall() == [(0,)]
            postgres.drop_database(name)
    left = postgres.execute("SELECT datname FROM pg_database WHERE datname LIKE 'measured%%'")
    assert left == []


def test_a_database_is_a_copy_of_its_template(postgres: Server) -> None:
    postgres.create_database("pattern")
    postgres.execute("CREATE TABLE kept (number int)", database="pattern")
    postgres.create_database("copy", template="pattern")
    assert postgres.execute(COUNT, database="copy") == [(0,)]
    for name in ("copy", "pattern"):
        postgres.drop_database(name)


def test_the_database_of_a_test_is_empty(database: str) -> None:
    with psycopg.connect(database) as connection:
        tables = connection.execute("SELECT * FROM pg_tables WHERE schemaname = 'public'")
        assert tables.fetchall() == []


def test_a_password_is_asked_for_when_wanted(make_postgres: MakeServer) -> None:
    server = make_postgres(auth="scram-sha-256", durable=True, settings={"max_connections": "20"})
    server.create_user("reader", "right")
    psycopg.connect(server.url(user="reader", password="right")).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url(user="reader", password="wrong"))
    shown = "SELECT current_setting('fsync'), current_setting('max_connections')"
    assert server.execute(shown) == [("on", "20")]


def test_a_database_may_have_another_encoding(postgres: Server) -> None:
    postgres.create_encoded("ascii", "SQL_ASCII")
    rows = postgres.execute(
        "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'ascii'"
    )
    assert rows == [("SQL_ASCII",)]
    postgres.drop_database("ascii")


# --- what happens to a server ------------------------------------------------------------


def test_a_stopped_server_refuses_and_comes_back_on_its_port_with_its_data(own: Server) -> None:
    port = own.port
    own.stop()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        own.connect()
    own.start()
    own.restart("immediate")
    assert (own.port, count(own)) == (port, 1)


def test_a_killed_server_is_dead_with_all_its_processes_and_recovers(own: Server) -> None:
    client = own.connect()
    own.kill()
    assert processes_of(own.folder) == []
    with pytest.raises(psycopg.OperationalError):
        client.execute(COUNT)
    client.close()
    own.start()
    assert count(own) == 1
    assert "was not properly shut down" in own.log.read_text()


def test_a_paused_server_answers_nothing_until_it_is_resumed(own: Server) -> None:
    with closing(own.connect()) as client:
        own.pause()
        client.pgconn.send_query(COUNT.encode())
        client.pgconn.flush()
        assert not select.select([client], [], [], 0.2)[0]
        own.resume()
        assert select.select([client], [], [], 30)[0]
        result = client.pgconn.get_result()
        assert result is not None
        assert result.get_value(0, 0) == b"1"
    own.pause()
    own.kill()  # a frozen one can be killed, too
    assert processes_of(own.folder) == []


def test_cut_connections_are_those_of_clients_and_of_the_database(postgres: Server) -> None:
    one, two = postgres.create_database("one"), postgres.create_database("two")
    with psycopg.connect(one) as cut, psycopg.connect(two, autocommit=True) as spared:
        assert postgres.terminate_backends("one") == 1
        with pytest.raises(psycopg.OperationalError, match="terminat"):
            cut.execute("SELECT 1")
        spared.execute("SELECT 1")
    for name in ("one", "two"):
        postgres.drop_database(name)


def test_a_closed_server_leaves_no_process_and_no_folder() -> None:
    with or_skip(Server) as server:
        folder = server.folder
        assert processes_of(folder) != []
    assert processes_of(folder) == []
    assert not folder.exists()


STARTER = """
import sys
from postgres_kit import Server
server = Server()
print(server.folder, flush=True)
sys.stdin.read()
"""


def test_a_server_ends_when_who_started_it_was_killed(postgres: Server) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        folder = Path(starter.stdout.readline().strip())
        assert processes_of(folder) != []
        starter.kill()
    wait_until(lambda: not folder.exists(), "the folder is gone")
    assert processes_of(folder) == []


# --- a replica, a PgBouncer --------------------------------------------------------------


def test_a_replica_lags_when_told_and_is_promoted_without_what_had_not_arrived(
    own: Server,
) -> None:
    with own.replica() as replica:
        replica.catch_up()
        assert count(replica) == 1
        replica.pause_replay()
        own.execute("INSERT INTO kept VALUES (2)")
        replica.receive(own.written())
        assert count(replica) == 1
        replica.resume_replay()
        replica.catch_up()
        assert count(replica) == 2
        replica.disconnect()
        own.execute("INSERT INTO kept VALUES (3)")
        own.kill()
        replica.promote()
        with psycopg.connect(either(own, replica)) as client:
            client.execute("INSERT INTO kept VALUES (4)")
        assert replica.execute("SELECT number FROM kept ORDER BY 1") == [(1,), (2,), (4,)]


def test_a_delayed_replica_applies_later(own: Server) -> None:
    with own.replica(delay="10min") as replica:
        own.execute("INSERT INTO kept VALUES (2)")
        replica.receive(own.written())
        assert count(replica) == 1


def test_a_pgbouncer_shares_few_connections_among_many_clients(
    own: Server, make_pgbouncer: MakePgBouncer
) -> None:
    bouncer = make_pgbouncer(own, size=1)
    url = bouncer.url()
    with (
        psycopg.connect(url, autocommit=True, prepare_threshold=None) as one,
        psycopg.connect(url, autocommit=True, prepare_threshold=None) as two,
    ):
        backends = {client.execute("SELECT pg_backend_pid()").fetchone() for client in (one, two)}
        assert len(backends) == 1
        bouncer.stop()
        with pytest.raises(psycopg.OperationalError):
            one.execute("SELECT 1")
    bouncer.start()
    psycopg.connect(url).close()


# --- no server ---------------------------------------------------------------------------


def no_server() -> None:
    raise NoPostgres("there is none")


def test_without_a_server_a_test_is_skipped_with_the_reason() -> None:
    for environment in ({}, {"CI": ""}, {"CI": "false"}):
        with pytest.raises(pytest.skip.Exception, match="there is none"):
            or_skip(no_server, environment)


def test_without_a_server_a_test_fails_where_ci_is_set() -> None:
    for value in ("true", "1", "yes"):
        with pytest.raises(pytest.fail.Exception, match="there is none"):
            or_skip(no_server, {"CI": value})


def test_what_does_not_start_says_why() -> None:
    or_skip(find_binaries)
    with pytest.raises(NoPostgres, match="max_connections"):
        Server(settings={"max_connections": "none"})
