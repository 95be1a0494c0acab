use super::message::Outgoing;

/// What we ask peers to acknowledge after, and acknowledge after ourselves until they ask otherwise.
pub(super) const WINDOW_BYTES: u32 = 2_500_000;
/// A peer that asks for acknowledgements more often gets them this often.
const MIN_WINDOW_BYTES: u32 = 4_096;

/// Counts what a peer has sent, and acknowledges it when its window is full (RTMP 1.0, 5.4.3 and 5.4.4).
#[derive(Debug)]
pub(super) struct Window {
    bytes: u32,
    received: u64,
    acknowledged: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { bytes: WINDOW_BYTES, received: 0, acknowledged: 0 }
    }
}

impl Window {
    /// The body of a Window Acknowledgement Size; one that is too short says nothing.
    pub fn set(&mut self, body: &[u8]) {
        if let [a, b, c, d, ..] = *body {
            self.bytes = u32::from_be_bytes([a, b, c, d]).max(MIN_WINDOW_BYTES);
        }
    }

    pub fn received(&mut self, bytes: usize, out: &mut Outgoing) {
        self.received += bytes as u64;
        if self.received - self.acknowledged >= u64::from(self.bytes) {
            self.acknowledged = self.received;
            out.acknowledgement(self.received as u32);
        }
    }
}
