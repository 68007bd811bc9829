-- least: 1
-- How many batches a node may run under a limit that holds for all nodes together, until dt.
CREATE TABLE permit (
  name  TEXT NOT NULL,  -- of the limit
  lock  TEXT NOT NULL,
  count INTEGER NOT NULL,
  dt    INTEGER NOT NULL,
  PRIMARY KEY (name, lock)
) STRICT, WITHOUT ROWID;
