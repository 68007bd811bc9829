"""Tend: the node says that it lives, frees what is abandoned, purges what is over."""

from __future__ import annotations

import pytest
from engine_kit import DAY_MS, NODE, OTHER, START_MS, TYPE, MakeRig, Rig, handler

from slimq.core.lifecycle import FREE
from slimq.core.limits import (
    CRASHES_MAX,
    FREE_JOBS_MAX,
    LEASE_MS,
    PURGE_JOBS_MAX,
    RENEW_MS,
    SWEEP_MS,
)
from slimq.errors import StoreUnavailable
from slimq.janitor import PURGE_MS
from slimq.store.base import Node


def abandon(rig: Rig, count: int, lock: str = OTHER, type: str = TYPE) -> list[str]:
    """Let another node claim new jobs, and be silent until their leases are over."""
    rig.add(*(b"%d" % n for n in range(count)), type=type)
    rig.ingest_all()
    jobs = rig.memory.claim(type, lock, count, lease_ms=LEASE_MS, bytes_max=1 << 30).jobs
    rig.clock.advance(LEASE_MS)
    return [job.id for job in jobs]


def done(rig: Rig, status: int, count: int = 1, size: int = 1) -> list[str]:
    """Run jobs to their end with one status."""
    if not rig.memory.control().handlers:
        rig.memory.put_handler(handler(batch_size=1000, max_failures=1))
    ids = rig.add(*(b"x" * size for _ in range(count)))
    rig.step()
    while rig.air:
        rig.land(rig.air[0], status)
        rig.step()
    return ids


def kept(rig: Rig, ids: list[str]) -> list[bool]:
    return [rig.memory.job(id_) is not None for id_ in ids]


def test_a_node_says_that_it_lives_every_10_seconds(rig: Rig) -> None:
    assert rig.janitor.register()
    for _ in range(3):
        rig.janitor.step()
        rig.clock.advance(RENEW_MS - 1)
        rig.janitor.step()
        rig.clock.advance(1)
    beats = [args[0] for args, _ in rig.store.called("beat")]
    assert [beat.seen_at for beat in beats] == [START_MS + n * RENEW_MS for n in range(3)]
    (node,) = rig.memory.nodes()
    assert (node.sysid, node.about, node.started_at) == (NODE, {"pid": 1}, START_MS)


def test_an_earlier_boot_is_no_node_any_more_when_its_jobs_are_taken_back(rig: Rig) -> None:
    rig.memory.register(Node(OTHER, START_MS, START_MS, {}))
    rig.boot("nodeCCCC", [OTHER])
    abandon(rig, 2)
    assert rig.janitor.free_former().again == 2
    assert rig.janitor.free_former().again == 0
    assert [node.sysid for node in rig.memory.nodes()] == [OTHER]
    assert rig.janitor.register()
    assert [node.sysid for node in rig.memory.nodes()] == ["nodeCCCC"]


def test_a_sysid_of_a_living_node_is_not_reserved(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.janitor.register()
    other = make_rig(name="other", store=rig.memory, clock=rig.clock)
    assert not other.janitor.register()
    rig.clock.advance(LEASE_MS)
    assert other.janitor.register()


def test_abandoned_jobs_are_freed_every_5_seconds(rig: Rig) -> None:
    rig.janitor.step()
    (id_,) = abandon(rig, 1)
    freed = rig.janitor.step()
    assert freed is not None
    assert (freed.again, freed.dead, freed.heads) == (1, 0, {TYPE: START_MS})
    assert (rig.job(id_).lock, rig.job(id_).crashes) == (FREE, 1)
    rig.clock.advance(SWEEP_MS - 1)
    assert rig.janitor.step() is None
    rig.clock.advance(1)
    assert rig.janitor.step() == (0, 0, {})


def test_a_job_is_runnable_within_a_lease_and_a_sweep_after_its_node_died(rig: Rig) -> None:
    rig.step()
    rig.add(b"x")
    rig.ingest_all()
    rig.memory.claim(TYPE, OTHER, 1, lease_ms=LEASE_MS, bytes_max=9)
    rig.memory.put_handler(handler())
    died_at = rig.clock.wall_ms()
    while not rig.air:
        rig.clock.advance(1000)
        rig.step()
    assert rig.clock.wall_ms() - died_at <= LEASE_MS + SWEEP_MS


def test_more_than_one_transaction_of_abandoned_jobs_is_freed_at_once(rig: Rig) -> None:
    abandon(rig, FREE_JOBS_MAX + 3)
    counts = []
    while (freed := rig.janitor.step()) is not None:
        counts.append(freed.again)
    assert counts == [FREE_JOBS_MAX, 3]


def test_a_lease_that_holds_is_not_freed(rig: Rig) -> None:
    (flight,) = rig.launch(b"x")
    rig.clock.advance(LEASE_MS - 1)
    assert rig.janitor.step() == (0, 0, {})
    assert rig.job(flight.batch.jobs[0].id).lock == NODE


def test_a_job_that_was_abandoned_too_often_is_done_with_an_error(rig: Rig) -> None:
    (id_,) = abandon(rig, 1)
    for crashes in range(1, CRASHES_MAX):
        rig.clock.advance(SWEEP_MS)
        freed = rig.janitor.step()
        assert freed is not None
        assert (freed.again, freed.dead) == (1, 0)
        assert rig.job(id_).crashes == crashes
        rig.memory.claim(TYPE, OTHER, 1, lease_ms=1, bytes_max=9)
    rig.clock.advance(SWEEP_MS)
    assert rig.janitor.step() == (0, 1, {})
    assert rig.counts() == (0, 0, 0, 0, 1)


def test_the_jobs_of_a_former_boot_are_freed_before_their_leases_end(rig: Rig) -> None:
    rig.add(b"a", b"b")
    rig.ingest_all()
    rig.memory.claim(TYPE, "formerAA", 1, lease_ms=LEASE_MS, bytes_max=1)
    rig.memory.claim(TYPE, OTHER, 1, lease_ms=LEASE_MS, bytes_max=1)
    rig.boot("nodeCCCC", ["formerAA"])
    assert rig.janitor.free_former().again == 1
    assert rig.counts()[:2] == (1, 1)


# Purging.


def test_done_jobs_are_purged_when_their_time_is_over_ok_before_others(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(ok_ms=60_000, failed_ms=600_000)
    ids = [*done(rig, 200), *done(rig, 400), *done(rig, 500)]
    rig.clock.advance(60_000)
    rig.janitor.step()
    assert kept(rig, ids) == [True, True, True]
    rig.clock.advance(PURGE_MS)
    rig.janitor.step()
    assert kept(rig, ids) == [False, True, True]
    rig.clock.advance(600_000)
    rig.janitor.step()
    assert kept(rig, ids) == [False, False, False]
    assert rig.janitor.purged == 3


def test_only_done_jobs_are_purged(make_rig: MakeRig) -> None:
    rig = make_rig(ok_ms=0, failed_ms=0, bytes_max=0)
    rig.add(b"waits", type="acme/none")
    rig.launch(b"runs")
    rig.clock.advance(RENEW_MS)
    rig.step()
    assert rig.janitor.purged == 0
    assert rig.counts("acme/none")[0] == 1
    assert rig.counts()[1] == 1


def test_a_store_that_is_too_large_is_purged_longest_finished_first(make_rig: MakeRig) -> None:
    rig = make_rig(bytes_max=2500)
    ids = []
    for _ in range(4):
        ids += done(rig, 200, size=1000)
        rig.clock.advance(10)
    rig.clock.advance(PURGE_MS)
    rig.janitor.step()
    assert kept(rig, ids) == [False, False, True, True]


def test_more_than_one_transaction_of_old_jobs_is_purged_without_a_pause(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(ok_ms=1000)
    done(rig, 200, PURGE_JOBS_MAX + 3)
    rig.clock.advance(PURGE_MS + 1000)
    rig.janitor.step()
    assert rig.janitor.purged == PURGE_JOBS_MAX
    rig.janitor.step()
    assert rig.janitor.purged == PURGE_JOBS_MAX + 3


def test_nothing_is_purged_more_often_than_every_30_seconds(rig: Rig) -> None:
    for _ in range(60):
        rig.janitor.step()
        rig.clock.advance(1000)
    assert len(rig.store.called("purge")) == 2


# A store that fails.


@pytest.mark.parametrize("name", ["beat", "purge", "free"])
def test_what_the_store_could_not_do_stays_due(rig: Rig, name: str) -> None:
    abandon(rig, 1)
    rig.store.fail(name)
    with pytest.raises(StoreUnavailable):
        rig.janitor.step()
    assert rig.store.called(name) == []
    rig.janitor.step()
    assert len(rig.store.called(name)) == 1
    assert rig.counts()[:2] == (1, 0)


def test_purging_goes_on_by_itself_for_days(make_rig: MakeRig) -> None:
    rig = make_rig(ok_ms=DAY_MS)
    ids = []
    for _ in range(5):
        ids += done(rig, 200)
        rig.clock.advance(DAY_MS // 2)
        rig.janitor.step()
    assert kept(rig, ids) == [False, False, False, True, True]
