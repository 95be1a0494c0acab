-- Webhooks of the configuration that answered 410: they want to be told no more.
CREATE TABLE webhook_gone (
    url   TEXT    NOT NULL PRIMARY KEY,
    at_ms INTEGER NOT NULL
);
