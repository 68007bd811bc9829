-- Everything lives in a schema of its own, so that an application may share the database.
-- (dt, lock) are the spec's; core/lifecycle.py says what they mean. Times are ms since the epoch.

CREATE SCHEMA slimq;

-- The store's clock. It stands still within a statement, so that an index can be asked by it.
CREATE FUNCTION slimq.now_ms() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
  AS 'SELECT (extract(epoch FROM statement_timestamp()) * 1000)::bigint';

CREATE TABLE slimq.meta (
  name  text COLLATE "C" PRIMARY KEY,
  value bigint NOT NULL
) WITH (fillfactor = 10);

-- `schema_least` is the oldest schema whose slimq may still work on this one.
INSERT INTO slimq.meta VALUES
  ('schema', 1), ('schema_least', 1), ('control_version', 0), ('purged', 0);

CREATE TABLE slimq.node (
  sysid      text COLLATE "C" PRIMARY KEY,
  started_at bigint NOT NULL,
  seen_at    bigint NOT NULL,
  about      text NOT NULL  -- JSON
) WITH (fillfactor = 50);

CREATE TABLE slimq.journal (
  name        text COLLATE "C" PRIMARY KEY,
  segment     bigint NOT NULL,
  "offset"    bigint NOT NULL,
  body_offset bigint NOT NULL,
  lines       bigint NOT NULL
) WITH (fillfactor = 10);

-- `next_dt` is a lower bound of the dt of the waiting jobs (NULL: look again only when
-- something is added), so that "which types are due" never looks at jobs, alive or dead. It
-- is a hint: `sweep` compares it with the jobs now and then.
CREATE TABLE slimq.type (
  type_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text COLLATE "C" NOT NULL UNIQUE,
  next_dt    bigint,
  hold_until bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE INDEX type_by_next ON slimq.type (next_dt) WHERE next_dt IS NOT NULL;

-- The counts are exact: they move in the transaction that moves the jobs. A type has up to
-- eight rows, whose sums count, so that nodes which work on one type do not wait for each
-- other's commits.
CREATE TABLE slimq.type_count (
  type_id integer NOT NULL,
  shard   smallint NOT NULL,
  waiting bigint NOT NULL DEFAULT 0,
  running bigint NOT NULL DEFAULT 0,
  ok      bigint NOT NULL DEFAULT 0,
  failed  bigint NOT NULL DEFAULT 0,
  error   bigint NOT NULL DEFAULT 0,
  bytes   bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (type_id, shard)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Jobs that are not done. Rows come and go all the time: they are vacuumed by number, not
-- by share. `seq` is the order of ingest.
CREATE TABLE slimq.job (
  seq        bigint GENERATED ALWAYS AS IDENTITY,
  dt         bigint NOT NULL,
  due_at     bigint NOT NULL,
  started_at bigint,
  type_id    integer NOT NULL,
  attempt    integer NOT NULL DEFAULT 0,
  failures   integer NOT NULL DEFAULT 0,
  crashes    integer NOT NULL DEFAULT 0,
  status     integer NOT NULL DEFAULT 0,
  id         text COLLATE "C" NOT NULL,
  lock       text COLLATE "C" NOT NULL DEFAULT '',
  parent     text COLLATE "C",
  trace      text,
  data       bytea NOT NULL
) WITH (
  fillfactor = 90,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
  autovacuum_vacuum_cost_delay = 0
);

CREATE UNIQUE INDEX job_by_id ON slimq.job (id);
CREATE INDEX job_waiting ON slimq.job (type_id, dt, seq) WHERE lock = '';
CREATE INDEX job_running ON slimq.job (dt) WHERE lock <> '';

-- Jobs that are done, by the day they ended on and by whether they are OK: `slot` is twice
-- the day since the epoch, and 1 more for those that are not. A purge drops whole slots.
-- `node`, `output_id`, `error` and `result` tell the last run; node is NULL when no run
-- ended the job. Runs that were not the last are in `run`.
CREATE TABLE slimq.done (
  seq        bigint NOT NULL,
  ended_at   bigint NOT NULL,
  due_at     bigint NOT NULL,
  started_at bigint,
  output_id  bigint,
  slot       integer NOT NULL,
  type_id    integer NOT NULL,
  attempt    integer NOT NULL,
  failures   integer NOT NULL,
  crashes    integer NOT NULL,
  status     integer NOT NULL,
  id         text COLLATE "C" NOT NULL,
  node       text COLLATE "C",
  parent     text COLLATE "C",
  trace      text,
  error      text,
  result     bytea,
  data       bytea NOT NULL
) PARTITION BY LIST (slot);

CREATE INDEX done_by_id ON slimq.done (id);
CREATE INDEX done_by_type ON slimq.done (type_id, id);
CREATE INDEX done_by_end ON slimq.done USING brin (ended_at) WITH (autosummarize = on);

-- What ends in a slot that nobody made yet.
CREATE TABLE slimq.done_other PARTITION OF slimq.done DEFAULT;

CREATE FUNCTION slimq.slot(ended_at bigint, status integer) RETURNS integer
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS 'SELECT (ended_at / 86400000)::integer * 2 + (status >= 300)::integer';

CREATE TABLE slimq.run (
  seq        bigint NOT NULL,
  started_at bigint NOT NULL,
  ended_at   bigint NOT NULL,
  output_id  bigint,
  attempt    integer NOT NULL,
  status     integer NOT NULL,
  node       text COLLATE "C" NOT NULL,
  error      text,
  result     bytea,
  PRIMARY KEY (seq, attempt)
);

-- The tail of a batch's output, once for all its runs; it goes with the last of them.
CREATE TABLE slimq.output (
  output_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  refs      integer NOT NULL,
  tail      bytea NOT NULL
) WITH (fillfactor = 90);

CREATE TABLE slimq.idempotency (
  type_id     integer NOT NULL,
  count       integer NOT NULL,
  ingested_at bigint NOT NULL,
  key         text COLLATE "C" NOT NULL,
  first       text COLLATE "C" NOT NULL,
  digest      text COLLATE "C" NOT NULL,
  PRIMARY KEY (type_id, key)
);

CREATE INDEX idempotency_by_age ON slimq.idempotency (ingested_at);

-- The ids of a request whose key another request owns: id n of the block that starts at
-- `first` stands for id n of the block that starts at `owner`.
CREATE TABLE slimq.alias (
  sysid       text COLLATE "C" NOT NULL,
  first       text COLLATE "C" NOT NULL,
  owner       text COLLATE "C" NOT NULL,
  count       integer NOT NULL,
  ingested_at bigint NOT NULL,
  PRIMARY KEY (sysid, first)
);

CREATE INDEX alias_by_age ON slimq.alias (ingested_at);

-- `last` outlives the versions, so that a number never means two handlers.
CREATE TABLE slimq.handler_name (
  client  text COLLATE "C" NOT NULL,
  jobtype text COLLATE "C" NOT NULL,
  current integer,  -- NULL: deleted
  last    integer NOT NULL,
  PRIMARY KEY (client, jobtype)
);

CREATE TABLE slimq.handler (
  client     text COLLATE "C" NOT NULL,
  jobtype    text COLLATE "C" NOT NULL,
  version    integer NOT NULL,
  created_at bigint NOT NULL,
  lang       text NOT NULL,
  body       text NOT NULL,  -- JSON
  options    text NOT NULL,  -- JSON, as written
  PRIMARY KEY (client, jobtype, version)
);

CREATE TABLE slimq.policy (
  client      text COLLATE "C" NOT NULL,
  jobtype     text COLLATE "C" NOT NULL,
  paused      boolean,
  weight      integer,
  concurrency integer,
  batch_size  integer,
  PRIMARY KEY (client, jobtype)
);
