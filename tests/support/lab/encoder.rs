//! An RTMP publisher that sends a reel in real time and tells how far it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    live::send_headers,
    rtmp::{Client, Options, RtmpError, encode_media},
};

use super::Reel;

/// What is due is sent this often, in one write: twenty publishers then cost a few hundred wake-ups a second.
const TICK: Duration = Duration::from_millis(40);

enum End {
    Farewell,
    Reset,
}

/// Sends a reel from one of its access units on, on a thread of its own. Dropping it closes the socket.
#[derive(Debug)]
pub struct Encoder {
    reel: Arc<Reel>,
    first: u64,
    next: Arc<AtomicU64>,
    end: Option<Sender<End>>,
    thread: Option<JoinHandle<Result<(), RtmpError>>>,
}

impl Encoder {
    /// Returns when the publish is accepted. Access unit `first` is the first that is sent, with timestamp 0.
    pub fn start(options: Options, reel: &Arc<Reel>, first: u64) -> Result<Self, RtmpError> {
        let mut client = Client::publish(options)?;
        send_headers(&mut client, reel.headers(), 0)?;
        let next = Arc::new(AtomicU64::new(first));
        let (end, orders) = channel();
        let (sent, thread_reel) = (next.clone(), reel.clone());
        let thread = thread::spawn(move || send_live(client, &thread_reel, &sent, &orders));
        Ok(Self { reel: reel.clone(), first, next, end: Some(end), thread: Some(thread) })
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    /// The access unit after the last one that the kernel has taken.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Media time sent so far.
    pub fn sent_ms(&self) -> u64 {
        self.reel.unit(self.next()).at_ms - self.reel.unit(self.first).at_ms
    }

    /// Says goodbye, waits for the server to close, and gives [`Encoder::next`].
    pub fn stop(mut self) -> Result<u64, RtmpError> {
        self.finish(Some(End::Farewell))?;
        Ok(self.next())
    }

    /// Aborts the connection, and gives [`Encoder::next`].
    pub fn reset(mut self) -> Result<u64, RtmpError> {
        self.finish(Some(End::Reset))?;
        Ok(self.next())
    }

    fn finish(&mut self, end: Option<End>) -> Result<(), RtmpError> {
        if let (Some(sender), Some(end)) = (self.end.take(), end) {
            // The thread has ended when the server is gone; it tells why below.
            let _ = sender.send(end);
        }
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("no panic"))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // The server may be dead by intention.
        let _ = self.finish(None);
    }
}

fn send_live(
    mut client: Client,
    reel: &Reel,
    next: &AtomicU64,
    orders: &Receiver<End>,
) -> Result<(), RtmpError> {
    let begin = Instant::now();
    let mut unit = next.load(Ordering::Acquire);
    let base_ms = reel.unit(unit).at_ms;
    let mut bytes = Vec::new();
    loop {
        let due_ms = base_ms + begin.elapsed().as_millis() as u64;
        bytes.clear();
        while reel.unit(unit).at_ms <= due_ms {
            let sent = reel.unit(unit);
            // RTMP's clock has 32 bits and wraps.
            let timestamp_ms = (sent.at_ms - base_ms) as u32;
            let (stream, size) = (client.stream_id(), client.chunk_size());
            encode_media(&mut bytes, sent.kind, stream, timestamp_ms, sent.payload, size);
            unit += 1;
        }
        client.send_raw(&bytes)?;
        next.store(unit, Ordering::Release);
        match orders.recv_timeout(TICK) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(End::Farewell) => return client.unpublish(),
            Ok(End::Reset) => return client.reset(),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
