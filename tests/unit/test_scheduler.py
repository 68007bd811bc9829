"""The scheduler is fair by client, weighs jobtypes, and respects every limit."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from slimq.core.handler import Handler, parse_options
from slimq.scheduler import Scheduler
from slimq.store.base import Control, Policy


def handler(jobtype, client="*", **options):
    return Handler(
        client=client,
        jobtype=jobtype,
        version=1,
        lang="exec",
        body=["true"],
        options=parse_options("exec", options),
        written=options,
    )


def scheduler(*handlers, slots=8, policies=()):
    made = Scheduler({"exec": slots})
    made.set_control(Control(1, list(handlers), list(policies)), 0)
    return made


def take(chosen_by, now=0):
    """Choose and claim one full pick that leaves more work behind."""
    pick = chosen_by.choose(now)
    if pick is not None:
        chosen_by.claimed(pick, pick.batches, pick.batches * pick.batch_size, 0, now)
    return pick


def run_one_by_one(made, turns):
    """Let one batch run at a time; return how many jobs each type was given."""
    given_to = Counter()
    for _ in range(turns):
        pick = take(made)
        given_to[pick.type] += pick.batches * pick.batch_size
        for _ in range(pick.batches):
            made.ended(pick.type, pick.handler, 0)
    return given_to


def test_clients_get_the_same_however_many_jobtypes_they_have():
    made = scheduler(*[handler(f"t{n}", batch_size=1) for n in range(5)], slots=1)
    for n in range(5):
        made.due(f"busy/t{n}", 0, 0)
    made.due("small/t0", 0, 0)
    given_to = run_one_by_one(made, 100)
    assert given_to["small/t0"] == 50


def test_a_weight_of_3_gives_three_times_the_jobs():
    made = scheduler(
        handler("a", batch_size=1),
        handler("b", batch_size=1),
        slots=1,
        policies=[Policy(client="*", jobtype="a", weight=3)],
    )
    made.due("main/a", 0, 0)
    made.due("main/b", 0, 0)
    given_to = run_one_by_one(made, 80)
    assert abs(given_to["main/a"] - 60) <= 2


def test_no_client_gets_more_than_three_quarters_of_the_slots():
    made = scheduler(handler("a", batch_size=1), slots=8)
    made.due("greedy/a", 0, 0)
    assert sum(pick.batches for pick in iter(lambda: take(made), None)) == 6
    made.due("late/a", 0, 0)
    assert take(made).type == "late/a"


def test_types_without_a_handler_wait_are_listed_and_follow_a_new_handler():
    made = scheduler()
    made.due("main/new", 0, 0)
    assert made.choose(0) is None
    assert made.without_handler() == ["main/new"]
    made.set_control(Control(2, [handler("new")], []), 0)
    assert made.choose(0).type == "main/new"


def test_a_paused_type_does_not_start_until_it_is_resumed():
    made = scheduler(handler("a"), policies=[Policy(client="*", jobtype="a", paused=True)])
    made.due("main/a", 0, 0)
    assert made.choose(0) is None
    resumed = Policy(client="main", jobtype="a", paused=False)
    made.set_control(Control(2, [handler("a")], [resumed]), 0)
    assert made.choose(0).type == "main/a"


def test_work_that_is_not_due_starts_when_it_is():
    made = scheduler(handler("a"))
    made.due("main/a", 500, 0)
    assert (made.choose(499), made.next_at()) == (None, 500)
    assert made.choose(500).type == "main/a"


def test_clients_take_turns_at_a_handler_that_runs_one_batch_at_a_time():
    made = scheduler(handler("a", batch_size=1, concurrency=1))
    for client in ("x", "y", "z"):
        made.due(f"{client}/a", 0, 0)
    order = []
    for _ in range(6):
        pick = take(made)
        assert take(made) is None
        order.append(pick.type)
        made.ended(pick.type, pick.handler, 0)
    assert sorted(order[:3]) == sorted(order[3:]) == ["x/a", "y/a", "z/a"]


def test_who_waits_for_a_full_handler_follows_one_whose_jobs_are_gone_meanwhile():
    made = scheduler(handler("a", concurrency=1, batch_size=1))
    made.due("first/a", 0, 0)
    first = made.choose(0)
    made.claimed(first, 1, 1, None, 0)
    made.due("cancelled/a", 0, 0)
    made.due("last/a", 0, 0)
    made.ended("first/a", first.handler, 0)
    cancelled = made.choose(0)
    assert cancelled.type == "cancelled/a"
    made.claimed(cancelled, 0, 0, None, 0)
    assert made.choose(0).type == "last/a"


def test_an_ordered_type_runs_one_batch_of_one_job():
    made = scheduler(handler("a", ordered=True))
    made.due("main/a", 0, 0)
    pick = take(made)
    assert (pick.batches, pick.batch_size) == (1, 1)
    assert take(made) is None


CLIENTS = ["a", "b", "c"]
JOBTYPES = ["one", "two", "none"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["due", "claim", "end", "empty", "gone"]),
            st.sampled_from(CLIENTS),
            st.sampled_from(JOBTYPES),
        ),
        max_size=80,
    )
)
def test_no_limit_is_ever_passed_and_no_ready_type_is_forgotten(steps):
    limited = handler("one", batch_size=1, concurrency=2)
    made = scheduler(limited, handler("two", batch_size=1), slots=4)
    waiting, running = set(), []
    for verb, client, jobtype in steps:
        if verb == "due":
            made.due(f"{client}/{jobtype}", 0, 0)
            waiting.add(f"{client}/{jobtype}")
        elif verb == "end" and running:
            type_, ended = running.pop()
            made.ended(type_, ended, 0)
        elif verb in ("claim", "empty", "gone"):
            pick = made.choose(0)
            if pick is None:
                continue
            assert pick.type in waiting
            batches = 0 if verb == "gone" else pick.batches
            made.claimed(pick, batches, batches, 0 if verb == "claim" else None, 0)
            if verb != "claim":
                waiting.discard(pick.type)
            running += [(pick.type, pick.handler)] * batches
        assert len(running) <= 4
        assert sum(used is limited for _, used in running) <= 2
        per_client = Counter(type_.split("/")[0] for type_, _ in running)
        assert max(per_client.values(), default=0) <= 3
    for type_, ended in running:
        made.ended(type_, ended, 0)
    seen = set()
    while (pick := made.choose(0)) is not None:
        made.claimed(pick, 0, 0, None, 0)
        seen.add(pick.type)
    assert seen == {type_ for type_ in waiting if not type_.endswith("/none")}
