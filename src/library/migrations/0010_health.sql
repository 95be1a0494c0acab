-- JSON of the API: what was wrong with a recording while it ran, and when.
ALTER TABLE recording ADD COLUMN health TEXT NOT NULL DEFAULT '[]';
