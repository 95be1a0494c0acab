pub mod ingest;
pub mod media;
