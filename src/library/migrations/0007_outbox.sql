-- What is to be done with a recording's files and news (JSON); NULL: it began before this was kept.
ALTER TABLE recording ADD COLUMN hand_on TEXT;

-- What is still to be delivered. state: 'waiting' for next_at_ms (0: at once), 'held' behind an earlier one of its recording
-- and target, 'dead' given up. holds: 1 while it waits and has not failed so often that it keeps the ones behind it no more.
-- place: among those of one recording and target; the part of a file, 0 for news, which go in the order they were put in.
-- event: what news tells.
CREATE TABLE outbox_of_all (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    key               TEXT    NOT NULL UNIQUE,
    kind              TEXT    NOT NULL,
    target            TEXT    NOT NULL,
    recording_id      TEXT    REFERENCES recording (id) ON DELETE CASCADE,
    part              INTEGER,
    place             INTEGER NOT NULL,
    event             TEXT,
    job               TEXT    NOT NULL,
    state             TEXT    NOT NULL,
    holds             INTEGER NOT NULL,
    attempts          INTEGER NOT NULL,
    first_tried_at_ms INTEGER,
    next_at_ms        INTEGER NOT NULL,
    error             TEXT,
    progress          TEXT
);

INSERT INTO outbox_of_all SELECT id, 'msg_' || lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4'
    || substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))),
    kind, json_extract(job, '$.script'), recording_id, part, part, NULL, json_set(job, '$.kind', 'hook'), state,
    state = 'waiting' AND attempts < 5, attempts, first_tried_at_ms, next_at_ms, NULL, NULL FROM outbox ORDER BY id;
DROP TABLE outbox;
ALTER TABLE outbox_of_all RENAME TO outbox;

-- What is due; what comes next in the line of a recording and target, and what it waits for; what the API lists.
CREATE INDEX outbox_by_time   ON outbox (kind, next_at_ms, id, target) WHERE state = 'waiting';
CREATE INDEX outbox_by_line   ON outbox (recording_id, kind, target, state, place, id);
CREATE INDEX outbox_holding   ON outbox (recording_id, kind, target) WHERE holds = 1;
CREATE INDEX outbox_by_state  ON outbox (state, id);
CREATE INDEX outbox_by_kind   ON outbox (kind, id);

-- Deliveries that are done, but for hooks: what they did is with their part.
CREATE TABLE delivered (
    recording_id TEXT    NOT NULL REFERENCES recording (id) ON DELETE CASCADE,
    part         INTEGER,
    kind         TEXT    NOT NULL,
    target       TEXT    NOT NULL,
    event        TEXT,
    attempts     INTEGER NOT NULL
);
CREATE INDEX delivered_by_recording ON delivered (recording_id);

-- What a damaged catalog still had to deliver, until its recordings and parts are entered into this one.
DROP TABLE owed;
CREATE TABLE owed (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    key          TEXT    NOT NULL UNIQUE,
    kind         TEXT    NOT NULL,
    recording_id TEXT    NOT NULL,
    part         INTEGER,
    job          TEXT    NOT NULL,
    dead         INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    error        TEXT,
    progress     TEXT
);
CREATE INDEX owed_by_recording ON owed (recording_id, part);

-- And what was to be done with recordings that it had under way.
CREATE TABLE owed_hand_on (
    recording_id TEXT NOT NULL PRIMARY KEY,
    hand_on      TEXT NOT NULL
);
