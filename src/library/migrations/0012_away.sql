-- What retention does not count: files that are in the store only.
CREATE INDEX part_away ON part (size) WHERE local = 0;
