-- (dt, lock) of a job is the only scheduling truth; all else is bookkeeping beside it.
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE cursor (
  journal TEXT PRIMARY KEY, segment INTEGER, offset INTEGER, body_offset INTEGER, lines INTEGER
) WITHOUT ROWID;

-- One row for each client/jobtype that ever had a job. next_dt is a lower bound of the dt
-- of its waiting jobs; the counters change in the transactions that move the jobs.
CREATE TABLE type (
  type_id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  client TEXT NOT NULL,
  jobtype TEXT NOT NULL,
  next_dt INTEGER,
  hold_until INTEGER NOT NULL DEFAULT 0,
  waiting INTEGER NOT NULL DEFAULT 0,
  running INTEGER NOT NULL DEFAULT 0,
  ok INTEGER NOT NULL DEFAULT 0,
  failed INTEGER NOT NULL DEFAULT 0,
  error INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX type_waiting ON type (name, next_dt) WHERE next_dt IS NOT NULL;

CREATE TABLE job (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  type_id INTEGER NOT NULL,
  dt INTEGER NOT NULL,
  lock TEXT NOT NULL DEFAULT '',
  attempt INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  status INTEGER NOT NULL DEFAULT 0,
  due_at INTEGER NOT NULL,
  data BLOB NOT NULL,
  trace TEXT NOT NULL DEFAULT '',
  parent TEXT NOT NULL DEFAULT '',
  node TEXT NOT NULL DEFAULT '',
  started_at INTEGER NOT NULL DEFAULT 0,
  result BLOB NOT NULL DEFAULT x'',
  error TEXT NOT NULL DEFAULT '',
  output_id INTEGER
);
CREATE INDEX job_waiting ON job (type_id, dt) WHERE lock = '';
CREATE INDEX job_running ON job (dt) WHERE lock <> '' AND lock <> '__done';
CREATE INDEX job_ok ON job (dt) WHERE lock = '__done' AND status < 300;
CREATE INDEX job_dead ON job (dt) WHERE lock = '__done' AND status >= 300;

-- Runs that did not end their job; the last run of a done job stands in its row.
CREATE TABLE run (
  id TEXT, attempt INTEGER, status INTEGER, node TEXT, started_at INTEGER, ended_at INTEGER,
  result BLOB, error TEXT, output_id INTEGER,
  PRIMARY KEY (id, attempt)
) WITHOUT ROWID;
CREATE TABLE output (output_id INTEGER PRIMARY KEY, ended_at INTEGER, tail BLOB);
CREATE INDEX output_ended ON output (ended_at);

CREATE TABLE idem (
  type TEXT, key TEXT, first TEXT, count INTEGER, digest TEXT, at INTEGER,
  PRIMARY KEY (type, key)
) WITHOUT ROWID;
CREATE INDEX idem_at ON idem (at);
CREATE TABLE alias (
  loser TEXT PRIMARY KEY, count INTEGER, winner TEXT, at INTEGER
) WITHOUT ROWID;

CREATE TABLE node (sysid TEXT PRIMARY KEY, started_at INTEGER, seen_at INTEGER, about TEXT)
  WITHOUT ROWID;
CREATE TABLE handler (
  client TEXT, jobtype TEXT, version INTEGER, lang TEXT, body TEXT, options TEXT,
  created_at INTEGER, current INTEGER NOT NULL,
  PRIMARY KEY (client, jobtype, version)
) WITHOUT ROWID;
CREATE TABLE policy (
  client TEXT, jobtype TEXT, paused INTEGER, weight INTEGER, concurrency INTEGER,
  batch_size INTEGER,
  PRIMARY KEY (client, jobtype)
) WITHOUT ROWID;
INSERT INTO meta VALUES ('control_version', 0), ('purged', 0);
