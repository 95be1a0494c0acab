//! What the threads of a `webrtcbin` leave for the task of its session.

use super::state::Transport;
use gstreamer as gst;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Most that may wait: far more than comes between two ticks, so it is met only when the machine stands still.
const MAX_BYTES: usize = 8 << 20;
const MAX_PACKETS: usize = 16 << 10;
/// From so many bytes on the task is woken before its tick.
const EARLY_BYTES: usize = 512 << 10;

/// One packet as it came, RTP in sequence and RTCP whole.
pub(super) enum Packet {
    Rtp(gst::Buffer),
    Rtcp(gst::Buffer),
}

#[derive(Default)]
struct Content {
    packets: Vec<Packet>,
    bytes: usize,
    dropped: u64,
    transport: Option<Transport>,
    fault: Option<String>,
    gathered: bool,
}

/// Bounded; who puts something in never waits.
#[derive(Default)]
pub(super) struct Inbox {
    content: Mutex<Content>,
    changed: Notify,
}

impl Inbox {
    /// On a streaming thread. A packet that finds no room is lost, and told as lost by the hole it leaves.
    pub fn push(&self, packet: Packet) {
        let (Packet::Rtp(buffer) | Packet::Rtcp(buffer)) = &packet;
        let size = buffer.size();
        let mut content = self.lock();
        if content.bytes + size > MAX_BYTES || content.packets.len() >= MAX_PACKETS {
            content.dropped += 1;
            return;
        }
        let early = content.bytes < EARLY_BYTES && content.bytes + size >= EARLY_BYTES;
        content.bytes += size;
        content.packets.push(packet);
        drop(content);
        if early {
            self.changed.notify_one();
        }
    }

    pub fn transport(&self, transport: Transport) {
        self.lock().transport = Some(transport);
        self.changed.notify_one();
    }

    /// The first fault is the one that counts.
    pub fn fault(&self, what: String) {
        self.lock().fault.get_or_insert(what);
        self.changed.notify_one();
    }

    pub fn gathered(&self) {
        self.lock().gathered = true;
        self.changed.notify_one();
    }

    /// Waits until all candidates of ours are known.
    pub async fn all_gathered(&self) {
        while !self.lock().gathered {
            self.changed.notified().await;
        }
    }

    /// Done when something but ordinary packets has come since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Swaps the packets that wait with `packets`, which is empty.
    pub fn take_packets(&self, packets: &mut Vec<Packet>) {
        let mut content = self.lock();
        content.bytes = 0;
        std::mem::swap(&mut content.packets, packets);
    }

    /// The newest state of the transport, if it has changed since the last call.
    pub fn take_transport(&self) -> Option<Transport> {
        self.lock().transport.take()
    }

    pub fn take_fault(&self) -> Option<String> {
        self.lock().fault.take()
    }

    /// Packets that found no room.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_bounded_and_wakes_its_reader_for_what_cannot_wait() {
        gst::init().expect("GStreamer");
        let inbox = Inbox::default();
        let packet = gst::Buffer::from_slice(vec![0; 1 << 20]);
        for _ in 0..10 {
            inbox.push(Packet::Rtp(packet.clone()));
        }
        assert_eq!(inbox.dropped(), 2);
        inbox.changed().await;
        let mut packets = Vec::new();
        inbox.take_packets(&mut packets);
        assert_eq!(packets.len(), 8);
        inbox.push(Packet::Rtcp(packet));
        assert_eq!(inbox.dropped(), 2, "there is room again");
        inbox.fault("one".into());
        inbox.fault("two".into());
        assert_eq!(inbox.take_fault().as_deref(), Some("one"));
        inbox.gathered();
        inbox.all_gathered().await;
    }
}
