-- JSON of the API: what a part misses, and why it is less than what was asked for.
ALTER TABLE part ADD COLUMN lost     TEXT NOT NULL DEFAULT '{"packets":0,"frames":0}';
ALTER TABLE part ADD COLUMN degraded TEXT NOT NULL DEFAULT '[]';
