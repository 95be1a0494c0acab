pub mod gst;
pub mod hub;
pub mod library;
pub mod media;
pub mod record;
