pub mod media;
pub mod api;
pub mod cli;
