//! A publisher of our own that knows what it has sent: in real time, or at once.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    flv::{Due, Flv, Kind, Tag},
    rtmp::{Client, Options, RtmpError, encode_metadata},
};

/// What comes before the media: `onMetaData` and the sequence headers, stamped `timestamp_ms`.
pub fn send_headers(client: &mut Client, flv: &Flv, timestamp_ms: u32) -> Result<(), RtmpError> {
    if let Some(script) = &flv.metadata {
        let mut bytes = Vec::new();
        encode_metadata(&mut bytes, client.stream_id(), script, client.chunk_size());
        client.send_raw(&bytes)?;
    }
    if let Some(header) = &flv.video_header {
        client.send_video(timestamp_ms, header)?;
    }
    if let Some(header) = &flv.audio_header {
        client.send_audio(timestamp_ms, header)?;
    }
    Ok(())
}

pub fn send(client: &mut Client, kind: Kind, timestamp_ms: u32, payload: &[u8]) -> Result<(), RtmpError> {
    match kind {
        Kind::Audio => client.send_audio(timestamp_ms, payload),
        Kind::Video => client.send_video(timestamp_ms, payload),
    }
}

/// Publishes `length` of `flv` as fast as it is taken; the connection stays open.
pub fn publish_at_once(options: Options, flv: &Flv, length: Duration) -> Result<Client, RtmpError> {
    let mut client = Client::publish(options)?;
    send_headers(&mut client, flv, 0)?;
    for Due { kind, timestamp_ms, payload } in flv.timeline(length) {
        send(&mut client, kind, timestamp_ms, payload)?;
    }
    Ok(client)
}

/// The same pictures with 20 ms of Opus every 20 ms (RFC 6716, silence) as Enhanced RTMP: into MP4 it is transcoded.
pub fn with_opus(flv: &Flv) -> Flv {
    const HEADER: &[u8] = b"\x90OpusOpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0";
    const SILENCE: &[u8] = b"\x91Opus\xf8\xff\xfe";
    let mut media: Vec<_> = flv.media.iter().filter(|tag| tag.kind == Kind::Video).cloned().collect();
    let times = media.iter().map(|tag| tag.timestamp_ms);
    let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
    let sound = |timestamp_ms| Tag { kind: Kind::Audio, timestamp_ms, payload: SILENCE.to_vec() };
    media.extend((first..=last).step_by(20).map(sound));
    media.sort_by_key(|tag| tag.timestamp_ms);
    Flv { metadata: None, audio_header: Some(HEADER.to_vec()), media, ..flv.clone() }
}

/// Publishes an FLV file in real time, over and over, on a thread of its own.
#[derive(Debug)]
pub struct Live {
    sent_ms: Arc<AtomicU64>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<usize, RtmpError>>>,
}

impl Live {
    /// Returns when the publish is accepted.
    pub fn start(options: Options, file: &Path) -> Self {
        Self::start_flv(options, Flv::read(file).expect("an FLV file"))
    }

    /// What a file holds, or what was made in memory.
    pub fn start_flv(options: Options, flv: Flv) -> Self {
        let client = Client::publish(options).expect("an accepted publish");
        let (stop, stopped) = channel();
        let sent_ms = Arc::new(AtomicU64::new(0));
        let sent = sent_ms.clone();
        let thread = thread::spawn(move || send_live(client, &flv, &sent, &stopped));
        Self { sent_ms, stop: Some(stop), thread: Some(thread) }
    }

    /// Timestamp of the last message handed to the kernel.
    pub fn sent_ms(&self) -> u64 {
        self.sent_ms.load(Ordering::Acquire)
    }

    /// Says goodbye and waits for the server to close.
    pub fn stop(self) -> Result<(), RtmpError> {
        self.stop_counting().map(|_| ())
    }

    /// [`stop`](Self::stop); hands back how many frames were sent, audio and video.
    pub fn stop_counting(mut self) -> Result<usize, RtmpError> {
        self.stop = None;
        self.thread.take().expect("a thread until it is stopped").join().expect("no panic")
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // The server may be dead by intention.
            let _ = thread.join();
        }
    }
}

const LONGEST: Duration = Duration::from_secs(600);

fn send_live(
    mut client: Client,
    flv: &Flv,
    sent: &AtomicU64,
    stopped: &Receiver<()>,
) -> Result<usize, RtmpError> {
    send_headers(&mut client, flv, 0)?;
    let mut frames = 0;
    let begin = Instant::now();
    for Due { kind, timestamp_ms, payload } in flv.timeline(LONGEST) {
        let due = begin + Duration::from_millis(timestamp_ms.into());
        match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
        send(&mut client, kind, timestamp_ms, payload)?;
        sent.store(timestamp_ms.into(), Ordering::Release);
        frames += 1;
    }
    client.unpublish()?;
    Ok(frames)
}
