pub mod deliver;
pub mod hub;
pub mod library;
pub mod media;
