"""A limit holds for all nodes of a store together."""

from __future__ import annotations

from store_kit import NODE, OTHER, Yard

from slimq.core.limits import LEASE_MS
from slimq.store.base import Ask, Node

LIMIT = "acme/mail"


def ask(yard: Yard, lock: str, most: int, wanted: int, running: int = 0, name: str = LIMIT) -> int:
    store = yard.store if lock == NODE else yard.other
    (permits,) = store.permit(lock, [Ask(name, most, running, wanted)], lease_ms=LEASE_MS)
    return permits


def test_all_nodes_together_get_no_more_permits_than_there_are(yard):
    assert ask(yard, NODE, 5, 3) == 3
    assert ask(yard, OTHER, 5, 4) == 2
    assert ask(yard, NODE, 5, 5, running=3) == 3


def test_permits_that_are_given_back_are_for_others_at_once(yard):
    assert ask(yard, NODE, 5, 5) == 5
    assert ask(yard, OTHER, 5, 5) == 0
    assert ask(yard, NODE, 5, 1, running=1) == 1
    assert ask(yard, OTHER, 5, 5) == 4
    assert ask(yard, NODE, 5, 0) == 0
    assert ask(yard, OTHER, 5, 5) == 5


def test_limits_do_not_know_of_each_other(yard):
    asks = [Ask("acme/mail", 2, 0, 9), Ask("acme/hash", 3, 0, 9), Ask("* mail", 4, 0, 1)]
    assert yard.store.permit(NODE, asks, lease_ms=LEASE_MS) == [2, 3, 1]
    asks = [Ask("* mail", 4, 0, 9), Ask("acme/mail", 3, 0, 9), Ask("acme/hash", 3, 0, 9)]
    assert yard.other.permit(OTHER, asks, lease_ms=LEASE_MS) == [3, 1, 0]


def test_permits_last_as_long_as_a_lease_and_are_extended_by_asking_again(yard):
    ask(yard, NODE, 5, 5)
    yard.clock.advance(LEASE_MS - 1)
    assert ask(yard, OTHER, 5, 5) == 0
    assert ask(yard, NODE, 5, 5, running=5) == 5
    yard.clock.advance(LEASE_MS - 1)
    assert ask(yard, OTHER, 5, 5) == 0
    yard.clock.advance(1)
    assert ask(yard, OTHER, 5, 5) == 5


def test_under_a_lowered_limit_what_runs_counts_until_it_ends(yard):
    assert ask(yard, NODE, 9, 6) == 6
    assert ask(yard, OTHER, 9, 3) == 3
    assert ask(yard, NODE, 4, 9, running=6) == 1
    assert ask(yard, OTHER, 4, 9, running=3) == 0
    assert ask(yard, NODE, 4, 9, running=1) == 1
    assert ask(yard, OTHER, 4, 9, running=3) == 3


def test_a_node_that_left_or_is_freed_holds_no_permit(yard):
    yard.store.register(Node(NODE, yard.now, yard.now, {}))
    ask(yard, NODE, 5, 5)
    yard.store.leave(NODE)
    assert ask(yard, OTHER, 5, 5) == 5
    yard.store.free(100, lock=OTHER)
    assert ask(yard, NODE, 5, 5) == 5
