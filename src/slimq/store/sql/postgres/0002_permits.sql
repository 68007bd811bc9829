-- least: 1
-- How many batches a node may run under a limit that holds for all nodes together, until dt.
CREATE TABLE slimq.permit (
  name  text COLLATE "C" NOT NULL,  -- of the limit
  lock  text COLLATE "C" NOT NULL,
  count integer NOT NULL,
  dt    bigint NOT NULL,
  PRIMARY KEY (name, lock)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Whoever asks for permits locks this row first, and sees what the one before it was given.
INSERT INTO slimq.meta VALUES ('permits', 0);
