"""The bugs that are planted, one at a time, and the test that must find each.

`old` stands exactly once in the file; `new` takes its place in a copy of the code. `test` is
the proof that has to fail then. Where SQLite and PostgreSQL are told the same in two ways,
each has a bug of its own.
"""

from __future__ import annotations

from typing import NamedTuple

JOURNAL = "tests/unit/journal/"
ENGINE = "tests/unit/engine/"
API = "tests/unit/api/"
RUNNER = "tests/conformance/runner/"
STORE = "tests/conformance/store/"
LEASES = STORE + "test_store_leases.py::"
INGEST = STORE + "test_store_ingest.py::"
NEIGHBOURS = (
    "tests/prove/test_noisy_neighbours.py::"
    "test_no_client_waits_for_the_backlog_the_hangs_or_the_crashes_of_another"
)


class Planted(NamedTuple):
    """`promise` of docs/guarantees.md is broken, where it is one of these; `file` is below
    src/slimq; `breaks` says what would happen to a user."""

    name: str
    promise: str
    file: str
    old: str
    new: str
    test: str
    breaks: str


PLANTED = [
    # The journal.
    Planted(
        "no_fsync",
        "B1",
        "journal/segment_file.py",
        "self._disk.fdatasync(self._file)",
        "pass",
        JOURNAL + "test_journal_commit.py::"
        "test_what_waits_is_committed_in_order_by_one_sync_and_delivered_once",
        "A power cut takes what was accepted into a segment that exists already.",
    ),
    Planted(
        "buffered_records_count_behind_a_gap",
        "B2",
        "journal/recovery.py",
        "if found.orphans:",
        "if found.orphans and disk is None:",
        JOURNAL + "test_journal_gaps.py::"
        "test_buffered_records_behind_a_gap_of_a_power_cut_do_not_count",
        "A power cut takes a buffered job, and one that was accepted after it runs.",
    ),
    Planted(
        "no_fsync_of_a_new_segment",
        "B1",
        "journal/segment_file.py",
        "self._disk.fsync(self._file)\n",
        "pass\n",
        JOURNAL + "test_journal_writer.py::"
        "test_a_new_segment_and_its_folder_are_synced_before_the_acknowledgement",
        "A power cut takes what was accepted into a new segment.",
    ),
    Planted(
        "no_fsync_of_the_folder",
        "B1",
        "journal/segment_file.py",
        "            self._disk.fsync_folder(self._folder)\n",
        "",
        JOURNAL + "test_journal_writer.py::"
        "test_a_new_segment_and_its_folder_are_synced_before_the_acknowledgement",
        "A power cut takes a segment whose bytes are on disk, as no folder names it.",
    ),
    Planted(
        "answer_before_the_group_commit",
        "B1",
        "journal/commit.py",
        "            self._writer.commit(group)\n            self._deliver(group)\n",
        "            self._deliver(group)\n            self._writer.commit(group)\n",
        JOURNAL + "test_journal_commit.py::"
        "test_what_is_delivered_has_been_written_and_synced_before",
        "A kill between the answer and the write loses what was accepted.",
    ),
    Planted(
        "fsync_again_after_it_failed",
        "A5",
        "journal/writer.py",
        "        except OSError:\n            return self._append_anew(appends)\n",
        "        except OSError:\n            self._sync(self._current, appends)\n",
        JOURNAL + "test_journal_faults.py::test_a_failed_fsync_is_never_tried_again_on_that_file",
        "The second fsync says yes to pages that the first one has dropped.",
    ),
    Planted(
        "answer_from_memory_when_the_disk_fails",
        "A5",
        "journal/writer.py",
        "            append.error = self.refusal()\n",
        "",
        JOURNAL + "test_journal_faults.py::"
        "test_less_free_space_than_the_reserve_refuses_early_and_frees_the_reserve",
        "A full disk is answered with 202, and nothing is kept.",
    ),
    Planted(
        "damage_is_not_put_aside",
        "A7",
        "journal/reader.py",
        "view.quarantine.keep(file, segment.name, item.start, item.end)",
        "pass",
        JOURNAL + "test_journal_damage.py::"
        "test_a_rotten_record_of_an_old_segment_is_quarantined_once_when_it_is_read",
        "A damaged record is passed over without a trace.",
    ),
    Planted(
        "cut_at_an_error_in_the_middle",
        "A7",
        "journal/recovery.py",
        "if damage.record and damage.end == last.end:",
        "if damage.record:",
        JOURNAL + "test_journal_damage.py::"
        "test_a_rotten_record_of_the_last_segment_is_quarantined_at_start",
        "One damaged record takes all that stand behind it.",
    ),
    Planted(
        "checksum_is_not_compared",
        "A7",
        "journal/scan.py",
        "if checksum(crc) != frame.crc:",
        "if frame.crc == checksum(-1):",
        JOURNAL + "test_journal_reader.py::test_a_body_that_rotted_is_not_returned_in_part",
        "A job runs with data that nobody sent.",
    ),
    Planted(
        "segment_goes_before_the_barrier",
        "D6",
        "ingest.py",
        "if not self._store.barrier():",
        "if self._store is None:",
        ENGINE + "test_ingest.py::test_no_segment_goes_without_a_barrier",
        "A power cut takes jobs out of the store, and the journal has them no more.",
    ),
    Planted(
        "segment_goes_before_its_retention",
        "D6",
        "journal/writer.py",
        "if segment.over_at is None or segment.over_at > now - retain_ms:",
        "if segment.over_at is None:",
        JOURNAL + "test_journal_writer.py::"
        "test_segments_are_swept_when_they_have_been_behind_for_long_enough",
        "A store that fell back to its replica cannot be healed.",
    ),
    Planted(
        "room_is_taken_for_a_torn_record",
        "A7",
        "journal/segments.py",
        "segment.size, segment.end = facts.size, _written(disk, file, facts.size)",
        "segment.size = segment.end = facts.size",
        JOURNAL + "test_journal_room.py::"
        "test_a_killed_node_finds_all_records_and_takes_the_room_for_nothing",
        "Every kill looks like damage, and leaves megabytes of zeros to an expert.",
    ),
    Planted(
        "room_is_laid_out_over_what_is_written",
        "A7",
        "journal/segment_file.py",
        "at = max(self._laid_out, self.written)",
        "at = self._laid_out",
        JOURNAL + "test_journal_room.py::"
        "test_what_is_appended_into_room_is_read_and_makes_the_file_no_longer",
        "Zeros are written over records that were acknowledged.",
    ),
    # Accepting.
    Planted(
        "answer_for_what_is_only_buffered",
        "B4",
        "api/accept.py",
        'level = "buffered" if durability == "buffered" else "journal"\n        append',
        'level = "buffered"\n        append',
        API + "test_accept_lines.py::test_only_who_asks_for_buffered_is_answered_before_the_sync",
        "A power cut takes what was accepted at the level journal.",
    ),
    Planted(
        "answer_at_the_level_store_from_the_journal",
        "B3",
        "api/accept.py",
        'if durability == "store":',
        'if durability == "":',
        API + "test_accept_lines.py::test_durability_store_is_answered_when_the_store_has_the_jobs",
        "Who asked for the store has the jobs on one machine only.",
    ),
    Planted(
        "keys_are_forgotten_before_the_commit",
        "U1",
        "ingest.py",
        '        assert self._cursor is not None, "a step sets it"\n',
        '        assert self._cursor is not None, "a step sets it"\n'
        "        if load.keyed:\n            self._forget_keys(load.keyed)\n",
        ENGINE + "test_ingest.py::test_keys_are_forgotten_after_the_commit_and_never_before",
        "A request that is sent again while the store is down makes its jobs twice.",
    ),
    # Lines.
    Planted(
        "lines_with_a_hash_are_dropped",
        "A1",
        "core/lines.py",
        "        lines.pop()\n    return lines\n",
        '        lines.pop()\n    return [line for line in lines if line[:1] != b"#"]\n',
        ENGINE + "test_ingest.py::test_no_line_is_dropped_or_changed_for_its_content",
        "A line that looks like a comment is accepted and never runs.",
    ),
    Planted(
        "carriage_returns_are_dropped",
        "A1",
        "core/lines.py",
        'lines = body.split(b"\\n")\n',
        'lines = [line.rstrip(b"\\r") for line in body.split(b"\\n")]\n',
        ENGINE + "test_ingest.py::test_no_line_is_dropped_or_changed_for_its_content",
        "A line that ends with a carriage return runs without it.",
    ),
    Planted(
        "ambiguous_framing_is_taken",
        "A4",
        "api/head.py",
        "        if length is not None:\n            raise CallerError(",
        "        if length is None and minor == 0:\n            raise CallerError(",
        API + "test_head.py::test_what_is_not_plainly_legal_is_refused_and_the_rule_is_named",
        "A proxy and slimq read two different requests: one is smuggled in.",
    ),
    Planted(
        "a_key_with_another_body_is_replayed",
        "U1",
        "api/keys.py",
        "if owner.use.digest != digests[key]:",
        "if not digests[key]:",
        API + "test_accept_keys.py::test_the_same_key_with_another_body_is_refused",
        "Another request is answered with the jobs of an earlier one, and is lost.",
    ),
    # The stores.
    Planted(
        "cursor_outside_the_transaction",
        "D6",
        "store/sqlite.py",
        "            ingests.move_cursor(tx.db, journal, expected, moved)\n"
        "            return ingests.ingest(tx, jobs)\n",
        "            ingests.move_cursor(tx.db, journal, expected, moved)\n"
        "        with self._file.write() as tx:\n"
        "            return ingests.ingest(tx, jobs)\n",
        INGEST + "test_an_ingest_that_fails_moves_no_cursor[sqlite]",
        "A failure between the two loses jobs.",
    ),
    Planted(
        "cursor_outside_the_transaction_postgres",
        "D6",
        "store/postgres.py",
        "            ingests.move_cursor(tx, journal, expected, moved)\n"
        "            return ingests.ingest(tx, jobs, self._shard)\n",
        "            return ingests.ingest(tx, jobs, self._shard)\n\n"
        "        self._link.write(lambda tx: ingests.move_cursor(tx, journal, expected, moved))\n",
        INGEST + "test_an_ingest_that_fails_moves_no_cursor[postgres]",
        "A failure between the two loses jobs.",
    ),
    Planted(
        "finish_without_the_attempt",
        "F1",
        "store/sqlite_finish.py",
        "AND job.lock = ?3 AND job.attempt = m.value->>1 ",
        "AND job.lock = ?3 ",
        LEASES + "test_a_stale_attempt_changes_nothing[sqlite]",
        "A run that was given up ends the one that took its place.",
    ),
    Planted(
        "finish_of_many_without_the_attempt",
        "F1",
        "store/sqlite_finish.py",
        "AND lock = ?2 AND attempt = ?10",
        "AND lock = ?2 AND ?10 > 0",
        LEASES + "test_stale_attempts_of_jobs_that_end_alike_change_nothing[sqlite]",
        "Runs that were given up end those that took their place.",
    ),
    Planted(
        "finish_of_many_ends_what_lies_between",
        "F1",
        "core/jobid.py",
        "span == len(ids) == len(set(ids))",
        "span == len(ids)",
        LEASES + "test_jobs_between_others_that_end_alike_are_not_moved[sqlite]",
        "A job that still runs is ended by the results of others.",
    ),
    Planted(
        "finish_without_the_attempt_postgres",
        "F1",
        "store/postgres_finish.py",
        "  DELETE FROM slimq.job USING m\n"
        "  WHERE job.id = m.id AND job.attempt = m.attempt AND job.lock",
        "  DELETE FROM slimq.job USING m\n  WHERE job.id = m.id AND job.lock",
        LEASES + "test_a_stale_attempt_changes_nothing[postgres]",
        "A run that was given up ends the one that took its place.",
    ),
    Planted(
        "a_done_job_is_run_again_by_a_late_result",
        "D3",
        "store/sqlite_finish.py",
        "    \"AND ?3 NOT IN ('', '__done')\"\n",
        "",
        LEASES + "test_no_one_holds_a_job_that_waits_or_is_done[sqlite-__done]",
        "A job that is done changes its result, or runs again.",
    ),
    Planted(
        "rescue_of_jobs_whose_lease_holds",
        "L2",
        "store/sqlite_tend.py",
        "WHERE lock <> '' AND lock <> '__done' AND dt <= ? ORDER BY dt LIMIT ?",
        "WHERE lock <> '' AND lock <> '__done' AND ? > 0 ORDER BY dt LIMIT ?",
        LEASES + "test_a_job_whose_lease_holds_is_not_freed_with_one_that_is_abandoned[sqlite]",
        "The sweep takes a job from the node that runs it.",
    ),
    Planted(
        "rescue_of_jobs_whose_lease_holds_postgres",
        "L2",
        "store/postgres_tend.py",
        "WHERE lock <> '' AND dt <= slimq.now_ms() ORDER BY dt, lock, seq LIMIT %s::int\n",
        "WHERE lock <> '' ORDER BY dt, lock, seq LIMIT %s::int\n",
        LEASES + "test_a_job_whose_lease_holds_is_not_freed_with_one_that_is_abandoned[postgres]",
        "The sweep takes a job from the node that runs it.",
    ),
    Planted(
        "claim_of_one_too_many",
        "L4",
        "store/sqlite_claim.py",
        "tx.db.execute(_CANDIDATES, (type_id, tx.now, limit)).get",
        "tx.db.execute(_CANDIDATES, (type_id, tx.now, limit + 1)).get",
        LEASES + "test_a_claim_takes_no_more_than_its_limit[sqlite]",
        "More jobs start than may.",
    ),
    Planted(
        "claim_of_one_too_many_postgres",
        "L4",
        "store/postgres_claim.py",
        "LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED),",
        "LIMIT %(limit)s::int + 1 FOR UPDATE SKIP LOCKED),",
        LEASES + "test_a_claim_takes_no_more_than_its_limit[postgres]",
        "More jobs start than may.",
    ),
    Planted(
        "commits_that_do_not_wait_for_the_disk_postgres",
        "B3",
        "store/postgres_claim.py",
        "set_config('synchronous_commit', 'off', true)",
        "set_config('synchronous_commit', 'off', false)",
        "tests/unit/store/test_postgres_link.py::"
        "test_only_the_commit_of_a_lease_does_not_wait_for_the_disk",
        "A crash of the server takes jobs whose segment the journal has deleted.",
    ),
    Planted(
        "clock_of_the_program_for_leases",
        "L1",
        "store/sqlite_clock.py",
        "self._latest = max(self._latest, self._offset + self._clock.boot_ms())",
        "self._latest = self._clock.wall_ms()",
        "tests/unit/store/test_sqlite_clock.py::"
        "test_a_step_of_the_wall_clock_expires_no_lease_and_lengthens_none",
        "A wall clock that is set takes every lease at once.",
    ),
    # Running and finishing.
    Planted(
        "children_after_the_end_of_their_parent",
        "D5",
        "finish.py",
        "            children += self._journal_children(flight)\n"
        "            finished.append(self._finished(flight, now))\n"
        "        stale = self._store.finish(self._sysid, finished)",
        "            finished.append(self._finished(flight, now))\n"
        "        stale = self._store.finish(self._sysid, finished)\n"
        "        for flight in flights:\n"
        "            children += self._journal_children(flight)\n"
        "        stale = stale",
        ENGINE + "test_finish.py::"
        "test_children_are_in_the_journal_before_the_store_learns_of_their_parents_end",
        "A kill between the two leaves a parent that is OK and has no children.",
    ),
    Planted(
        "ids_of_children_from_the_attempt",
        "D5",
        "finish.py",
        "_child(client, batch.jobs[index].id, ordinal, line.jobtype, line.data)",
        "_child(client, batch.jobs[index].id, ordinal + 1000 * batch.jobs[index].attempt,"
        " line.jobtype, line.data)",
        ENGINE + "test_finish.py::test_a_parent_that_runs_again_adds_no_child_twice",
        "Each run of a parent adds its children once more.",
    ),
    Planted(
        "children_of_a_run_that_lost_its_lease",
        "D5",
        "finish.py",
        "            if batch.jobs[index].id not in lost\n",
        "",
        ENGINE + "test_finish.py::test_a_run_that_was_taken_over_journals_nothing",
        "A run that does not count adds jobs all the same.",
    ),
    Planted(
        "renewal_on_the_thread_of_the_handlers",
        "L2",
        "dispatch.py",
        "        lost = self._store.renew(self._sysid, leases, lease_ms=LEASE_MS)\n",
        "        import asyncio\n\n"
        "        async def renewed() -> set[str]:\n"
        "            return self._store.renew(self._sysid, leases, lease_ms=LEASE_MS)\n\n"
        "        loop = next(flight.task for flight in self.flights).get_loop()\n"
        "        lost = asyncio.run_coroutine_threadsafe(renewed(), loop).result()\n",
        ENGINE + "test_busy_loop.py::"
        "test_leases_are_renewed_while_the_loop_that_runs_the_handlers_is_busy",
        "A handler that keeps its thread busy loses its lease, and runs twice.",
    ),
    Planted(
        "a_run_goes_on_until_its_lease_is_over",
        "L3",
        "runner/flight.py",
        "boot_ms() > flight.deadline_ms - LEASE_MARGIN_MS",
        "boot_ms() > flight.deadline_ms",
        ENGINE + "test_flights.py::test_a_run_is_killed_before_its_lease_ends_and_not_much_earlier",
        "A run that cannot be renewed and the one that took its place overlap.",
    ),
    Planted(
        "a_client_gets_all_slots",
        "O4",
        "scheduler.py",
        "self.client_slots = -(-slots * 3 // 4)",
        "self.client_slots = slots",
        NEIGHBOURS,
        "One client whose jobs hang keeps all others waiting.",
    ),
    Planted(
        "the_busiest_client_goes_first",
        "O4",
        "scheduler.py",
        "self._ready.push(name, (client.running, client.work))",
        "self._ready.push(name, (-client.running, client.work))",
        NEIGHBOURS,
        "A client with an endless backlog keeps all others waiting.",
    ),
    Planted(
        "no_jitter",
        "",
        "core/backoff.py",
        "return int(ceiling * chance)",
        "return ceiling",
        ENGINE + "test_finish.py::test_jobs_that_fail_together_come_back_spread_over_time",
        "All jobs that failed together come back together.",
    ),
    Planted(
        "a_crash_is_no_reason_to_stop",
        "D7",
        "core/lifecycle.py",
        "    if mark.crashes >= CRASHES_MAX:\n",
        "    if mark.crashes < 0:\n",
        LEASES + "test_a_job_that_is_abandoned_too_often_is_done_with_an_error[sqlite]",
        "A job that kills its node kills all of them, for ever.",
    ),
    Planted(
        "a_done_job_is_cancelled",
        "D3",
        "core/lifecycle.py",
        "    if mark.lock == DONE:\n        return False\n",
        "",
        STORE + "test_store_control.py::test_a_done_or_unknown_job_is_not_cancelled[sqlite]",
        "A job that was OK is shown as cancelled.",
    ),
    # Security.
    Planted(
        "address_is_checked_when_it_is_resolved_only",
        "",
        "runner/transfer.py",
        "if not self._policy.permits(host):",
        "if not host:",
        RUNNER + "test_http_addresses.py",
        "A name that resolves to something else the second time reaches the inner network.",
    ),
    Planted(
        "address_is_not_checked_when_it_is_connected_to",
        "",
        "runner/http_connect.py",
        "if self._policy.permits(address)]",
        "if address]",
        RUNNER + "test_http_addresses.py",
        "A name that resolves to something else the second time reaches the inner network.",
    ),
    Planted(
        "a_request_is_sent_again_although_its_answer_began",
        "",
        "runner/http_connection.py",
        "        if self._reader.began:\n",
        "        if False:\n",
        RUNNER + "test_http_wire.py::test_a_request_whose_answer_began_is_not_sent_again",
        "A job runs twice on a target that had begun to say what became of it.",
    ),
    Planted(
        "what_follows_an_answer_is_kept_for_the_next",
        "",
        "runner/http_answer.py",
        "            self.keep = False\n",
        "            pass\n",
        RUNNER + "test_http_wire.py::test_what_follows_an_answer_is_nobodys_answer",
        "A job gets the result of another.",
    ),
    Planted(
        "commands_inherit_the_environment",
        "",
        "runner/command.py",
        "environment = self._environment | {\n",
        "environment = dict(os.environb) | self._environment | {\n",
        RUNNER + "test_exec.py::test_the_environment_is_what_was_given_and_the_batch",
        "Every command sees the secrets of the node.",
    ),
]
