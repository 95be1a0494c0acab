use super::{
    flv::{AudioTag, FlvError, VideoTag, parse_audio, parse_video},
    message::Metadata,
};
use crate::{
    hub::{EndReason, Publisher},
    ingest::caps::{CapsError, audio_track_caps, video_track_caps},
    media::{Codec, Frame, MediaKind, Timeline, Track, TrackId, Tracks, VideoSize},
};
use gstreamer as gst;
use std::time::Duration;

/// How much media is awaited for the second track to show up: encoders announce both within a second.
const SETTLE_MEDIA_NS: u64 = 1_000_000_000;
/// The same in wall time, for encoders that send nothing meanwhile.
const SETTLE_WALL: Duration = Duration::from_millis(1_500);

/// Turns the media messages of one publisher into access units and tracks for the hub.
pub(super) struct Feed {
    publisher: Publisher,
    timeline: Timeline,
    tracks: Vec<Track>,
    /// Access units not yet handed to the hub.
    batch: Vec<Frame>,
    metadata_size: Option<VideoSize>,
    first_media: Option<FirstMedia>,
    settled: bool,
    /// Messages that could not be used.
    faults: u64,
}

/// When the first access unit came, and its decoding time.
#[derive(Clone, Copy)]
struct FirstMedia {
    at: Duration,
    dts_ns: u64,
}

/// The payload of a media message without its tag header, as memory of a `gst::Buffer`.
struct Payload {
    message: Vec<u8>,
    offset: usize,
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.message.get(self.offset..).unwrap_or_default()
    }
}

impl Feed {
    pub fn new(publisher: Publisher) -> Self {
        Self {
            publisher,
            timeline: Timeline::default(),
            tracks: Vec::new(),
            batch: Vec::new(),
            metadata_size: None,
            first_media: None,
            settled: false,
            faults: 0,
        }
    }

    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    pub fn metadata(&mut self, metadata: &Metadata) {
        if let (Some(width), Some(height)) = (metadata.width, metadata.height) {
            self.metadata_size = Some(VideoSize { width, height });
        }
    }

    /// `now`: monotonic time since any fixed origin. True when the message was of use.
    pub fn video(&mut self, timestamp_ms: u32, payload: Vec<u8>, now: Duration) -> bool {
        let taken = parse_video(&payload).and_then(|tag| self.take_video(tag, timestamp_ms, payload, now));
        self.used(taken)
    }

    /// As [`video`](Self::video).
    pub fn audio(&mut self, timestamp_ms: u32, payload: Vec<u8>, now: Duration) -> bool {
        let taken = parse_audio(&payload).and_then(|tag| self.take_audio(tag, timestamp_ms, payload, now));
        self.used(taken)
    }

    /// Hands what has gathered to the hub. Call it when the socket has been drained.
    pub fn flush(&mut self, now: Duration) {
        if !self.settled && self.is_settled(now) {
            self.settled = true;
            self.publisher.publish(&mut self.batch);
            self.publisher.settle();
        }
        self.publisher.publish(&mut self.batch);
    }

    /// Hands on what is left and ends the stream. One that ends before its second track could show up is whole
    /// with what it has.
    pub fn finish(&mut self, reason: EndReason) {
        self.publisher.publish(&mut self.batch);
        if !self.settled && self.first_media.is_some() {
            self.settled = true;
            self.publisher.settle();
        }
        self.publisher.end(reason);
    }

    /// Messages that could not be used so far. Why the first could not was logged.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    fn used(&mut self, taken: Result<(), FlvError>) -> bool {
        let Err(fault) = taken else { return true };
        self.faults += 1;
        if self.faults == 1 {
            let stream = self.publisher.stream().announce();
            tracing::warn!(stream = %stream.name, "a media message is left out; more are only counted: {fault}");
        }
        false
    }

    fn take_video(
        &mut self,
        tag: VideoTag,
        ts: u32,
        payload: Vec<u8>,
        now: Duration,
    ) -> Result<(), FlvError> {
        if let Some((codec, config)) = tag.config(&payload) {
            let (caps, size) = video_track_caps(codec, config)?;
            let (caps, size) = with_size(caps, size, self.metadata_size);
            self.set_track(codec, caps, |track| track.size = size);
        }
        let VideoTag::Frame { codec, key, cts_ms, offset } = tag else { return Ok(()) };
        let Some(track) = self.track(codec) else { return Err(no_config(codec)) };
        self.push(track, ts, cts_ms, key, None, Payload { message: payload, offset }, now);
        Ok(())
    }

    fn take_audio(
        &mut self,
        tag: AudioTag,
        ts: u32,
        payload: Vec<u8>,
        now: Duration,
    ) -> Result<(), FlvError> {
        let header = matches!(tag, AudioTag::SequenceHeader { .. });
        let known = matches!(tag, AudioTag::Frame { codec, .. } if self.track(codec).is_some());
        if (header || !known)
            && let Some((codec, config)) = tag.config(&payload)
        {
            let found = audio_track_caps(codec, config)?;
            self.set_track(codec, found.caps, |track| {
                track.rate = Some(found.rate);
                track.channels = Some(found.channels);
            });
        }
        let AudioTag::Frame { codec, offset } = tag else { return Ok(()) };
        let Some(track) = self.track(codec) else { return Err(no_config(codec)) };
        let payload = Payload { message: payload, offset };
        let duration = self.audio_duration(track, payload.as_ref().len());
        self.push(track, ts, 0, true, duration, payload, now);
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one access unit, each named where it is read"
    )]
    fn push(
        &mut self,
        track: TrackId,
        timestamp_ms: u32,
        cts_ms: i32,
        key: bool,
        duration: Option<gst::ClockTime>,
        payload: Payload,
        now: Duration,
    ) {
        let step = self.timeline.step_ms(track, timestamp_ms, now);
        self.first_media.get_or_insert(FirstMedia { at: now, dts_ns: step.dts_ns });
        if let Some(gap) = step.jump {
            self.publisher.publish(&mut self.batch);
            self.publisher.gap(gap);
        }
        let mut buffer = gst::Buffer::from_slice(payload);
        let unit = buffer.get_mut().expect("a new buffer has one owner");
        unit.set_dts(gst::ClockTime::from_nseconds(step.dts_ns));
        let cts_ns = i64::from(cts_ms) * 1_000_000;
        unit.set_pts(gst::ClockTime::from_nseconds(step.dts_ns.saturating_add_signed(cts_ns)));
        unit.set_duration(duration);
        if !key {
            unit.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        self.batch.push(Frame { track, buffer });
    }

    /// An AAC access unit has 1024 samples, G.711 a byte per sample; other codecs do not say.
    fn audio_duration(&self, id: TrackId, bytes: usize) -> Option<gst::ClockTime> {
        let track = self.tracks.get(usize::from(id.0))?;
        let samples = match track.codec {
            Codec::Aac => 1024,
            Codec::Pcma | Codec::Pcmu => bytes as u64 / u64::from(track.channels?.max(1)),
            _ => return None,
        };
        let rate = u64::from(track.rate?).max(1);
        Some(gst::ClockTime::from_nseconds(samples * 1_000_000_000 / rate))
    }

    fn track(&self, codec: Codec) -> Option<TrackId> {
        self.tracks.iter().find(|t| t.codec == codec).map(|t| t.id)
    }

    /// Adds a track, or changes the one of the same kind; the hub hears of it when anything is new.
    fn set_track(&mut self, codec: Codec, caps: gst::Caps, describe: impl FnOnce(&mut Track)) {
        let at = self.tracks.iter().position(|t| t.kind() == codec.kind());
        if at.is_some_and(|i| self.tracks[i].codec == codec && self.tracks[i].caps == caps) {
            return;
        }
        let index = at.unwrap_or(self.tracks.len());
        let id = TrackId(index as u8);
        let mut track = Track { id, codec, caps, size: None, rate: None, channels: None };
        describe(&mut track);
        match at {
            Some(i) => self.tracks[i] = track,
            None => self.tracks.push(track),
        }
        self.publisher.publish(&mut self.batch);
        self.publisher.set_tracks(Tracks::new(self.tracks.clone()));
    }

    fn is_settled(&self, now: Duration) -> bool {
        let has = |kind| self.tracks.iter().any(|t| t.kind() == kind);
        if has(MediaKind::Video) && has(MediaKind::Audio) {
            return true;
        }
        let Some(first) = self.first_media else { return false };
        let settled_ns = first.dts_ns + SETTLE_MEDIA_NS;
        now.saturating_sub(first.at) >= SETTLE_WALL
            || self.batch.last().is_some_and(|f| f.dts_ns() >= settled_ns)
    }
}

fn no_config(codec: Codec) -> FlvError {
    CapsError { codec, what: "an access unit came before its sequence header" }.into()
}

/// Fills in the picture size from `onMetaData` where the codec's configuration does not tell it.
fn with_size(
    mut caps: gst::Caps,
    size: Option<VideoSize>,
    other: Option<VideoSize>,
) -> (gst::Caps, Option<VideoSize>) {
    let (None, Some(VideoSize { width, height })) = (size, other) else { return (caps, size) };
    let caps_mut = caps.make_mut();
    caps_mut.set("width", width as i32);
    caps_mut.set("height", height as i32);
    (caps, other)
}
