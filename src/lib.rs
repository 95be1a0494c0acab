pub mod config;
pub mod media;
pub mod record;
