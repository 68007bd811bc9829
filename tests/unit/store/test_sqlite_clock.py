"""All nodes of a machine judge leases by one clock, which no step of the wall clock moves."""

from __future__ import annotations

import pytest
from sqlite_kit import NODE, START_MS, Opener, claim, finish, leases

from slimq.core.limits import LEASE_MS
from slimq.store.base import JobFilter, Node
from slimq.store.sqlite_clock import DRIFT_MAX_MS, boot_id

HOUR_MS = 3_600_000
OTHER = "nodeBBBB"


def node(sysid: str) -> Node:
    return Node(sysid, START_MS, 0, {})


def test_the_clock_starts_with_the_time_of_day(opener: Opener):
    assert opener.open().now() == START_MS


@pytest.mark.parametrize("step", [-HOUR_MS, HOUR_MS])
def test_a_step_of_the_wall_clock_expires_no_lease_and_lengthens_none(opener: Opener, step: int):
    first = opener.open()
    assert first.register(node(NODE))
    opener.add(first, count=2)
    jobs = claim(first)
    opener.clock.wall += step
    opener.clock.advance(10)
    second = opener.open()
    assert second.register(node(OTHER))
    assert second.now() == first.now() == START_MS + 10
    assert second.free(10).again == 0
    assert second.claim("acme/mail", OTHER, 9, lease_ms=LEASE_MS, bytes_max=99).jobs == []
    opener.clock.advance(LEASE_MS - 11)
    assert second.free(10).again == 0
    opener.clock.advance(1)
    assert second.free(10).again == len(jobs)


@pytest.mark.parametrize("step", [-HOUR_MS, HOUR_MS])
def test_a_node_that_starts_alone_sets_the_clock_and_leases_keep_what_is_left(
    opener: Opener, step: int
):
    first = opener.open()
    first.register(node(NODE))
    opener.add(first)
    jobs = claim(first)
    opener.clock.advance(LEASE_MS)
    first.renew(NODE, leases(jobs), lease_ms=LEASE_MS)
    first.close()
    opener.clock.advance(10)
    opener.clock.wall += step
    second = opener.open()
    assert second.now() == START_MS + LEASE_MS + 10 + step
    assert second.register(node(NODE))  # it was not seen for a whole lease
    opener.clock.advance(LEASE_MS - 11)
    assert second.free(9).again == 0
    opener.clock.advance(1)
    assert second.free(9).again == 1


def test_a_sysid_stays_reserved_over_a_step_back(opener: Opener):
    first = opener.open()
    first.register(node(NODE))
    opener.clock.wall -= HOUR_MS
    assert not opener.open().register(node(NODE))


def test_a_small_drift_is_not_worth_a_step(opener: Opener):
    first = opener.open()
    before = first.now()
    first.close()
    opener.clock.wall += DRIFT_MAX_MS
    assert opener.open().now() == before
    opener.clock.wall += 1
    assert opener.open().now() == before + DRIFT_MAX_MS + 1


def test_after_a_boot_all_leases_are_over_and_all_nodes_are_gone(opener: Opener):
    first = opener.open()
    first.register(node(NODE))
    opener.add(first, count=2)
    claim(first)
    first.close()
    opener.clock.wall += 5000
    opener.clock.boot = 300
    second = opener.open(boot="b2")
    assert second.now() == START_MS + 5000
    assert second.free(9).again == 2
    assert second.register(node(NODE))


def test_done_and_deferred_jobs_keep_their_times_over_a_boot(opener: Opener):
    first = opener.open()
    opener.add(first)
    finish(first, claim(first))
    opener.add(first)
    before = first.jobs(JobFilter(), before="", limit=9)
    first.close()
    opener.clock.wall += HOUR_MS
    opener.clock.boot = 7
    assert opener.open(boot="b2").jobs(JobFilter(), before="", limit=9) == before


def test_an_open_store_takes_over_the_clock_that_another_set(opener: Opener):
    first = opener.open()
    first.now()
    opener.clock.wall += HOUR_MS
    assert opener.open().now() == START_MS + HOUR_MS
    opener.add(first)
    assert first.now() == START_MS + HOUR_MS


def test_a_node_that_was_not_seen_for_long_follows_a_clock_that_another_set_back(opener: Opener):
    first = opener.open()
    first.register(node(NODE))
    opener.clock.advance(LEASE_MS)
    opener.clock.wall -= HOUR_MS
    second = opener.open()
    assert second.register(node(OTHER))
    opener.add(second)
    opener.clock.advance(HOUR_MS)  # the job is due
    assert len(second.claim("acme/mail", OTHER, 9, lease_ms=LEASE_MS, bytes_max=99).jobs) == 1
    assert first.free(9).again == 0
    assert first.now() == second.now()


def test_a_connection_that_is_made_anew_keeps_the_clock(opener: Opener):
    store = opener.open()
    opener.add(store)
    store.close()
    opener.clock.wall += HOUR_MS
    opener.clock.advance(3)
    opener.add(store)
    assert store.now() == START_MS + 3


def test_the_machine_names_its_boot():
    assert boot_id() == boot_id() != ""
