-- Protected from deletion.
ALTER TABLE recording ADD COLUMN locked INTEGER NOT NULL DEFAULT 0;

-- Those that retention may delete, the one that ended first before the others.
CREATE INDEX recording_by_end ON recording (ended_at_ms, id) WHERE locked = 0 AND ended_at_ms IS NOT NULL;

-- Bytes of all finished files, so that no one has to add up a million rows.
CREATE TABLE held (bytes INTEGER NOT NULL);
INSERT INTO held SELECT coalesce(sum(size), 0) FROM recording;
CREATE TRIGGER held_more AFTER INSERT ON recording WHEN new.size != 0
BEGIN UPDATE held SET bytes = bytes + new.size; END;
CREATE TRIGGER held_other AFTER UPDATE OF size ON recording WHEN new.size != old.size
BEGIN UPDATE held SET bytes = bytes + new.size - old.size; END;
CREATE TRIGGER held_less AFTER DELETE ON recording WHEN old.size != 0
BEGIN UPDATE held SET bytes = bytes - old.size; END;
