"""``slimq add``: lines of a file or of stdin become jobs."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from slimq.cli.caller import Caller
from slimq.cli.options import client_option, node_option
from slimq.cli.output import json_option, print_json, print_next
from slimq.cli.progress import Progress
from slimq.core.limits import LINE_MAX, MIB
from slimq.errors import LineTooLong, Refused, StartError, Unreachable
from slimq.system.clock import SystemClock

REQUEST_BYTES = 8 * MIB  # of one request: bounds memory here, and what an error can undo
GATHER_S = 0.2  # how long lines of a slow pipe wait for more of them


class Added(msgspec.Struct):
    """What was accepted so far."""

    count: int = 0
    requests: int = 0
    bytes: int = 0
    first: str | None = None
    last: str | None = None

    def take(self, answer: dict[str, Any], size: int) -> None:
        ids = answer.get("ids") or [answer["first"], answer["last"]]
        self.first = self.first or ids[0]
        self.last = ids[-1]
        self.count += answer["count"]
        self.requests += 1
        self.bytes += size


def _legal_key(context: click.Context, parameter: click.Parameter, key: str | None) -> str | None:
    """A header cannot carry every key, so that the node could say what is wrong with it."""
    if key is not None and not (key.isascii() and key.isprintable()):
        raise click.BadParameter("printable ASCII characters only")
    return key


@click.command(name="add")
@click.argument("jobtype")
@click.argument("file", default="-", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@client_option
@click.option("--delay", help="Run later: 90s, 5m, 2h, 3d.")
@click.option("--at", help="Run at: RFC 3339, or epoch ms.")
@click.option(
    "--key",
    callback=_legal_key,
    help="Idempotency-Key: the same input with the same key makes no second job within 24 h. "
    "Input of more than 8 MiB takes several requests; the later ones get KEY.2, KEY.3 and so on.",
)
@click.option(
    "--durability",
    type=click.Choice(["journal", "buffered", "store"]),
    help="What must have happened before a job counts as accepted; journal if not given.",
)
@node_option
@json_option
def command(jobtype: str, file: str, node: Caller, as_json: bool, **options: str | None) -> None:
    """Add each line of FILE (or of stdin) as a job of JOBTYPE."""
    key = options.pop("key")
    adder = Adder(node, {"jobtype": jobtype, **options}, key)
    clock = SystemClock()
    with _open(file) as source:
        progress = Progress(sys.stderr, clock, _size(source))
        try:
            adder.add(source, progress)
        finally:
            progress.clear()
    _report(adder.added, jobtype, options["client"], progress.elapsed_ms, as_json)


class Adder:
    """Sends input in requests of at most REQUEST_BYTES, cut at the ends of lines."""

    def __init__(self, node: Caller, query: dict[str, str | None], key: str | None) -> None:
        self._node = node
        self._query = query
        self._key = key
        self.added = Added()

    def add(self, source: io.FileIO, progress: Progress) -> None:
        """Send all of `source`. When a request fails, the error tells what was accepted
        before it."""
        try:
            for body in bodies(source, REQUEST_BYTES, GATHER_S if self._key is None else None):
                self._send(body)
                progress.show(self.added.bytes, self.added.count)
        except StartError as error:
            raise self._explained(error) from error

    def _send(self, body: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        number = self.added.requests + 1
        if self._key is not None:
            headers["Idempotency-Key"] = self._key if number == 1 else f"{self._key}.{number}"
        answer = self._node.call("POST", "/add", self._query, body, headers)
        self.added.take(answer, len(body))

    def _explained(self, error: StartError) -> StartError:
        """Say what is accepted, and what to do about the rest. The node counts lines from
        the start of a request, people from that of the input."""
        words = [error.detail]
        count, line = self.added.count, error.extra.get("line")
        if isinstance(line, int) and count:
            words.append(f"that is line {count + line:,} of the input")
        if count:
            words.append(f"the first {count:,} lines are accepted")
        if self._key is not None:
            words.append("the same command with the same --key adds only what is missing")
        elif isinstance(error, Unreachable) and error.extra.get("sent"):
            words.append("the lines after them may be accepted or not; --key would tell")
        return type(error)("; ".join(words), extra=error.extra)


def bodies(source: io.FileIO, size: int, gather_s: float | None) -> Iterator[bytes]:
    """Yield what `source` holds, in pieces of at most `size` bytes that end with a line.

    A piece is sent on when no more came for `gather_s`; with None it is always full, so
    that the same input is cut at the same places. Raises Refused for a line that does not
    fit: the node takes none above 1 MiB.
    """
    buffer, filled, at_end = bytearray(size), 0, False
    while not at_end:
        count, at_end = _fill(source, memoryview(buffer)[filled:], gather_s)
        filled += count
        cut = filled if at_end else buffer.rfind(b"\n", 0, filled) + 1
        if cut:
            yield bytes(memoryview(buffer)[:cut])
            buffer[: filled - cut] = buffer[cut:filled]
            filled -= cut
        elif filled > min(LINE_MAX, size - 1):
            raise Refused(f"{LineTooLong.title}: a line has at most {LINE_MAX} bytes")


def _fill(source: io.FileIO, space: memoryview, gather_s: float | None) -> tuple[int, bool]:
    """Read into `space`; return how many bytes came, and whether that was the end."""
    filled = 0
    while filled < len(space):
        count = source.readinto(space[filled:])
        if not count:
            return filled, True
        filled += count
        if gather_s is not None and not select.select([source], [], [], gather_s)[0]:
            break
    return filled, False


def _open(file: str) -> io.FileIO:
    if file == "-":
        return io.FileIO(sys.stdin.fileno(), closefd=False)
    return io.FileIO(file)


def _size(source: io.FileIO) -> int | None:
    about = os.fstat(source.fileno())
    return about.st_size if stat.S_ISREG(about.st_mode) else None


def _report(added: Added, jobtype: str, client: str | None, elapsed_ms: int, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.structs.asdict(added))
        return
    seconds = max(elapsed_ms, 1) / 1000
    rate = f" in {seconds:.1f} s, {added.count / seconds:,.0f} a second" if added.count > 1 else ""
    click.echo(f"accepted {added.count:,} {'job' if added.count == 1 else 'jobs'}{rate}")
    if added.count == 1:
        print_next(f"slimq jobs get {added.first} --wait 30")
    elif added.count:
        print_next(f"slimq types get {jobtype} --client {client}", "slimq top")
