pub mod gst;
pub mod media;
