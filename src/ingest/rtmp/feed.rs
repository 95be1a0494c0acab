use super::{
    flv::{AudioTag, FlvError, VideoTag, parse_audio, parse_video},
    message::Metadata,
    multitrack::main_track,
};
use crate::{
    hub::{EndReason, Publisher},
    ingest::caps::{CapsError, audio_track_caps, video_track_caps},
    media::{Codec, Frame, Gap, GapKind, MediaKind, Timeline, Track, TrackId, Tracks, VideoSize},
};
use gstreamer as gst;
use std::time::Duration;

/// How much media is awaited for the second track to show up: encoders announce both within a second.
const SETTLE_MEDIA: Duration = Duration::from_secs(1);
/// The same in wall time, for encoders that send nothing meanwhile.
const SETTLE_WALL: Duration = Duration::from_millis(1_500);
/// How long video that was announced is awaited, by media and by wall time: a relay that is joined in the middle of a group
/// of pictures sends none before the next key frame.
const SETTLE_VIDEO: Duration = Duration::from_secs(10);
/// Most bytes of access units that wait for the other track; less than the hub keeps, so that none of them is lost.
const MAX_HELD_BYTES: usize = 15 << 20;
/// Most reasons why messages are left out that one publisher gets into the log.
const MAX_FAULTS_TOLD: usize = 8;

/// Turns the media messages of one publisher into access units and tracks for the hub.
pub(super) struct Feed {
    publisher: Publisher,
    timeline: Timeline,
    tracks: Vec<Track>,
    /// Access units not yet handed to the hub.
    batch: Vec<Frame>,
    metadata_size: Option<VideoSize>,
    /// Video is to come: the metadata says so, or pictures came without what is needed to decode them.
    video_announced: bool,
    first_media: Option<FirstMedia>,
    /// The highest decoding time of an access unit.
    latest_ns: u64,
    settled: bool,
    /// Of access units since the first, until the tracks are settled.
    held_bytes: usize,
    /// Messages that could not be used.
    faults: u64,
    last_fault: Option<FlvError>,
    faults_told: usize,
    /// Messages of tracks beside the main one.
    other_tracks: u64,
    /// When the last access unit came.
    last_media: Duration,
    returning: Returning,
}

/// The source is back on a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Returning {
    /// No access unit of the new connection has come.
    at_first: bool,
    /// Pictures left out so far: without the key frame that they refer to they cannot be decoded.
    without_key: Option<u64>,
}

/// When the first access unit came, and its decoding time.
#[derive(Clone, Copy)]
struct FirstMedia {
    at: Duration,
    dts_ns: u64,
}

/// A media message from `offset` on: of its main track, then without its tag header, as memory of a `gst::Buffer`.
struct Payload {
    message: Vec<u8>,
    offset: usize,
}

impl Payload {
    /// `None`: the message is of other tracks only.
    fn of_main_track(kind: MediaKind, mut message: Vec<u8>) -> Result<Option<Self>, FlvError> {
        Ok(main_track(kind, &mut message)?.map(|offset| Self { message, offset }))
    }

    fn from(self, offset: usize) -> Self {
        Self { offset: self.offset + offset, ..self }
    }
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
            video_announced: false,
            first_media: None,
            latest_ns: 0,
            settled: false,
            held_bytes: 0,
            faults: 0,
            last_fault: None,
            faults_told: 0,
            other_tracks: 0,
            last_media: Duration::ZERO,
            returning: Returning::default(),
        }
    }

    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    /// The source came back on a new connection, whose media follows. The timeline goes on without the time between,
    /// which is told as a gap. Without effect before the first media.
    pub fn reconnected(&mut self) {
        if self.first_media.is_some() {
            self.returning = Returning { at_first: true, without_key: Some(0) };
        }
    }

    pub fn metadata(&mut self, metadata: &Metadata) {
        if let (Some(width), Some(height)) = (metadata.width, metadata.height) {
            self.metadata_size = Some(VideoSize { width, height });
        }
        self.video_announced |=
            metadata.names_video || (metadata.width.is_some() && metadata.height.is_some());
    }

    /// `now`: monotonic time since any fixed origin. True when the message was of use.
    pub fn video(&mut self, timestamp_ms: u32, payload: Vec<u8>, now: Duration) -> bool {
        let taken = Payload::of_main_track(MediaKind::Video, payload).and_then(|payload| {
            let Some(payload) = payload else { return Ok(self.other_track()) };
            let tag = parse_video(payload.as_ref()).inspect_err(|_| self.video_announced = false)?;
            self.take_video(tag, timestamp_ms, payload, now).map(|()| true)
        });
        self.used(taken)
    }

    /// As [`video`](Self::video).
    pub fn audio(&mut self, timestamp_ms: u32, payload: Vec<u8>, now: Duration) -> bool {
        let taken = Payload::of_main_track(MediaKind::Audio, payload).and_then(|payload| {
            let Some(payload) = payload else { return Ok(self.other_track()) };
            let tag = parse_audio(payload.as_ref())?;
            self.take_audio(tag, timestamp_ms, payload, now).map(|()| true)
        });
        self.used(taken)
    }

    /// Hands what has gathered to the hub. Call it when the socket has been drained.
    pub fn flush(&mut self, now: Duration) {
        self.publisher.publish(&mut self.batch);
        if !self.settled && self.is_settled(now) {
            self.settle();
        }
    }

    /// Hands on what is left and ends the stream. One that ends before its second track could show up is whole
    /// with what it has.
    pub fn finish(&mut self, reason: EndReason) {
        self.publisher.publish(&mut self.batch);
        if !self.settled && self.first_media.is_some() {
            self.settle();
        }
        self.publisher.end(reason);
    }

    /// Messages that could not be used so far. Why was logged.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Why the last message that could not be used could not.
    pub fn last_fault(&self) -> Option<&FlvError> {
        self.last_fault.as_ref()
    }

    fn used(&mut self, taken: Result<bool, FlvError>) -> bool {
        let fault = match taken {
            Ok(of_use) => return of_use,
            Err(fault) => fault,
        };
        self.faults += 1;
        // Each reason once: every frame of a codec that is not supported has the same.
        if self.faults_told < MAX_FAULTS_TOLD && self.last_fault.as_ref() != Some(&fault) {
            self.faults_told += 1;
            let stream = &self.publisher.stream().announce().name;
            tracing::warn!(%stream, "a media message is left out; more of its kind are only counted: {fault}");
            if fault.is_of_codec() {
                self.publisher.leave_out(fault.to_string());
            }
        }
        self.last_fault = Some(fault);
        false
    }

    fn other_track(&mut self) -> bool {
        self.other_tracks += 1;
        if self.other_tracks == 1 {
            let stream = &self.publisher.stream().announce().name;
            tracing::warn!(%stream, "several tracks are sent; track 0 is taken, the others are left out");
        }
        false
    }

    fn take_video(
        &mut self,
        tag: VideoTag,
        ts: u32,
        payload: Payload,
        now: Duration,
    ) -> Result<(), FlvError> {
        if let Some((codec, config)) = tag.config(payload.as_ref()) {
            let (caps, size) = video_track_caps(codec, config)?;
            let (caps, size) = with_size(caps, size, self.metadata_size);
            self.set_track(codec, caps, |track| track.size = size);
        }
        let VideoTag::Frame { codec, key, cts_ms, offset } = tag else { return Ok(()) };
        let Some(track) = self.track(codec) else {
            self.video_announced = true;
            return Err(no_config(codec));
        };
        self.push(track, ts, cts_ms, key, None, payload.from(offset), now);
        Ok(())
    }

    fn take_audio(
        &mut self,
        tag: AudioTag,
        ts: u32,
        payload: Payload,
        now: Duration,
    ) -> Result<(), FlvError> {
        let header = matches!(tag, AudioTag::SequenceHeader { .. });
        let known = matches!(tag, AudioTag::Frame { codec, .. } if self.track(codec).is_some());
        if (header || !known)
            && let Some((codec, config)) = tag.config(payload.as_ref())
        {
            let found = audio_track_caps(codec, config)?;
            self.set_track(codec, found.caps, |track| {
                track.rate = Some(found.rate);
                track.channels = Some(found.channels);
            });
        }
        let AudioTag::Frame { codec, offset } = tag else { return Ok(()) };
        let Some(track) = self.track(codec) else { return Err(no_config(codec)) };
        let payload = payload.from(offset);
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
        let kind = self.tracks.get(usize::from(track.0)).map(Track::kind);
        if kind == Some(MediaKind::Video) && self.waits_for_key(key) {
            return;
        }
        if std::mem::take(&mut self.returning.at_first) {
            let away = now.saturating_sub(self.last_media);
            let at_ns = self.timeline.resume_ms(timestamp_ms);
            self.tell(GapKind::Reconnect, at_ns, away.as_millis() as i64, 0);
        }
        self.last_media = now;
        let step = self.timeline.step_ms(track, timestamp_ms, now);
        if kind == Some(MediaKind::Video)
            && let Some(frames @ 1..) = self.returning.without_key.take()
        {
            self.tell(GapKind::PacketLoss, step.dts_ns, 0, frames);
        }
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
        self.hold(Frame { track, buffer });
    }

    fn hold(&mut self, frame: Frame) {
        self.latest_ns = self.latest_ns.max(frame.dts_ns());
        if !self.settled {
            self.held_bytes += frame.cost_bytes();
            if self.held_bytes > MAX_HELD_BYTES {
                self.settle();
            }
        }
        self.batch.push(frame);
    }

    /// Goes on with the tracks that are known.
    fn settle(&mut self) {
        self.settled = true;
        if self.video_announced && !self.has(MediaKind::Video) {
            let stream = &self.publisher.stream().announce().name;
            let held_ms = self.held_media().as_millis() as u64;
            tracing::warn!(%stream, held_ms, "video was announced and has not come; the stream goes on without it");
        }
        self.publisher.publish(&mut self.batch);
        self.publisher.settle();
    }

    fn waits_for_key(&mut self, key: bool) -> bool {
        match &mut self.returning.without_key {
            Some(left_out) if !key => {
                *left_out += 1;
                true
            }
            _ => false,
        }
    }

    fn tell(&mut self, kind: GapKind, at_ns: u64, by_ms: i64, frames: u64) {
        self.publisher.publish(&mut self.batch);
        self.publisher.gap(Gap { kind, at_ms: at_ns / 1_000_000, by_ms, at: None, frames, packets: 0 });
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
        if self.has(MediaKind::Video) && self.has(MediaKind::Audio) {
            return true;
        }
        let Some(first) = self.first_media else { return false };
        let (wall, media) = match self.video_announced && !self.has(MediaKind::Video) {
            true => (SETTLE_VIDEO, SETTLE_VIDEO),
            false => (SETTLE_WALL, SETTLE_MEDIA),
        };
        now.saturating_sub(first.at) >= wall || self.held_media() >= media
    }

    /// The media that waits for the other track.
    fn held_media(&self) -> Duration {
        let from_ns = self.first_media.map_or(self.latest_ns, |first| first.dts_ns);
        Duration::from_nanos(self.latest_ns.saturating_sub(from_ns))
    }

    fn has(&self, kind: MediaKind) -> bool {
        self.tracks.iter().any(|t| t.kind() == kind)
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

#[cfg(test)]
mod tests;
