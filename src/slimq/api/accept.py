"""Accepting: jobs get their ids, go to the journal as one record, and are answered for.

Everything that accepts (`POST /add` on the connection or through the app, `POST /jobs`)
goes through one Acceptor. Requests without an Idempotency-Key cost no task and no lock:
`submit` hands the record to the group commit, which calls back on the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from slimq.api.gather import Gatherer
from slimq.api.keys import KeyResolver
from slimq.api.keys_pending import Owner, PendingKeys, TypeKey
from slimq.api.options import AddOptions, Durability
from slimq.api.outcome import Accepted, Done, Outcome, tell
from slimq.api.ports import NodePort
from slimq.core.jobid import IdBlock, Minter, block_from
from slimq.core.limits import ALL_IDS_MAX
from slimq.errors import BadBody, BodyTooLarge, SlimqError
from slimq.journal.append import Append
from slimq.journal.body import Body
from slimq.journal.record import Header, JobLine
from slimq.store.base import KeyUse
from slimq.system.clock import Clock

logger = logging.getLogger(__name__)


Uses = Mapping[TypeKey, KeyUse]


class Acceptor:
    """Accepts jobs on one node. Used on the event loop only.

    `submit` takes a record to the group commit; `refusal` says why the journal accepts
    nothing now; `new_body` makes a body to feed, which refuses more than `body_max` bytes.
    """

    def __init__(
        self,
        *,
        minter: Minter,
        submit: Callable[[Append], None],
        refusal: Callable[[], SlimqError | None],
        new_body: Callable[[], Body],
        body_max: int,
        clock: Clock,
        node: NodePort,
        keys: PendingKeys,
    ) -> None:
        self.new_body = new_body
        self.body_max = body_max
        self.keys = keys
        self.resolver = KeyResolver(keys, node, clock)
        self._minter = minter
        self._submit = submit
        self._refusal = refusal
        self._clock = clock
        self._node = node
        self._tasks: set[asyncio.Task[None]] = set()
        self._gatherer = Gatherer(minter=minter, submit=submit, new_body=new_body, clock=clock)

    def check_open(self) -> None:
        """Raise what the journal refuses new jobs with now, if it does."""
        refusal = self._refusal()
        if refusal is not None:
            raise refusal.with_traceback(None)  # one object for all: its traceback must not grow

    def accept_lines(
        self, options: AddOptions, body: Body, key: str, trace: str, done: Done
    ) -> None:
        """Accept every line of a finished `body` as a job. `done` is called once, on the loop: with
        the error, or when the durability that was asked for is reached."""
        if key:
            self._answer(self._accept_keyed(options, body, key, trace), done)
            return
        try:
            header, ids = self._lines_header(options, body, "", "", trace)
        except SlimqError as error:
            body.discard()
            done(error)
            return
        self._append(header, body, ids, options.durability, done)

    def accept_small(self, options: AddOptions, data: bytes, done: Done) -> None:
        """Accept every line of a small body without a key, due at once, to the journal."""
        count = data.count(b"\n")
        if not data.endswith(b"\n"):
            if not data:
                done(no_line())
                return
            count, data = count + 1, data + b"\n"
        self._gatherer.add(options.type, options.durability, data, count, done)

    async def accepted(self, options: AddOptions, body: Body, key: str, trace: str) -> Accepted:
        """`accept_lines` for those who wait. Raises SlimqError."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.accept_lines(options, body, key, trace, lambda outcome: tell(future, outcome))
        return _value(await future)

    def now(self) -> int:
        """Return the time that jobs accepted now carry, in ms."""
        return self._clock.wall_ms()

    def mint(self, count: int, now: int) -> IdBlock:
        """Return the next ids. Only right before `appended`: ids are minted in the order
        of the journal."""
        return self._minter.block(count, now)

    async def appended(
        self, header: Header, body: Body, ids: IdBlock, durability: Durability, uses: Uses
    ) -> Accepted:
        """Record jobs, with the keys that they use and that are in flight; return when
        `durability` is reached. Raises SlimqError."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._append(header, body, ids, durability, lambda outcome: tell(future, outcome), uses)
        return _value(await future)

    def ingested(self, headers: Iterable[Header]) -> None:
        """Forget the keys of records that are in the store: it knows them now."""
        self.keys.ingested(headers)

    def restore(self, header: Header, lines: Iterable[JobLine] = ()) -> None:
        """Remember the keys of a record that the journal held at start, oldest first;
        `lines` are those of a record of kind "jobs"."""
        uses: dict[TypeKey, KeyUse] = {}
        if header.key:
            use = KeyUse(header.id, header.count, header.digest)
            uses[TypeKey(header.type, header.key)] = use
        for index, line in enumerate(lines):
            if line.key:
                own_id = line.id or block_from(header.id, header.count).id_at(index)
                uses.setdefault(TypeKey(line.type, line.key), KeyUse(own_id, 1, line.digest))
        self.keys.restore(header, uses)

    def _lines_header(
        self, options: AddOptions, body: Body, key: str, digest: str, trace: str
    ) -> tuple[Header, IdBlock]:
        if not body.count:
            raise no_line()
        if options.all_ids and body.count > ALL_IDS_MAX:
            raise BodyTooLarge(
                f"ids=all answers at most {ALL_IDS_MAX} ids; without it the answer names the "
                "first and the last"
            )
        now = self._clock.wall_ms()
        due = options.when.due_at(now)
        ids = self._minter.block(body.count, now)
        header = Header(
            kind="lines",
            id=ids.first,
            count=ids.count,
            at=now,
            type=options.type,
            dt=due if due > now else 0,
            key=key,
            digest=digest,
            trace=trace,
        )
        return header, ids

    def _append(
        self,
        header: Header,
        body: Body,
        ids: IdBlock,
        durability: Durability,
        done: Done,
        uses: Uses | None = None,
    ) -> None:
        def on_durable(append: Append) -> None:
            if append.error is not None:
                self.keys.cancel(uses or (), header.id)
                done(append.error)
                return
            if uses:
                self.keys.accepted(header.id, _owners(uses, durability, append))
            if durability == "store":
                self._answer(self._accept_stored(header.id, ids, append), done)
            else:
                done(Accepted(header.id, ids, durability))

        if uses:
            self.keys.submitted(header.id, uses)
        level = "buffered" if durability == "buffered" else "journal"
        append = Append(header, body, level, on_durable)
        try:
            self._submit(append)
        except SlimqError as error:  # the journal is closing
            body.discard()
            append.error = error
            on_durable(append)

    async def _accept_stored(self, first: str, ids: IdBlock, append: Append) -> Accepted:
        await self._node.stored(*append.end)
        return Accepted(first, ids, "store")

    async def _accept_keyed(
        self, options: AddOptions, body: Body, key: str, trace: str
    ) -> Accepted:
        type_key = TypeKey(options.type, key)
        try:
            digest = await _digest(body)
            owner = (await self.resolver.owners({type_key: digest})).get(type_key)
        except BaseException:
            body.discard()
            raise
        if owner is not None:
            body.discard()
            await self.resolver.reach(owner, options.durability)
            ids = block_from(owner.use.first, owner.use.count)
            return Accepted(owner.use.first, ids, options.durability, True)
        try:
            header, ids = self._lines_header(options, body, key, digest, trace)
        except SlimqError:
            self.keys.cancel([type_key])
            body.discard()
            raise
        uses = {type_key: KeyUse(header.id, header.count, digest)}
        return await self.appended(header, body, ids, options.durability, uses)

    def _answer(self, accepting: Coroutine[Any, Any, Accepted], done: Done) -> None:
        """Run what has to wait as a task, and report how it ends."""
        task = asyncio.get_running_loop().create_task(_report(accepting, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def no_line() -> BadBody:
    return BadBody("the body has no line: every job is a line, which may be empty")


async def _digest(body: Body) -> str:
    """Return the digest of a body; one that is in a file is read off the loop."""
    if body.spool is None:
        return body.digest()
    return await asyncio.get_running_loop().run_in_executor(None, body.digest)


async def _report(accepting: Coroutine[Any, Any, Accepted], done: Done) -> None:
    outcome: Outcome
    try:
        outcome = await accepting
    except SlimqError as error:
        outcome = error
    except Exception:  # a bug of ours: the caller must be answered all the same
        logger.exception("accepting failed")
        outcome = SlimqError("an error of slimq itself; it is in the log")
    done(outcome)


def _owners(uses: Uses, durability: Durability, append: Append) -> dict[TypeKey, Owner]:
    level: Durability = "buffered" if durability == "buffered" else "journal"
    return {key: Owner(use, level, append.end) for key, use in uses.items()}


def _value(outcome: Outcome) -> Accepted:
    if isinstance(outcome, SlimqError):
        raise outcome.with_traceback(None)
    return outcome
