//! `reeldmp4mux`: a crash-safe MP4 muxer without a thread of its own.
//!
//! While it records, the file is a fragmented MP4 (`ftyp free moov (moof mdat)*`), so a killed process leaves a
//! file that plays up to its last whole fragment. On EOS an ordinary `moov` is appended and, last of all, the
//! 16-byte `free` becomes the header of one `mdat` that spans everything up to it: a plain `ftyp mdat moov`.
//! That needs a sink that seeks (`filesink`); with any other the file stays a fragmented MP4.
//!
//! All work is done in the thread that pushes. A fragment goes downstream as one buffer list: its boxes, then
//! the access units themselves, by reference. Boxes are written by hand: codec configuration goes in verbatim and
//! the sample tables come straight from a compact index (ISO/IEC 14496-12, -14, -15; RFC 6381 names).
//!
//! Time: the file begins at the lowest first PTS of its tracks. In fragments a track's start is in `tfdt`, in the
//! final `moov` it is an empty edit; reorder delay and decoder pre-skip are in an edit list in both. A track whose
//! first access unit comes after the header has no edit list there: its fragments use signed composition offsets.

mod boxes;
mod element;
mod format;
mod index;
mod moov;
mod muxer;
mod recover;
mod sps;
#[cfg(test)]
mod tests;
mod track;
mod video;

pub use recover::{Ending, FragmentSample, Remains, RunHead, TrackHead, TrackSum, join};
pub use sps::{h264_size, h265_size};

use gstreamer as gst;
use gstreamer::prelude::*;

/// Whether `element` is a `reeldmp4mux`, which never blocks the thread that pushes.
pub fn is_mp4mux(element: &gst::Element) -> bool {
    element.is::<element::Mp4Mux>()
}

/// Makes the element `reeldmp4mux` known to GStreamer, statically. May be called any number of times, after
/// `gst::init`.
///
/// The element: request pads `video_%u` and `audio_%u`, one source pad `src`; property `fragment-duration` in ms.
/// Every requested pad is expected to deliver. New caps of a video track with the same codec go on in the same file;
/// H.264 and H.265 then bring their parameter sets in the access units from the next key frame on, and the finished
/// file's sample entry says so (`avc3`, `hev1`). Other codec parameters that change (AAC, …) are an element error
/// (`gst::StreamError::Format`): start a new file.
pub fn register() -> Result<(), glib::BoolError> {
    gst::Element::register(None, "reeldmp4mux", gst::Rank::NONE, element::Mp4Mux::static_type())
}
