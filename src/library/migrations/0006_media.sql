-- Absolute path of a still picture from the part, and how often one may still be tried.
ALTER TABLE part ADD COLUMN poster       TEXT;
ALTER TABLE part ADD COLUMN poster_tries INTEGER NOT NULL DEFAULT 0;

CREATE INDEX part_by_poster ON part (poster_tries) WHERE poster_tries > 0;

-- Files of recordings that were deleted, until they are gone from the disk. size: NULL for a .part.
CREATE TABLE deleting (
    file         TEXT    NOT NULL PRIMARY KEY,
    recording_id TEXT    NOT NULL,
    number       INTEGER NOT NULL,
    size         INTEGER
);
