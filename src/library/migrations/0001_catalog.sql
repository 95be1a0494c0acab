-- Times are Unix time in ms. JSON columns hold the objects of the API.
CREATE TABLE recording (
    id               TEXT    NOT NULL PRIMARY KEY,
    status           TEXT    NOT NULL,
    room_name        TEXT    NOT NULL,
    room_id          TEXT    NOT NULL,
    stream_name      TEXT    NOT NULL,
    media_session_id TEXT    NOT NULL,
    session_id       TEXT    NOT NULL,
    protocol         TEXT    NOT NULL,
    container        TEXT    NOT NULL,
    started_at_ms    INTEGER NOT NULL,
    ended_at_ms      INTEGER,
    duration_ms      INTEGER NOT NULL,
    size             INTEGER NOT NULL,
    lost             TEXT    NOT NULL,
    error            TEXT
);

-- One index for each filter, in the order of the list.
CREATE INDEX recording_by_time    ON recording (started_at_ms, id);
CREATE INDEX recording_by_room    ON recording (room_name, started_at_ms, id);
CREATE INDEX recording_by_room_id ON recording (room_id, started_at_ms, id);
CREATE INDEX recording_by_stream  ON recording (stream_name, started_at_ms, id);
CREATE INDEX recording_by_session ON recording (media_session_id, started_at_ms, id);
CREATE INDEX recording_by_status  ON recording (status, started_at_ms, id);

CREATE TABLE part (
    recording_id  TEXT    NOT NULL REFERENCES recording (id) ON DELETE CASCADE,
    number        INTEGER NOT NULL,
    file          TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    size          INTEGER NOT NULL,
    sha256        TEXT    NOT NULL,
    started_at_ms INTEGER NOT NULL,
    duration_ms   INTEGER NOT NULL,
    video         TEXT,
    audio         TEXT,
    gaps          TEXT    NOT NULL,
    hook          TEXT,
    PRIMARY KEY (recording_id, number)
);

-- The .part files of parts that are not finished. While one part is made whole the next is being written.
CREATE TABLE writing (
    recording_id TEXT    NOT NULL REFERENCES recording (id) ON DELETE CASCADE,
    number       INTEGER NOT NULL,
    file         TEXT    NOT NULL,
    PRIMARY KEY (recording_id, number)
);

-- What is still to be delivered. state: 'waiting' for next_at_ms (0: at once), 'held' behind an earlier part
-- of its recording, 'dead' given up.
CREATE TABLE outbox (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    kind              TEXT    NOT NULL,
    recording_id      TEXT    NOT NULL,
    part              INTEGER NOT NULL,
    job               TEXT    NOT NULL,
    state             TEXT    NOT NULL,
    attempts          INTEGER NOT NULL,
    first_tried_at_ms INTEGER,
    next_at_ms        INTEGER NOT NULL,
    FOREIGN KEY (recording_id, part) REFERENCES part (recording_id, number) ON DELETE CASCADE
);

CREATE INDEX outbox_by_time      ON outbox (kind, state, next_at_ms, id);
CREATE INDEX outbox_by_recording ON outbox (recording_id, kind, state, part);
