-- An index for each way of filtering a list, with the status before the time: a list of one status walks the rows of that
-- status only, one of every status merges them.
DROP INDEX recording_by_room;
DROP INDEX recording_by_room_id;
DROP INDEX recording_by_stream;
DROP INDEX recording_by_session;
CREATE INDEX recording_by_room           ON recording (room_name, status, started_at_ms, id);
CREATE INDEX recording_by_room_id        ON recording (room_id, status, started_at_ms, id);
CREATE INDEX recording_by_stream         ON recording (stream_name, status, started_at_ms, id);
CREATE INDEX recording_by_stream_in_room ON recording (stream_name, room_name, status, started_at_ms, id);
CREATE INDEX recording_by_session        ON recording (media_session_id, status, started_at_ms, id);
