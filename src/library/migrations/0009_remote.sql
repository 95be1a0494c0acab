-- Where in an object store a part is too (its URL), the store's word for what is there, and since when; whether its file is
-- still in the records folder.
ALTER TABLE part ADD COLUMN remote       TEXT;
ALTER TABLE part ADD COLUMN remote_etag  TEXT;
ALTER TABLE part ADD COLUMN remote_at_ms INTEGER;
ALTER TABLE part ADD COLUMN local        INTEGER NOT NULL DEFAULT 1;

CREATE INDEX part_to_free ON part (remote_at_ms) WHERE remote IS NOT NULL AND local = 1;

-- Objects of parts that were deleted, until they are gone from the store. upload: one that was not brought to its end.
CREATE TABLE deleting_remote (
    object       TEXT    NOT NULL PRIMARY KEY,
    recording_id TEXT    NOT NULL,
    number       INTEGER NOT NULL,
    etag         TEXT,
    upload       TEXT
);
