//! FLV files as ffmpeg writes them (Adobe FLV 10.1, annex E): AVC video, AAC audio, `onMetaData`.

use std::{fs, io, path::Path, time::Duration};

use thiserror::Error;

const TAG_HEADER_BYTES: usize = 11;
const PREVIOUS_SIZE_BYTES: usize = 4;
const MAX_FILE_BYTES: u64 = 1 << 30;

#[derive(Debug, Error)]
pub enum FlvError {
    #[error("cannot read the FLV file: {0}")]
    Io(#[from] io::Error),
    #[error("not an FLV file")]
    Signature,
    #[error("FLV file of {0} bytes, more than {MAX_FILE_BYTES}")]
    TooLong(u64),
    #[error("FLV tag at byte {0} is cut off")]
    Truncated(usize),
    #[error("FLV file holds no media")]
    Empty,
}

/// What a media tag carries; the discriminant is the FLV tag type and the RTMP message type id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Audio = 8,
    Video = 9,
}

/// One audio or video message: the payload is what RTMP sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub kind: Kind,
    pub timestamp_ms: u32,
    pub payload: Vec<u8>,
}

/// One message of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due<'a> {
    pub kind: Kind,
    /// From the start of the timeline; never goes back.
    pub timestamp_ms: u32,
    pub payload: &'a [u8],
}

/// An FLV file taken apart: what is sent once at the start, and the media.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flv {
    /// The body of the first script tag (`onMetaData` and its array).
    pub metadata: Option<Vec<u8>>,
    /// AVC sequence header, with its FLV video header.
    pub video_header: Option<Vec<u8>>,
    /// AAC sequence header, with its FLV audio header.
    pub audio_header: Option<Vec<u8>>,
    /// Frames in file order, without sequence headers and end-of-sequence tags. Never empty.
    pub media: Vec<Tag>,
}

impl Flv {
    pub fn read(path: &Path) -> Result<Self, FlvError> {
        let length = fs::metadata(path)?.len();
        if length > MAX_FILE_BYTES {
            return Err(FlvError::TooLong(length));
        }
        Self::parse(&fs::read(path)?)
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, FlvError> {
        let header = bytes
            .first_chunk::<9>()
            .filter(|header| header.starts_with(b"FLV"))
            .ok_or(FlvError::Signature)?;
        let mut at =
            u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize + PREVIOUS_SIZE_BYTES;
        let mut flv = Self::default();
        while at < bytes.len() {
            let tag = bytes.get(at..at + TAG_HEADER_BYTES).ok_or(FlvError::Truncated(at))?;
            let length = u32::from_be_bytes([0, tag[1], tag[2], tag[3]]) as usize;
            let timestamp_ms = u32::from_be_bytes([tag[7], tag[4], tag[5], tag[6]]);
            let body = at + TAG_HEADER_BYTES;
            let payload = bytes.get(body..body + length).ok_or(FlvError::Truncated(at))?;
            flv.take_tag(tag[0] & 0x1F, timestamp_ms, payload);
            at = body + length + PREVIOUS_SIZE_BYTES;
        }
        if flv.media.is_empty() {
            return Err(FlvError::Empty);
        }
        Ok(flv)
    }

    fn take_tag(&mut self, tag_type: u8, timestamp_ms: u32, payload: &[u8]) {
        let kind = match (tag_type, payload) {
            (18, _) => {
                self.metadata.get_or_insert_with(|| payload.to_vec());
                return;
            }
            (9, [_, 0, ..]) => {
                self.video_header.get_or_insert_with(|| payload.to_vec());
                return;
            }
            (8, [format, 0, ..]) if format >> 4 == 10 => {
                self.audio_header.get_or_insert_with(|| payload.to_vec());
                return;
            }
            (9, [_, 1, ..]) => Kind::Video,
            (8, [_, ..]) => Kind::Audio,
            _ => return,
        };
        self.media.push(Tag { kind, timestamp_ms, payload: payload.to_vec() });
    }

    /// The media from timestamp 0 up to `length`, repeated as often as it takes.
    ///
    /// A repetition begins one frame interval after the end of the one before, so time never goes back.
    pub fn timeline(&self, length: Duration) -> Vec<Due<'_>> {
        let end_ms = u32::try_from(length.as_millis()).unwrap_or(u32::MAX);
        let mut pass: Vec<&Tag> = self.media.iter().collect();
        pass.sort_by_key(|tag| tag.timestamp_ms);
        let (Some(first), Some(last)) = (pass.first(), pass.last()) else { return Vec::new() };
        let base_ms = first.timestamp_ms;
        let pass_ms = (last.timestamp_ms - base_ms).saturating_add(self.frame_interval_ms());
        let mut timeline = Vec::new();
        let mut offset_ms = 0_u32;
        while offset_ms < end_ms {
            let due = pass.iter().map(|tag| Due {
                kind: tag.kind,
                timestamp_ms: (tag.timestamp_ms - base_ms).saturating_add(offset_ms),
                payload: &tag.payload,
            });
            timeline.extend(due.take_while(|due| due.timestamp_ms < end_ms));
            offset_ms = offset_ms.saturating_add(pass_ms);
        }
        timeline
    }

    /// From the first frame to the second of the kind that leads (video when there is video), at least 1.
    fn frame_interval_ms(&self) -> u32 {
        let kind = if self.video_header.is_some() { Kind::Video } else { Kind::Audio };
        let mut times = self.media.iter().filter(|tag| tag.kind == kind).map(|tag| tag.timestamp_ms);
        let (first, second) = (times.next().unwrap_or(0), times.next().unwrap_or(0));
        second.saturating_sub(first).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tags: &[(u8, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec();
        for (tag_type, timestamp_ms, payload) in tags {
            let length = (payload.len() as u32).to_be_bytes();
            let time = timestamp_ms.to_be_bytes();
            bytes.push(*tag_type);
            bytes.extend(&length[1..]);
            bytes.extend([time[1], time[2], time[3], time[0], 0, 0, 0]);
            bytes.extend(*payload);
            bytes.extend([0; PREVIOUS_SIZE_BYTES]);
        }
        bytes
    }

    fn sample() -> Vec<u8> {
        file(&[
            (18, 0, b"meta"),
            (9, 0, &[0x17, 0, 1]),
            (8, 0, &[0xAF, 0, 2]),
            (9, 100, &[0x17, 1, 3]),
            (8, 110, &[0xAF, 1, 4]),
            (9, 140, &[0x27, 1, 5]),
            (9, 140, &[0x17, 2, 6]),
        ])
    }

    #[test]
    fn headers_are_told_from_media() {
        let flv = Flv::parse(&sample()).unwrap();
        assert_eq!(flv.metadata.as_deref(), Some(&b"meta"[..]));
        assert_eq!(flv.video_header.as_deref(), Some(&[0x17, 0, 1][..]));
        assert_eq!(flv.audio_header.as_deref(), Some(&[0xAF, 0, 2][..]));
        let media: Vec<_> =
            flv.media.iter().map(|tag| (tag.kind, tag.timestamp_ms, tag.payload[2])).collect();
        assert_eq!(media, [(Kind::Video, 100, 3), (Kind::Audio, 110, 4), (Kind::Video, 140, 5)]);
    }

    #[test]
    fn timeline_repeats_without_going_back() {
        let flv = Flv::parse(&sample()).unwrap();
        let times: Vec<_> = flv
            .timeline(Duration::from_millis(130))
            .iter()
            .map(|due| (due.timestamp_ms, due.payload[2]))
            .collect();
        assert_eq!(times, [(0, 3), (10, 4), (40, 5), (80, 3), (90, 4), (120, 5)]);
    }

    #[test]
    fn extended_timestamps_are_read() {
        let flv = Flv::parse(&file(&[(8, 0x0123_4567, &[0x2F, 1])])).unwrap();
        assert_eq!(flv.media[0].timestamp_ms, 0x0123_4567);
    }

    #[test]
    fn broken_files_are_errors() {
        let whole = sample();
        assert!(matches!(Flv::parse(b"RIFF....."), Err(FlvError::Signature)));
        assert!(matches!(Flv::parse(&whole[..13]), Err(FlvError::Empty)));
        assert!(matches!(Flv::parse(&whole[..20]), Err(FlvError::Truncated(13))));
    }
}
