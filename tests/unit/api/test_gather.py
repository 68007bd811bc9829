"""Small requests that are here in one turn of the loop share a record; see `gather.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from api_kit import FakeNode

from slimq.api.accept import Acceptor
from slimq.api.add import AddIntake
from slimq.api.gather import SMALL_MAX, TOGETHER_MAX
from slimq.api.keys_pending import PendingKeys
from slimq.api.outcome import Accepted, Outcome
from slimq.core.jobid import Minter
from slimq.core.limits import MIB
from slimq.errors import DiskFull, ShuttingDown, SlimqError
from slimq.journal.append import Append
from slimq.journal.body import Body, BodyBudget
from slimq.system.clock import SystemClock
from slimq.system.disk import SystemDisk

SYSID = "testnode"
MAIL = b"jobtype=mail"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Accepting:
    """Requests, and the records that come of them. `closed` is what the journal refuses with."""

    def __init__(self, folder: Path) -> None:
        self.records: list[Append] = []
        self.outcomes: list[list[Outcome]] = []
        self.closed: SlimqError | None = None
        self.budget = BodyBudget(folder, disk=SystemDisk(), body_max=MIB)
        acceptor = Acceptor(
            minter=Minter(SYSID),
            submit=self._submit,
            refusal=lambda: None,
            new_body=lambda: Body(self.budget),
            body_max=MIB,
            clock=SystemClock(),
            node=FakeNode(SYSID),
            keys=PendingKeys(),
        )
        self._intake = AddIntake(acceptor)

    def ask(
        self, body: bytes, query: bytes = MAIL, fields: dict[bytes, bytes] | None = None
    ) -> list[Outcome]:
        """Let a request arrive as a whole; return the list in which its outcome will be."""
        adding = self._intake.begin(query, fields or {}, len(body))
        adding.feed(body)
        outcomes: list[Outcome] = []
        adding.finish(outcomes.append)
        self.outcomes.append(outcomes)
        return outcomes

    def end(self, error: SlimqError | None = None) -> None:
        """Say what became of the records."""
        for record in self.records:
            record.error = error
            assert record.done is not None
            record.done(record)

    def bodies(self) -> list[bytes]:
        return [b"".join(record.body.pieces) for record in self.records]

    def ids(self) -> list[list[str]]:
        """Return the ids that each request was answered with."""
        found = []
        for outcomes in self.outcomes:
            (accepted,) = outcomes
            assert isinstance(accepted, Accepted)
            assert accepted.first == accepted.ids.first
            found.append(accepted.ids.ids())
        return found

    def _submit(self, append: Append) -> None:
        if self.closed is not None:
            raise self.closed
        self.records.append(append)


@pytest.fixture
def accepting(tmp_path: Path) -> Accepting:
    return Accepting(tmp_path)


def in_one_turn(ask: Callable[[], None]) -> None:
    """Let requests arrive in one turn of the loop, and that turn end."""

    async def turn() -> None:
        ask()
        await asyncio.sleep(0)

    asyncio.run(turn())


def test_each_request_is_answered_with_its_own_ids_in_the_order_of_the_lines(accepting):
    in_one_turn(lambda: [accepting.ask(body) for body in (b"a\n", b"b\nc", b"d\n\n", b"e")])
    assert accepting.bodies() == [b"a\nb\nc\nd\n\ne\n"]
    (record,) = accepting.records
    accepting.end()
    answered = accepting.ids()
    assert [len(ids) for ids in answered] == [1, 2, 2, 1]
    together = [id_ for ids in answered for id_ in ids]
    assert together == sorted(set(together))
    assert (record.header.id, record.header.count) == (together[0], 6)
    assert record.requests == 4


def test_nobody_is_answered_before_the_record_is_durable(accepting):
    in_one_turn(lambda: [accepting.ask(b"a"), accepting.ask(b"b")])
    assert accepting.outcomes == [[], []]
    accepting.end()
    assert [len(outcomes) for outcomes in accepting.outcomes] == [1, 1]


def test_when_the_record_cannot_be_written_all_of_its_requests_are_refused(accepting):
    in_one_turn(lambda: [accepting.ask(b"a"), accepting.ask(b"b\nc")])
    error = DiskFull("full")
    accepting.end(error)
    assert accepting.outcomes == [[error], [error]]


def test_when_the_journal_is_closed_all_are_refused_and_no_memory_is_held(accepting):
    accepting.closed = ShuttingDown("it is stopping")
    in_one_turn(lambda: [accepting.ask(b"a"), accepting.ask(b"b")])
    assert accepting.outcomes == [[accepting.closed], [accepting.closed]]
    assert accepting.budget.in_memory == 0


def test_a_body_without_a_line_is_refused_alone(accepting):
    in_one_turn(lambda: [accepting.ask(b"a"), accepting.ask(b""), accepting.ask(b"b")])
    accepting.end()
    good, bad, other = (outcomes[0] for outcomes in accepting.outcomes)
    assert isinstance(bad, SlimqError)
    assert (bad.slug, bad.status) == ("bad-body", 400)
    assert isinstance(good, Accepted)
    assert isinstance(other, Accepted)
    assert accepting.bodies() == [b"a\nb\n"]


def test_a_request_that_arrives_alone_is_alone_and_waits_for_nobody(accepting):
    for body in (b"a", b"b"):
        in_one_turn(lambda body=body: accepting.ask(body))
    assert accepting.bodies() == [b"a\n", b"b\n"]
    assert [record.requests for record in accepting.records] == [1, 1]


def test_a_record_has_a_bounded_number_of_requests(accepting):
    bodies = [b"%d\n" % number for number in range(2 * TOGETHER_MAX + 1)]
    in_one_turn(lambda: [accepting.ask(body) for body in bodies])
    assert [record.requests for record in accepting.records] == [TOGETHER_MAX, TOGETHER_MAX, 1]
    assert b"".join(accepting.bodies()) == b"".join(bodies)
    accepting.end()
    together = [id_ for ids in accepting.ids() for id_ in ids]
    assert together == sorted(set(together))


def test_even_the_largest_that_share_a_record_fit_into_the_smallest_body_max(accepting):
    in_one_turn(lambda: [accepting.ask(b"x" * SMALL_MAX) for _ in range(TOGETHER_MAX)])
    (record,) = accepting.records
    assert record.body.length <= MIB
    accepting.end()
    assert all(len(ids) == 1 for ids in accepting.ids())


def test_a_larger_body_has_a_record_of_its_own(accepting):
    sizes = [1, SMALL_MAX + 1, SMALL_MAX]
    in_one_turn(lambda: [accepting.ask(b"x" * size) for size in sizes])
    lengths = sorted(record.body.length for record in accepting.records)
    assert lengths == [SMALL_MAX + 1, 1 + SMALL_MAX + 2]


def test_jobtypes_clients_and_levels_are_kept_apart(accepting):
    queries = [MAIL, b"jobtype=push", MAIL + b"&client=b", MAIL + b"&durability=buffered"]
    in_one_turn(lambda: [accepting.ask(b"x", query) for query in queries * 2])
    found = {(r.header.type, r.durability, r.requests) for r in accepting.records}
    assert found == {
        ("main/mail", "journal", 2),
        ("main/push", "journal", 2),
        ("b/mail", "journal", 2),
        ("main/mail", "buffered", 2),
    }
    accepting.end()
    for outcomes in accepting.outcomes[3::4]:
        assert isinstance(outcomes[0], Accepted)
        assert outcomes[0].durability == "buffered"


@pytest.mark.parametrize(
    ("query", "fields"),
    [(MAIL + b"&delay=1h", {}), (MAIL, {b"traceparent": TRACE})],
    ids=["deferred", "traced"],
)
def test_what_a_record_says_of_all_its_jobs_is_not_said_of_others(accepting, query, fields):
    in_one_turn(lambda: [accepting.ask(b"a"), accepting.ask(b"b", query, fields)])
    plain = next(r.header for r in accepting.records if b"".join(r.body.pieces) == b"a\n")
    assert (plain.dt, plain.trace, plain.count) == (0, "", 1)
    assert len(accepting.records) == 2
