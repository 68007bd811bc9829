"""Claims begin above what is gone, and still find all that waits."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from slimq.store.postgres_floor import FULL_EVERY_MS, MARGIN_MS, START, TYPES_MAX, Floors, Place

NOW = 1_795_000_000_000


def taken(floors: Floors, last: Place, now: int = NOW) -> None:
    """A claim of type 1 took all up to `last`."""
    floors.took(1, floors.get(1, now), last, now)


def test_the_first_look_is_from_the_start() -> None:
    assert Floors().get(1, NOW) == START


def test_the_next_claim_begins_where_the_last_one_ended() -> None:
    floors = Floors()
    old = Place(NOW - 60_000, 7)
    taken(floors, old)
    assert floors.get(1, NOW + 1) == old
    assert floors.get(2, NOW + 1) == START, "of another type nothing is known"


def test_what_is_young_stays_above_the_floor() -> None:
    """Other nodes accepted it a moment ago, and may still be bringing it in."""
    floors = Floors()
    taken(floors, Place(NOW - 1, 7))
    assert floors.get(1, NOW + 1) <= Place(NOW - MARGIN_MS, 0)


def test_everything_is_looked_at_now_and_then() -> None:
    floors = Floors()
    taken(floors, Place(NOW - 60_000, 7))
    assert floors.get(1, NOW + FULL_EVERY_MS - 1) != START
    assert floors.get(1, NOW + FULL_EVERY_MS) == START


def test_a_busy_type_is_looked_at_as_a_whole_as_often() -> None:
    floors = Floors()
    looks = []
    for step in range(100):
        now = NOW + step * 300
        looks.append(floors.get(1, now) == START)
        taken(floors, Place(NOW - 60_000 + step, 7), now)
    assert looks.count(True) == 1 + 99 * 300 // (FULL_EVERY_MS + 200)


def test_what_came_in_through_this_store_is_found_at_once() -> None:
    floors = Floors()
    taken(floors, Place(NOW - 1000, 7))
    floors.lower(1, NOW - 90_000)
    assert floors.get(1, NOW + 1) == (NOW - 90_000, 0)


def test_of_too_many_types_none_is_remembered() -> None:
    floors = Floors()
    for type_id in range(TYPES_MAX + 1):
        floors.took(type_id, START, Place(NOW - 60_000, 1), NOW)
    assert floors.get(0, NOW) == START
    assert floors.get(TYPES_MAX, NOW) != START


class Waiting(NamedTuple):
    place: Place
    since: int  # when it came in
    foreign: bool  # through another node


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("own"), st.integers(0, 20_000)),
        st.tuples(st.just("foreign"), st.integers(0, 20_000)),
        st.tuples(st.just("claim"), st.integers(1, 5)),
        st.tuples(st.just("pass"), st.integers(1, 3_000)),
    ),
    max_size=60,
)


@given(STEPS)
def test_only_what_just_came_in_elsewhere_may_be_passed_over(steps: list[tuple[str, int]]) -> None:
    floors = Floors()
    waiting: list[Waiting] = []
    now = NOW
    for seq, (verb, number) in enumerate(steps, 1):
        if verb == "pass":
            now += number
        elif verb == "claim":
            begun = floors.get(1, now)
            for job in waiting:
                young = job.foreign and now - job.since < FULL_EVERY_MS
                assert job.place >= begun or young, f"{job} is below {begun} at {now}"
            took = sorted(job for job in waiting if job.place >= begun)[:number]
            if took:
                waiting = [job for job in waiting if job not in took]
                floors.took(1, begun, took[-1].place, now)
        else:
            place = Place(now - number, seq)
            waiting.append(Waiting(place, now, verb == "foreign"))
            if verb == "own":
                floors.lower(1, place.dt)
