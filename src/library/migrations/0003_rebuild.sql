-- Wall-clock time of the first frame of a part that is being written; NULL where an older version began it.
ALTER TABLE writing ADD COLUMN started_at_ms INTEGER;

-- What the start compares with the names in the records folder, without reading the rows.
CREATE INDEX part_by_file ON part (file);

-- A row while this catalog is one that was made anew: files that it does not know were finished, and handed on, before it.
CREATE TABLE rebuild (since_ms INTEGER NOT NULL);
INSERT INTO rebuild SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000 WHERE NOT EXISTS (SELECT 1 FROM recording);

-- Parts whose hooks had not run yet in the damaged catalog that this one took the place of; until they are entered.
CREATE TABLE owed (
    recording_id TEXT    NOT NULL,
    part         INTEGER NOT NULL,
    PRIMARY KEY (recording_id, part)
);
