-- (dt, lock) are the spec's; core/lifecycle.py says what they mean. Times are ms since the epoch.

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value ANY
) STRICT, WITHOUT ROWID;

INSERT INTO meta VALUES ('control_version', 0), ('purged', 0);

CREATE TABLE node (
  sysid      TEXT PRIMARY KEY,
  started_at INTEGER NOT NULL,
  seen_at    INTEGER NOT NULL,
  about      TEXT NOT NULL  -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE journal (
  name        TEXT PRIMARY KEY,
  segment     INTEGER NOT NULL,
  offset      INTEGER NOT NULL,
  body_offset INTEGER NOT NULL,
  lines       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The counts are exact: they move in the transaction that moves the jobs. `next_dt` is the
-- smallest dt of the waiting jobs (NULL: none waits), so that `due` never looks at jobs.
CREATE TABLE type (
  type_id    INTEGER PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  next_dt    INTEGER,
  hold_until INTEGER NOT NULL DEFAULT 0,
  waiting    INTEGER NOT NULL DEFAULT 0,
  running    INTEGER NOT NULL DEFAULT 0,
  ok         INTEGER NOT NULL DEFAULT 0,
  failed     INTEGER NOT NULL DEFAULT 0,
  error      INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX type_by_next ON type (next_dt, name) WHERE next_dt IS NOT NULL;
CREATE INDEX type_waiting ON type (name, next_dt, hold_until) WHERE next_dt IS NOT NULL;

-- `node`, `output_id`, `error` and `result` tell the last run of a done job; node is NULL
-- when no run ended it. Runs that were not the last are in `run`. So a job that is OK at
-- the first try is one row. The wide columns stand last: reading the others skips them.
CREATE TABLE job (
  seq        INTEGER PRIMARY KEY,  -- order of ingest
  id         TEXT NOT NULL,
  type_id    INTEGER NOT NULL,
  dt         INTEGER NOT NULL,
  lock       TEXT NOT NULL DEFAULT '',
  attempt    INTEGER NOT NULL DEFAULT 0,
  failures   INTEGER NOT NULL DEFAULT 0,
  crashes    INTEGER NOT NULL DEFAULT 0,
  status     INTEGER NOT NULL DEFAULT 0,
  due_at     INTEGER NOT NULL,
  started_at INTEGER,
  output_id  INTEGER,
  node       TEXT,
  parent     TEXT,
  trace      TEXT,
  error      TEXT,
  result     BLOB,
  data       BLOB  -- NULL: in `large`
) STRICT;

CREATE UNIQUE INDEX job_by_id ON job (id);
CREATE INDEX job_by_type ON job (type_id, id);
CREATE INDEX job_waiting ON job (type_id, dt) WHERE lock = '';
CREATE INDEX job_running ON job (dt, lock) WHERE lock <> '' AND lock <> '__done';
CREATE INDEX job_done_ok ON job (dt) WHERE lock = '__done' AND status < 300;
CREATE INDEX job_done_bad ON job (dt) WHERE lock = '__done' AND status >= 300;

-- Data that fills half a page or more stays where it is while its job moves.
CREATE TABLE large (
  seq  INTEGER PRIMARY KEY,
  data BLOB NOT NULL
) STRICT;

CREATE TABLE run (
  seq        INTEGER NOT NULL,
  attempt    INTEGER NOT NULL,
  status     INTEGER NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at   INTEGER NOT NULL,
  output_id  INTEGER,
  node       TEXT NOT NULL,
  error      TEXT,
  result     BLOB,
  PRIMARY KEY (seq, attempt)
) STRICT, WITHOUT ROWID;

-- The tail of a batch's output, once for all its runs; it goes with the last of them.
CREATE TABLE output (
  output_id INTEGER PRIMARY KEY,
  refs      INTEGER NOT NULL,
  tail      BLOB NOT NULL
) STRICT;

CREATE TABLE idempotency (
  type_id     INTEGER NOT NULL,
  key         TEXT NOT NULL,
  first       TEXT NOT NULL,
  count       INTEGER NOT NULL,
  digest      TEXT NOT NULL,
  ingested_at INTEGER NOT NULL,
  PRIMARY KEY (type_id, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_age ON idempotency (ingested_at);

-- The ids of a request whose key another request owns: id n of the block that starts at
-- `first` stands for id n of the block that starts at `owner`.
CREATE TABLE alias (
  sysid       TEXT NOT NULL,
  first       TEXT NOT NULL,
  count       INTEGER NOT NULL,
  owner       TEXT NOT NULL,
  ingested_at INTEGER NOT NULL,
  PRIMARY KEY (sysid, first)
) STRICT, WITHOUT ROWID;

CREATE INDEX alias_by_age ON alias (ingested_at);

-- `last` outlives the versions, so that a number never means two handlers.
CREATE TABLE handler_name (
  client  TEXT NOT NULL,
  jobtype TEXT NOT NULL,
  current INTEGER,  -- NULL: deleted
  last    INTEGER NOT NULL,
  PRIMARY KEY (client, jobtype)
) STRICT, WITHOUT ROWID;

CREATE TABLE handler (
  client     TEXT NOT NULL,
  jobtype    TEXT NOT NULL,
  version    INTEGER NOT NULL,
  lang       TEXT NOT NULL,
  body       TEXT NOT NULL,  -- JSON
  options    TEXT NOT NULL,  -- JSON, as written
  created_at INTEGER NOT NULL,
  PRIMARY KEY (client, jobtype, version)
) STRICT;

CREATE TABLE policy (
  client      TEXT NOT NULL,
  jobtype     TEXT NOT NULL,
  paused      INTEGER,
  weight      INTEGER,
  concurrency INTEGER,
  batch_size  INTEGER,
  PRIMARY KEY (client, jobtype)
) STRICT, WITHOUT ROWID;
