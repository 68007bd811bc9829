"""The scheduler is fair by client, weighs jobtypes, and respects every limit."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from clock_kit import FakeClock
from slimq.core.handler import Handler, parse_options
from slimq.core.limits import LEASE_MS
from slimq.permits import ASK_AGAIN_MS
from slimq.scheduler import Scheduler
from slimq.store.base import Ask, Control, Policy
from slimq.store.memory import MemoryStore


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


def choose(made, now=0, others=0):
    """Ask for permits of which other nodes hold so many, and choose."""
    question = made.question(now)
    made.answered(question, [ask.permits(others) for ask in question.asks], now)
    return made.choose(now)


def take(chosen_by, now=0):
    """Choose and claim one full pick that leaves more work behind."""
    pick = choose(chosen_by, now)
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
    assert choose(made) is None
    assert made.without_handler() == ["main/new"]
    made.set_control(Control(2, [handler("new")], []), 0)
    assert choose(made).type == "main/new"


def test_a_paused_type_does_not_start_until_it_is_resumed():
    made = scheduler(handler("a"), policies=[Policy(client="*", jobtype="a", paused=True)])
    made.due("main/a", 0, 0)
    assert choose(made) is None
    resumed = Policy(client="main", jobtype="a", paused=False)
    made.set_control(Control(2, [handler("a")], [resumed]), 0)
    assert choose(made).type == "main/a"


def test_work_that_is_not_due_starts_when_it_is():
    made = scheduler(handler("a"))
    made.due("main/a", 500, 0)
    assert (choose(made, 499), made.next_at()) == (None, 500)
    assert choose(made, 500).type == "main/a"


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
    first = choose(made)
    made.claimed(first, 1, 1, None, 0)
    made.due("cancelled/a", 0, 0)
    made.due("last/a", 0, 0)
    made.ended("first/a", first.handler, 0)
    cancelled = choose(made)
    assert cancelled.type == "cancelled/a"
    made.claimed(cancelled, 0, 0, None, 0)
    assert choose(made).type == "last/a"


def test_an_ordered_type_runs_one_batch_of_one_job():
    made = scheduler(handler("a", ordered=True))
    made.due("main/a", 0, 0)
    pick = take(made)
    assert (pick.batches, pick.batch_size) == (1, 1)
    assert take(made) is None


def test_a_type_runs_on_all_nodes_together_no_more_batches_than_its_policy_says():
    policy = Policy(client="main", jobtype="a", concurrency=3)
    made = scheduler(handler("a", batch_size=1), policies=[policy])
    made.due("main/a", 0, 0)
    assert choose(made, others=3) is None
    assert made.next_at() == ASK_AGAIN_MS
    made.due("main/a", -1, 0)
    assert not made.question(0).asks, "it was refused just now"
    assert choose(made, ASK_AGAIN_MS, others=1).batches == 2


def test_a_limit_is_asked_about_when_work_comes_and_when_it_is_over():
    made = scheduler(handler("a", batch_size=1, concurrency=2))
    made.due("main/a", 0, 0)
    assert [ask.wanted for ask in made.question(0).asks] == [2]
    pick = take(made)
    for _ in range(5):
        assert not made.question(0).asks
        for _ in range(2):
            made.ended(pick.type, pick.handler, 0)
        pick = take(made)
    made.ended(pick.type, pick.handler, 0)
    made.ended(pick.type, pick.handler, 0)
    last = choose(made)
    made.claimed(last, 1, 1, None, 0)
    assert [ask[2:] for ask in made.question(0).asks] == [(1, 1)]
    choose(made)
    made.ended(last.type, last.handler, 0)
    assert [ask[2:] for ask in made.question(0).asks] == [(0, 0)]
    choose(made)
    assert not made.held().asks


def test_permits_are_asked_for_when_there_are_slots_to_use_them():
    made = scheduler(handler("a", batch_size=1), handler("b", concurrency=2), slots=1)
    made.due("main/a", 0, 0)
    busy = take(made)
    made.due("main/b", 0, 0)
    assert not made.question(0).asks
    made.claimed(busy, 0, 0, None, 0)
    made.ended(busy.type, busy.handler, 0)
    assert choose(made).type == "main/b"


def test_what_runs_beyond_the_permits_is_given_back_as_it_ends():
    """Its permits lapsed while the node stood still, and another node has them."""
    made = scheduler(handler("a", batch_size=1, concurrency=2))
    made.due("main/a", 0, 0)
    pick = choose(made)
    made.claimed(pick, 2, 2, None, 0)
    question = made.held()
    made.answered(question, [ask.permits(2) for ask in question.asks], 0)
    for running in (1, 0):
        made.ended(pick.type, pick.handler, 0)
        question = made.question(0)
        assert [ask[2:] for ask in question.asks] == [(running, 0)]
        made.answered(question, [0], 0)
    assert not made.question(0).asks
    assert not made.held().asks


def test_under_a_lowered_limit_nothing_starts_until_enough_has_ended():
    made = scheduler(handler("a", batch_size=1, concurrency=4))
    made.due("main/a", 0, 0)
    pick = take(made)
    made.set_control(Control(2, [handler("a", batch_size=1, concurrency=2)], []), 0)
    for _ in range(2):
        assert choose(made) is None
        made.ended(pick.type, pick.handler, 0)
    assert choose(made, ASK_AGAIN_MS) is None
    made.ended(pick.type, pick.handler, 0)
    assert choose(made, 2 * ASK_AGAIN_MS).batches == 1


def test_a_limit_that_is_set_while_batches_run_counts_them_and_one_that_is_lifted_frees_all():
    made = scheduler(handler("a", batch_size=1))
    made.due("main/a", 0, 0)
    pick = take(made)
    limited = Policy(client="*", jobtype="a", concurrency=pick.batches)
    made.set_control(Control(2, [handler("a", batch_size=1)], [limited]), 0)
    assert choose(made) is None
    assert [ask.running for ask in made.held().asks] == [pick.batches]
    made.set_control(Control(3, [handler("a", batch_size=1)], []), 0)
    made.ended(pick.type, pick.handler, 0)
    assert choose(made).batches == 1
    assert not made.held().asks


CLIENTS = ["a", "b", "c"]
JOBTYPES = ["one", "two", "none"]


class Fleet:
    """Two nodes on one store, whose batches run until they are told to end."""

    def __init__(self, *handlers, policies, slots):
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.nodes = [Scheduler({"exec": slots}) for _ in range(2)]
        for made in self.nodes:
            made.set_control(Control(1, list(handlers), list(policies)), self.now)
        self.running = [[], []]

    @property
    def now(self):
        return self.store.now()

    def due(self, type_):
        for made in self.nodes:
            made.due(type_, self.now, self.now)

    def choose(self, node):
        made = self.nodes[node]
        question = made.question(self.now)
        if question.asks:
            permits = self.store.permit(f"node{node}", question.asks, lease_ms=LEASE_MS)
            made.answered(question, permits, self.now)
        return made.choose(self.now)

    def claimed(self, node, pick, batches, next_at):
        self.nodes[node].claimed(pick, batches, batches, next_at, self.now)
        self.running[node] += [(pick.type, pick.handler)] * batches

    def end(self, node):
        if self.running[node]:
            self.nodes[node].ended(*self.running[node].pop(), self.now)

    def check_limits(self):
        both = [*self.running[0], *self.running[1]]
        assert sum(used.jobtype == "one" for _, used in both) <= 2
        assert sum(type_ == "a/two" for type_, _ in both) <= 3
        for running in self.running:
            assert len(running) <= 4
            per_client = Counter(type_.split("/")[0] for type_, _ in running)
            assert max(per_client.values(), default=0) <= 3

    def free_permits(self, limits):
        asks = [Ask(name, most, 0, most) for name, most in limits.items()]
        return self.store.permit("another", asks, lease_ms=LEASE_MS)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["due", "claim", "end", "empty", "gone", "later"]),
            st.sampled_from([0, 1]),
            st.sampled_from(CLIENTS),
            st.sampled_from(JOBTYPES),
        ),
        max_size=80,
    )
)
def test_no_limit_is_ever_passed_and_no_ready_type_is_forgotten(steps):
    one, two = handler("one", batch_size=1, concurrency=2), handler("two", batch_size=1)
    fleet = Fleet(one, two, policies=[Policy(client="a", jobtype="two", concurrency=3)], slots=4)
    waiting = set()
    for verb, node, client, jobtype in steps:
        if verb == "due":
            fleet.due(f"{client}/{jobtype}")
            waiting.add(f"{client}/{jobtype}")
        elif verb == "end":
            fleet.end(node)
        elif verb == "later":
            fleet.clock.advance(ASK_AGAIN_MS)
        elif (pick := fleet.choose(node)) is not None:
            assert pick.type in waiting
            batches = 0 if verb == "gone" else pick.batches
            fleet.claimed(node, pick, batches, fleet.now if verb == "claim" else None)
        fleet.check_limits()
    for type_ in waiting:
        fleet.due(type_)
    seen = set()
    for node in (0, 1, 0):
        while fleet.running[node]:
            fleet.end(node)
        fleet.clock.advance(ASK_AGAIN_MS)
        while (pick := fleet.choose(node)) is not None:
            fleet.claimed(node, pick, 0, None)
            seen.add(pick.type)
    assert seen == {type_ for type_ in waiting if not type_.endswith("/none")}
    assert fleet.free_permits({"handler */one": 2, "a/two": 3}) == [2, 3]
