"""The supervisor: which workers it starts, starts anew and ends. Its processes are pretended."""

from __future__ import annotations

import io
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clock_kit import FakeClock
from slimq.api.server import reserve
from slimq.config import Config, load
from slimq.supervisor import (
    DRAIN_MARGIN_MS,
    PAUSE_MAX_MS,
    PAUSE_MIN_MS,
    STEADY_MS,
    Pauses,
    Supervisor,
    left_over,
)
from slimq.system.fork import Body, Ended, Heard
from slimq.system.log import EventLog

DRAIN_MS = 25_000


class FakeForks:
    """Processes that live until the test says otherwise. `script` is what `wait` does next:
    each item is called, and what happened is heard."""

    def __init__(self) -> None:
        self.next_pid = 100
        self.alive: list[int] = []
        self.ended: list[Ended] = []
        self.sent: list[tuple[int, int]] = []
        self.refusals = 0

    def fork(self, body: Body) -> int:
        if self.refusals:
            self.refusals -= 1
            raise OSError(11, "too many processes")
        self.next_pid += 1
        self.alive.append(self.next_pid)
        return self.next_pid

    def send(self, pid: int, number: int) -> None:
        assert pid in self.alive
        self.sent.append((pid, number))

    def bury(self) -> list[Ended]:
        ended, self.ended = self.ended, []
        return ended

    def wait(self, timeout_s: float | None) -> Heard:
        raise AssertionError("the test makes the steps")

    def die(self, pid: int, code: int) -> None:
        self.alive.remove(pid)
        self.ended.append(Ended(pid, code))


class Yard:
    """A supervisor over pretended processes."""

    def __init__(self, folder: Path, workers: int) -> None:
        flags: dict[str, Any] = {"data.path": str(folder), "server.workers": workers}
        self.config: Config = load(flags, {}, folder / "config")
        self.reserved = reserve("127.0.0.1", 0)
        self.forks, self.clock = FakeForks(), FakeClock()
        self.log = io.StringIO()
        self.ready = 0
        self.given: list[tuple[Config, socket.socket | None]] = []
        self.supervisor = Supervisor(
            self.config,
            self.reserved,
            forks=self.forks,
            clock=self.clock,
            log=EventLog(self.log, self.clock),
            work=self._work,
            ready=self._on_ready,
        )

    def _work(self, config: Config, listener: socket.socket | None) -> Body:
        self.given.append((config, listener))
        return lambda parent: 0

    def _on_ready(self) -> None:
        self.ready += 1

    def close(self) -> None:
        self.supervisor.hear(Heard(True, frozenset()))
        self.reserved.close()

    def tell_ready(self) -> None:
        """All say that they are ready."""
        self.supervisor.hear(Heard(False, frozenset(self.forks.alive)))
        self.supervisor.step()

    def end(self) -> None:
        self.supervisor.hear(Heard(True, frozenset()))

    def die(self, pid: int, code: int = -signal.SIGKILL) -> None:
        self.forks.die(pid, code)
        self.supervisor.step()

    def pauses(self) -> list[int]:
        events = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [event["pause_ms"] for event in events if event["event"] == "worker.died"]


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path, 3)
    yard.supervisor.step()
    yield yard
    yard.close()


def test_each_worker_has_a_folder_and_a_socket_of_its_own_at_one_address(yard: Yard) -> None:
    configs = [config for config, _ in yard.given]
    sockets = [listener for _, listener in yard.given]
    data = Path(yard.config.data.path)
    assert [config.node_path for config in configs] == [data, data / "nodes/2", data / "nodes/3"]
    assert {config.store_path for config in configs} == {data / "store.db"}
    assert {config.secret_path for config in configs} == {data / "webhook.secret"}
    assert len({listener.fileno() for listener in sockets if listener}) == 3
    addresses = {listener.getsockname() for listener in sockets if listener}
    assert addresses == {yard.reserved.getsockname()}


def test_the_whole_is_ready_when_every_worker_is_and_says_so_once(yard: Yard) -> None:
    first, *others = yard.forks.alive
    yard.supervisor.hear(Heard(False, frozenset(others)))
    yard.supervisor.step()
    assert yard.ready == 0
    yard.supervisor.hear(Heard(False, frozenset([first])))
    yard.supervisor.step()
    yard.die(first)
    yard.tell_ready()
    assert yard.ready == 1


def test_a_worker_that_died_is_started_anew_at_once_on_the_same_socket(yard: Yard) -> None:
    yard.tell_ready()
    yard.die(yard.forks.alive[1])
    assert len(yard.forks.alive) == 3
    (_, second), (again, socket_again) = yard.given[1], yard.given[3]
    assert again.worker == 2
    assert socket_again is second


def test_a_worker_that_ended_its_socket_gets_a_new_one_at_the_same_address(yard: Yard) -> None:
    yard.tell_ready()
    first = yard.given[0][1]
    assert first is not None
    first.shutdown(socket.SHUT_RDWR)
    yard.die(yard.forks.alive[0], 0)
    again = yard.given[3][1]
    assert again is not None
    assert again is not first
    assert again.getsockname() == yard.reserved.getsockname()


def test_a_worker_that_dies_again_and_again_waits_longer_and_longer(yard: Yard) -> None:
    yard.tell_ready()
    for _ in range(9):
        yard.die(yard.forks.alive[-1])
        yard.clock.advance(yard.pauses()[-1])
        yard.supervisor.step()
        assert len(yard.forks.alive) == 3
    pauses = yard.pauses()
    assert pauses[:4] == [0, PAUSE_MIN_MS, 2 * PAUSE_MIN_MS, 4 * PAUSE_MIN_MS]
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MAX_MS


def test_who_lived_for_a_while_is_started_at_once_again() -> None:
    pauses = Pauses()
    assert [pauses.next_ms(100) for _ in range(3)] == [0, 250, 500]
    assert pauses.next_ms(STEADY_MS) == 0
    assert [pauses.next_ms(100) for _ in range(2)] == [0, 250]


def test_nobody_waits_in_the_queue_of_a_worker_that_pauses(yard: Yard) -> None:
    yard.tell_ready()
    yard.die(yard.forks.alive[-1])
    listener = yard.given[-1][1]
    yard.die(yard.forks.alive[-1])
    assert listener is not None
    assert listener.fileno() == -1
    assert len(yard.forks.alive) == 2


def test_a_machine_that_has_no_process_left_is_asked_again(yard: Yard) -> None:
    yard.tell_ready()
    yard.forks.refusals = 3
    yard.die(yard.forks.alive[0])
    for _ in range(4):
        yard.clock.advance(PAUSE_MAX_MS)
        yard.supervisor.step()
    assert len(yard.forks.alive) == 3


def test_a_worker_that_cannot_start_the_first_time_ends_all_with_its_code(yard: Yard) -> None:
    first, second, third = yard.forks.alive
    yard.die(second, 4)
    assert yard.forks.sent == [(first, signal.SIGTERM), (third, signal.SIGTERM)]
    yard.die(first, 0)
    yard.die(third, -signal.SIGTERM)  # it had not begun
    assert not yard.supervisor.step()
    assert yard.supervisor.code == 4


def test_workers_that_cannot_start_together_are_not_signalled_when_they_are_gone(
    yard: Yard,
) -> None:
    first, second, third = yard.forks.alive
    yard.forks.die(first, 3)
    yard.die(third, 3)
    assert yard.forks.sent == [(second, signal.SIGTERM)]
    yard.die(second, 0)
    assert not yard.supervisor.step()
    assert yard.supervisor.code == 3


def test_the_end_is_told_to_all_and_its_code_is_0_when_all_end_well(yard: Yard) -> None:
    yard.tell_ready()
    workers = list(yard.forks.alive)
    yard.end()
    yard.end()
    assert yard.forks.sent == [(pid, signal.SIGTERM) for pid in workers]
    for pid in workers:
        assert yard.supervisor.step()
        yard.die(pid, 0)
    assert not yard.supervisor.step()
    assert yard.supervisor.code == 0
    assert len(yard.given) == 3


def test_what_does_not_end_is_killed_after_the_drain_and_a_margin(yard: Yard) -> None:
    yard.tell_ready()
    one, two, three = yard.forks.alive
    yard.end()
    yard.die(one, 0)
    yard.forks.sent.clear()
    yard.clock.advance(DRAIN_MS + DRAIN_MARGIN_MS - 1)
    yard.supervisor.step()
    assert yard.forks.sent == []
    yard.clock.advance(1)
    yard.supervisor.step()
    assert yard.forks.sent == [(two, signal.SIGKILL), (three, signal.SIGKILL)]
    yard.die(two)
    yard.die(three)
    assert not yard.supervisor.step()
    assert yard.supervisor.code == 1


def test_a_worker_that_fails_at_the_end_makes_the_code_1(yard: Yard) -> None:
    yard.tell_ready()
    yard.end()
    for pid, code in zip(list(yard.forks.alive), (0, 1, 0), strict=True):
        yard.die(pid, code)
    assert yard.supervisor.code == 1


# What is left over.


def leave_journal(folder: Path, name: str) -> None:
    journal = folder / "nodes" / name / "journal"
    journal.mkdir(parents=True)
    (journal / "00000001.0123456789abcdef.journal").touch()


def test_journals_in_the_folders_of_workers_that_are_no_more_are_found(tmp_path: Path) -> None:
    for name in ("2", "3", "4", "10", "x", "5.old"):
        leave_journal(tmp_path, name)
    (tmp_path / "nodes" / "6" / "journal").mkdir(parents=True)  # brought in already
    config = load({"data.path": str(tmp_path), "server.workers": "3"}, {}, tmp_path / "config")
    assert left_over(config) == [4, 10]


def test_what_is_left_over_is_brought_in_without_a_socket_and_then_is_over(
    tmp_path: Path,
) -> None:
    leave_journal(tmp_path, "2")
    yard = Yard(tmp_path, 1)
    yard.supervisor.step()
    (serving, listener), (bringing, none) = yard.given
    assert listener is not None
    assert none is None
    assert (serving.worker, serving.server.roles) == (1, ("accept", "run"))
    assert (bringing.worker, bringing.server.roles) == (2, ())
    first, second = yard.forks.alive
    yard.supervisor.hear(Heard(False, frozenset([first])))
    yard.supervisor.step()
    assert yard.ready == 1
    yard.supervisor.hear(Heard(False, frozenset([second])))
    yard.die(second)
    assert len(yard.forks.alive) == 2, "it is started anew when it dies"
    yard.die(yard.forks.alive[1], 0)
    assert yard.forks.alive == [first], "and not when it is done"
    yard.close()
