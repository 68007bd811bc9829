"""Stage 2, journal: on disk before the answer.

The writer appends groups of records to the newest segment, one fdatasync a group. It
never goes on in a file whose write or fsync failed:

    commit ── ok ──────────────────────────────────────────────> acknowledged
       └─ failed ─> the group anew in a new segment ── ok ─────> acknowledged
                       └─ failed ─> refused, until `probe` writes a new segment

While the disk takes longer over one of these than callers are patient, appends are refused, too.
What is being written then is neither acknowledged nor refused: it may be on disk or not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slimq.core.limits import RESERVE_BYTES, SEGMENT_BYTES, STALL_MS
from slimq.errors import DiskFull, FolderUnusable, SlimqError
from slimq.journal.append import Append
from slimq.journal.failure import disk_full, disk_stands_still, journal_error
from slimq.journal.folder import NAME, HeldFolder, hold_folder
from slimq.journal.index import PendingIndex
from slimq.journal.quarantine import Quarantine
from slimq.journal.record import NONCE_BYTES, Header, Position, SegmentHead
from slimq.journal.recovery import Recovery, recover
from slimq.journal.reserve import Reserve
from slimq.journal.room import Room
from slimq.journal.segment_file import SegmentFile
from slimq.journal.segments import Segment, note_over
from slimq.system.chance import Chance
from slimq.system.clock import Clock
from slimq.system.disk import Disk

_FAILED = "the journal could not be written"


class JournalWriter:
    """The one writer of a journal folder. It is a JournalView.

    `commit`, `sync`, `lay_out`, `probe` and `close` belong to one thread. `end`, `segments`,
    `refusal`, `unsynced` and `sweep` may be used from others.
    """

    def __init__(
        self,
        folder: Path,
        *,
        disk: Disk,
        clock: Clock,
        chance: Chance,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self.path = folder
        self.disk = disk
        self.folder = -1
        self.name = ""
        self.end = Position()
        self.found_end = Position()  # where the journal ended when it was opened
        self.segments: tuple[Segment, ...] = ()
        self.quarantine: Quarantine | None = Quarantine(folder / "quarantine", disk)
        self.index = PendingIndex()
        self._clock = clock
        self._chance = chance
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self._held: HeldFolder | None = None
        self._current: SegmentFile | None = None
        self._number = 0
        self._reserve = Reserve(disk, -1, 0)
        self._owed: tuple[Append, ...] = ()  # acknowledged as buffered, not yet durable
        self._leftovers: list[str] = []  # files of refused groups that are still there
        self._room = Room()
        self._refusal: SlimqError | None = None
        self._writing_since: int | None = None  # ms since boot
        self._lock = threading.Lock()

    def open(self) -> Recovery:
        """Take the folder, cut a torn tail, and say what was found.

        Raises FolderHeld, FolderUnusable. A full disk is no reason: appends are refused.
        """
        try:
            self._held = hold_folder(self.disk, self.path)
        except OSError as error:
            raise FolderUnusable(f"{self.path} cannot be used: {error.strerror}") from error
        try:
            return self._recover(self._held.folder)
        except OSError as error:
            self._held.release()
            self._held = None
            raise FolderUnusable(f"{self.path} cannot be read: {error.strerror}") from error

    @property
    def unsynced(self) -> Sequence[Header]:
        """The headers of acknowledged records that are not yet durable."""
        return [append.header for append in self._owed]

    @property
    def size_bytes(self) -> int:
        """How long all segments are together."""
        return sum(segment.end or 0 for segment in self.segments[:-1]) + self.end.offset

    def refusal(self) -> SlimqError | None:
        """Return why appends are refused now (a new error each time), or None."""
        error, since = self._refusal, self._writing_since
        if error is not None:
            return type(error)(error.detail, headers=error.headers)
        if since is not None and (taken := self._clock.boot_ms() - since) >= STALL_MS:
            return disk_stands_still(taken)
        return None

    def commit(self, appends: Sequence[Append]) -> None:
        """Append one group, in order, all or nothing, and give the bodies' memory back.

        Never raises for the disk: sets `start` and `end` of each append, or its `error`.
        """
        with self._writing():
            if not appends or (self._may_write() and self._append_or_anew(appends)):
                return
        for append in appends:
            append.error = self.refusal()
            append.body.discard()

    def sync(self) -> None:
        """Make durable what `buffered` appends left."""
        if self._owed and self._current is not None:
            with self._writing():
                try:
                    self._sync(self._current)
                except OSError:
                    self._append_anew(())  # or `probe` will

    @property
    def wants_room(self) -> bool:
        """Whether `lay_out` has something to do in silence."""
        return self._room.is_lacking and not self._owed and self._refusal is None

    def lay_out(self, *, quiet: bool) -> None:
        """Lay out some room: for a few ms in silence, less when the next group may come soon."""
        if self._current is not None and self.wants_room:
            with self._writing():
                try:
                    spare = self.disk.free_bytes(self.folder) - 2 * self._reserve_bytes
                    self._room.lay_out(self._current, spare, quiet=quiet)
                except OSError:
                    self._append_anew(())  # or `probe` will

    def probe(self) -> None:
        """While appends are refused: try to end that, with a new segment and a new reserve."""
        if self._refusal is None:
            return
        try:
            self._remove_leftovers()
            if not self._reserve.build() or self._reserve.is_low():
                self._refuse(disk_full("there is no room for the journal's reserve"))
                return
            if self._current is None:
                self._write_new(self._owed)
        except OSError as error:
            self._refuse(journal_error(error, _FAILED))
        else:
            self._refusal = None

    def make_room(self) -> None:
        """Free the reserve when the disk is full, and refuse appends until it can be made
        again: for a store that found no room, perhaps on this disk. May be called from any
        thread."""
        try:
            if self._refusal is None and self._reserve.is_low():
                self._refuse(disk_full("the store needs the journal's reserve"))
        except OSError as error:
            self._refuse(journal_error(error, _FAILED))

    def sweep(self, behind: Position, retain_ms: int) -> int:
        """Delete segments that have lain wholly before `behind` for `retain_ms`, oldest
        first; return how many.

        That time counts from the first call which finds it so, and not from when they were
        written: a store that took them late may fall back all the same. The newest segment
        stays, so that numbers never start again. What cannot be deleted now is deleted by a
        later call.
        """
        swept = 0
        now = self._clock.boot_ms()
        note_over(self.segments, self.end, behind, now)
        for segment in self.segments[:-1]:
            if segment.over_at is None or segment.over_at > now - retain_ms:
                break
            try:
                self._remove_leftovers()
                self.disk.unlink(self.folder, segment.name)
            except OSError:
                break  # as promised: the next call tries again
            with self._lock:
                self.segments = self.segments[1:]
            self.index.forget(segment.number)
            swept += 1
        return swept

    def is_over(self, retain_ms: int) -> bool:
        """Return whether all of it could be swept, the newest segment as well."""
        since = [segment.over_at for segment in self.segments]
        until = self._clock.boot_ms() - retain_ms
        return all(over_at is not None and over_at <= until for over_at in since)

    def retire(self) -> None:
        """Delete all of a journal of which nothing is needed any more. Raises OSError.

        Its name goes first: a journal that begins here later has another one, and with it
        a cursor of its own in the store. Segments that are left by a crash know the name.
        """
        self.disk.unlink(self.folder, NAME)
        self.disk.fsync_folder(self.folder)
        for segment in self.segments:
            self.disk.unlink(self.folder, segment.name)
        self._reserve.free()
        self.segments = ()

    def close(self) -> None:
        """Make durable what is not yet, and let go of the folder."""
        self.sync()
        if self._owed:
            self._append_anew(())
        if self._current is not None:
            self._seal(self._current)
            self._current = None
        if self._held is not None:
            self._held.release()
            self._held = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._writing_since = self._clock.boot_ms()
        try:
            yield
        finally:
            self._writing_since = None

    def _recover(self, folder: int) -> Recovery:
        recovery = recover(self.disk, folder, self.quarantine, self._chance)
        self.folder = folder
        self.name = recovery.journal
        self.segments = tuple(recovery.segments)
        self.end = self.found_end = recovery.end
        self._number = recovery.number
        self._reserve = Reserve(self.disk, folder, self._reserve_bytes)
        try:
            if not self._reserve.build() or self._reserve.is_low():
                self._refuse(disk_full("there is no room for the journal's reserve"))
        except OSError as error:
            self._refuse(journal_error(error, "the journal's reserve cannot be made"))
        return recovery

    def _may_write(self) -> bool:
        if self._refusal is None:
            try:
                if self._reserve.is_low():
                    self._refuse(disk_full("the journal's reserve is touched"))
            except OSError as error:
                self._refuse(journal_error(error, _FAILED))
        return self._refusal is None

    def _append_or_anew(self, appends: Sequence[Append]) -> bool:
        try:
            self._append(appends)
        except OSError:
            return self._append_anew(appends)
        return True

    def _append(self, appends: Sequence[Append]) -> None:
        current = self._current
        if current is None or current.written >= self._segment_bytes:
            current = self._next_segment()
        buffered = all(append.durability == "buffered" for append in appends)
        length = current.write(appends, buffered=buffered)
        self._room.appended(current, length, self._segment_bytes)
        if buffered:
            self._owed += tuple(appends)
        else:
            self._sync(current, appends)

    def _append_anew(self, appends: Sequence[Append]) -> bool:
        """Write into a new segment what was to be appended, and what is owed before it;
        return False, and refuse from now on, when that fails too."""
        self._abandon()
        try:
            self._write_new((*self._owed, *appends))
        except OSError as error:
            self._refuse(journal_error(error, _FAILED))
            self._pay_from_reserve()
            return False
        return True

    def _pay_from_reserve(self) -> None:
        """Write what was acknowledged already into the room that the reserve left."""
        if self._owed and isinstance(self._refusal, DiskFull):
            try:
                self._write_new(self._owed)
            except OSError as error:
                self._refuse(journal_error(error, _FAILED))

    def _next_segment(self) -> SegmentFile:
        """Seal the current segment and start the next one."""
        if self._current is not None:
            if self._owed:
                self._sync(self._current)
            self._seal(self._current)
            self._current = None
        self._current = self._create()
        return self._current

    def _write_new(self, appends: Sequence[Append]) -> None:
        """Make a new segment with these records, and it durable, or remove it again."""
        new = self._create()
        try:
            new.write(appends)
            self._sync(new, appends)
        except OSError:
            self._drop(new)
            raise
        self._current = new

    def _create(self) -> SegmentFile:
        self._number += 1
        last = self.segments[-1] if self.segments else None
        head = SegmentHead(
            journal=self.name,
            number=self._number,
            at=self._clock.wall_ms(),
            previous=last.number if last else 0,
            previous_end=(last.end or 0) if last else 0,
        )
        return SegmentFile(self.disk, self.folder, self._chance.token(NONCE_BYTES).hex(), head)

    def _sync(self, file: SegmentFile, appends: Sequence[Append] = ()) -> None:
        """Make a file durable, and all that is in it visible to readers."""
        file.sync()
        # In a new segment, what was owed is among the appends.
        self._publish(file, (*self._owed, *appends) if file is self._current else appends)
        self._owed = ()  # behind it: a reader finds them here or there at any time

    def _publish(self, file: SegmentFile, records: Sequence[Append]) -> None:
        segment = file.segment
        segment.written_at, segment.over_at = self._clock.wall_ms(), None
        self.index.begin(segment.number, 0)
        self.index.note((append.header, append.start, append.end) for append in records)
        with self._lock:
            if not self.segments or self.segments[-1] is not segment:
                self.segments = (*self.segments, segment)
        self.end = Position(segment.number, file.synced)
        for append in records:
            append.body.discard()

    def _abandon(self) -> None:
        """Leave the current file for good, keeping what is durable of it."""
        failed, self._current = self._current, None
        if failed is not None and failed.synced:
            self._seal(failed, cut=True)
        elif failed is not None:
            self._drop(failed)

    def _seal(self, file: SegmentFile, *, cut: bool = False) -> None:
        file.segment.end = file.segment.size = file.synced
        try:
            if cut:
                file.cut()
            elif file.room:
                file.trim()
            file.close()
        except OSError:
            pass  # the head of the next segment says where this one ends

    def _drop(self, file: SegmentFile) -> None:
        try:
            file.cut()
        except OSError:
            self._leftovers.append(file.segment.name)
        try:
            file.close()
        except OSError:
            pass  # nothing in it counts

    def _remove_leftovers(self) -> None:
        while self._leftovers:
            name = self._leftovers[-1]
            if name in self.disk.names(self.folder):
                self.disk.unlink(self.folder, name)
            self._leftovers.pop()

    def _refuse(self, error: SlimqError) -> None:
        self._refusal = error
        if isinstance(error, DiskFull):
            try:
                self._reserve.free()
            except OSError:
                pass  # refused already; the next probe tries to free it again
