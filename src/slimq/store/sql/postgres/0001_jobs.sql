-- Everything lives in a schema of its own, so that an application may share the database.
-- (dt, lock) are the spec's; core/lifecycle.py says what they mean. Times are ms since the epoch.

-- The store's clock. It stands still within a statement, so that an index can be asked by it.
CREATE FUNCTION slimq.now_ms() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
  AS 'SELECT (extract(epoch FROM statement_timestamp()) * 1000)::bigint';

CREATE TABLE slimq.meta (
  name  text COLLATE "C" PRIMARY KEY,
  value bigint NOT NULL
) WITH (fillfactor = 10);

INSERT INTO slimq.meta VALUES ('control_version', 0), ('purged', 0);

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

-- What follows lets an application that shares the database add jobs in its own transaction:
-- SELECT slimq.add('acme', 'mail', ARRAY['line 1', 'line 2']). The transaction may stay open
-- for long, and nodes must not wait for it: it touches nothing that they share before it
-- commits. What it adds waits in `added`, which nobody else ever sees a row of.

CREATE UNLOGGED TABLE slimq.added (
  xact   xid8 NOT NULL,
  place  bigint GENERATED ALWAYS AS IDENTITY,
  due_at bigint,  -- NULL: at the commit
  type   text COLLATE "C" NOT NULL,
  ids    text[] NOT NULL,
  data   bytea[] NOT NULL,
  PRIMARY KEY (xact, place)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

ALTER TABLE slimq.added ALTER ids SET STORAGE EXTERNAL, ALTER data SET STORAGE EXTERNAL;

-- No two ids are made of the same number, so that they differ whatever the clock does. Its
-- upper bits count up the place where other ids have the sysid of a node, from a number of
-- this database whose highest bit is set, as in no sysid.
CREATE SEQUENCE slimq.added_number MINVALUE 0;
INSERT INTO slimq.meta
  SELECT 'added_sysid', 140737488355328 + random_bits::bigint
  FROM (SELECT
      ('x' || left(replace(gen_random_uuid()::text, '-', ''), 12))::bit(48) >> 2) AS r(random_bits);

CREATE FUNCTION slimq.base64(value bigint, length integer) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$
SELECT string_agg(substr('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~',
    ((value >> (6 * i)) & 63)::integer + 1, 1), '' ORDER BY i DESC)
FROM generate_series(0, length - 1) AS i
$$;

CREATE FUNCTION slimq.mint(count integer) RETURNS text[] LANGUAGE sql VOLATILE
  AS $$
WITH n AS MATERIALIZED (SELECT nextval('slimq.added_number') AS n FROM generate_series(1, count)),
prefix AS MATERIALIZED (
  SELECT h.high,
    slimq.base64(slimq.now_ms(), 7) || '-' || slimq.base64(m.value + h.high, 8) || '-' AS text
  FROM (SELECT DISTINCT n >> 24 AS high FROM n) AS h, slimq.meta AS m WHERE m.name = 'added_sysid')
SELECT array_agg(prefix.text || substr(digits, (n >> 18 & 63)::integer + 1, 1)
  || substr(digits, (n >> 12 & 63)::integer + 1, 1) || substr(digits, (n >> 6 & 63)::integer + 1, 1)
  || substr(digits, (n & 63)::integer + 1, 1) ORDER BY n)
FROM n JOIN prefix ON prefix.high = n >> 24,
  CAST('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~' AS text) AS digits
$$;

-- When nodes were last told, in ms. A sequence, because it is shared without waiting.
CREATE SEQUENCE slimq.told;

-- Tell the nodes that listen to look now, not within a second. That is a hint: commits that
-- notify wait for each other, so it is given every 20 ms at most, and nodes look once more
-- when that time is over.
CREATE FUNCTION slimq.tell(what text) RETURNS void LANGUAGE plpgsql
  AS $$
BEGIN
  IF what <> 'jobs' OR abs(slimq.now_ms() - (SELECT last_value FROM slimq.told)) >= 20 THEN
    PERFORM setval('slimq.told', greatest(1, slimq.now_ms()));
    PERFORM pg_notify('slimq', what);
  END IF;
END
$$;

-- Move what a transaction added to where nodes find it, in the order in which an ingest
-- locks what is shared. The first row does it for all rows of the transaction.
CREATE FUNCTION slimq.added_commits() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$
DECLARE
  part smallint := floor(random() * 8);
  numbers integer[];
  heads bigint[];
BEGIN
  IF NOT EXISTS (SELECT FROM slimq.added WHERE xact = pg_current_xact_id()) THEN
    RETURN NULL;
  END IF;
  INSERT INTO slimq.type (name)
    SELECT DISTINCT a.type FROM slimq.added AS a WHERE a.xact = pg_current_xact_id()
      AND NOT EXISTS (SELECT FROM slimq.type AS t WHERE t.name = a.type)
    ORDER BY 1 ON CONFLICT DO NOTHING;
  WITH mine AS (
    DELETE FROM slimq.added WHERE xact = pg_current_xact_id() RETURNING *),
  jobs AS (
    INSERT INTO slimq.job (type_id, dt, due_at, id, data)
    SELECT t.type_id, due.at, due.at, n.id, n.data
    FROM mine JOIN slimq.type AS t ON t.name = mine.type
    CROSS JOIN LATERAL greatest(mine.due_at, slimq.now_ms()) AS due(at)
    CROSS JOIN LATERAL unnest(mine.ids, mine.data) WITH ORDINALITY AS n(id, data, place)
    ORDER BY mine.place, n.place
    RETURNING type_id, dt, octet_length(data) AS size),
  sums AS (
    SELECT type_id, count(*) AS count, min(dt) AS head, sum(size + 200) AS bytes
    FROM jobs GROUP BY type_id),
  counted AS (
    INSERT INTO slimq.type_count AS c (type_id, shard, waiting, bytes)
    SELECT type_id, part, count, sums.bytes FROM sums ORDER BY type_id
    ON CONFLICT (type_id, shard) DO UPDATE SET
      waiting = c.waiting + excluded.waiting, bytes = c.bytes + excluded.bytes)
  SELECT array_agg(type_id ORDER BY type_id), array_agg(head ORDER BY type_id)
    INTO numbers, heads FROM sums;
  UPDATE slimq.type AS t SET next_dt = n.dt
    FROM (SELECT * FROM unnest(numbers, heads) AS n(type_id, dt) ORDER BY 1) AS n
    WHERE t.type_id = n.type_id AND (t.next_dt IS NULL OR t.next_dt > n.dt);
  IF (SELECT min(head) FROM unnest(heads) AS head) < slimq.now_ms() + 1000 THEN
    PERFORM slimq.tell('jobs');
  END IF;
  RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER added_commits AFTER INSERT ON slimq.added
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slimq.added_commits();
ALTER TABLE slimq.added ENABLE ALWAYS TRIGGER added_commits;

CREATE FUNCTION slimq.refuse(why text) RETURNS void LANGUAGE plpgsql
  AS $$
BEGIN
  RAISE EXCEPTION 'slimq.add: %', why USING ERRCODE = 'invalid_parameter_value';
END
$$;

-- Add jobs, one for each element of `data`, when the transaction of the caller commits;
-- return their ids, in order. They are due at once, or after `delay`, or at `due_at`. What
-- is not allowed in POST /add is not allowed here.
CREATE FUNCTION slimq.add_bytes(
  client text, jobtype text, data bytea[],
  delay interval DEFAULT NULL, due_at timestamptz DEFAULT NULL
) RETURNS SETOF text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$
#variable_conflict use_variable
DECLARE
  a_name CONSTANT text := '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$';
  name_rule CONSTANT text := ': a name starts with a letter or digit, goes on with letters, '
    'digits, ''.'', ''_'' or ''-'', and has at most 128 characters';
  year CONSTANT interval := '366 days';
  due bigint;
  ids text[];
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'slimq.add works in transactions at READ COMMITTED, and this one is at %',
      upper(current_setting('transaction_isolation')) USING ERRCODE = 'feature_not_supported';
  END IF;
  IF (client COLLATE "C" ~ a_name) IS NOT TRUE THEN
    PERFORM slimq.refuse('client is missing or malformed' || name_rule);
  ELSIF (jobtype COLLATE "C" ~ a_name) IS NOT TRUE THEN
    PERFORM slimq.refuse('jobtype is missing or malformed' || name_rule);
  ELSIF delay IS NOT NULL AND due_at IS NOT NULL THEN
    PERFORM slimq.refuse('delay and due_at exclude each other');
  ELSIF delay < '0' OR delay > year OR due_at > statement_timestamp() + year THEN
    PERFORM slimq.refuse('delay or due_at: from now to at most 366 days ahead');
  ELSIF data IS NULL OR cardinality(data) > 10000 THEN
    PERFORM slimq.refuse('data has at most 10000 elements, and is not NULL');
  ELSIF EXISTS (SELECT FROM unnest(data) AS d(each)
      WHERE each IS NULL OR octet_length(each) > 1048576 OR position(decode('0a', 'hex') IN each) > 0) THEN
    PERFORM slimq.refuse('each element of data is one line of at most 1048576 bytes: not NULL, '
      'and without a newline');
  ELSIF cardinality(data) = 0 THEN
    RETURN;
  END IF;
  due := slimq.now_ms() + (extract(epoch FROM delay) * 1000)::bigint;
  IF due_at > statement_timestamp() THEN
    due := (extract(epoch FROM due_at) * 1000)::bigint;
  END IF;
  ids := slimq.mint(cardinality(data));
  INSERT INTO slimq.added (xact, due_at, type, ids, data)
    VALUES (pg_current_xact_id(), due, client || '/' || jobtype, ids, data);
  RETURN QUERY SELECT unnest(ids);
END
$$;

-- The same for text. It has a name of its own, or drivers that leave types to the server could
-- call neither.
CREATE FUNCTION slimq.add(
  client text, jobtype text, data text[],
  delay interval DEFAULT NULL, due_at timestamptz DEFAULT NULL
) RETURNS SETOF text
  LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$
SELECT slimq.add_bytes(client, jobtype, (
    SELECT CASE WHEN add.data IS NOT NULL THEN
      coalesce(array_agg(convert_to(d.each, 'UTF8') ORDER BY d.place), '{}') END
    FROM unnest(add.data) WITH ORDINALITY AS d(each, place)), delay, due_at)
$$;

-- Who may add is said by name; see docs/operating.md.
REVOKE EXECUTE ON FUNCTION slimq.add, slimq.add_bytes FROM PUBLIC;
