//! Which packets belong to one unit, whether all of them came, and what they hold.

use super::MAX_UNIT_BYTES;

/// Follows timestamps, markers and losses of a stream whose units may have many packets.
#[derive(Default)]
pub(super) struct Assembly {
    state: State,
    /// Of the unit under way. Empty in all other states.
    pub payload: Vec<u8>,
    /// Size of the last unit: the next may well be as big.
    usual_bytes: usize,
    /// Timestamp of the last unit that a marker ended.
    marked: Option<u32>,
    /// The last unit ended at the timestamp of the next: this sender marks no ends.
    unmarked: bool,
    /// The sender marks more than ends: only a new timestamp ends a unit.
    markers_lie: bool,
    dropped: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// The next packet begins a unit.
    #[default]
    Between,
    Under {
        timestamp: u32,
    },
    /// The rest of a unit that is already counted as dropped.
    Bad {
        timestamp: u32,
    },
    /// Packets were lost; with the timestamp of the unit they tore, if one was under way.
    Doubt {
        torn: Option<u32>,
    },
}

/// What ended a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Marker,
    /// The next unit has begun, and no packet is missing.
    NextUnit,
    Stream,
}

impl Assembly {
    /// True if a packet with `timestamp` shows that the unit before it is over.
    pub fn ends_before(&self, timestamp: u32) -> bool {
        match self.state {
            State::Under { timestamp: under } | State::Bad { timestamp: under } => under != timestamp,
            State::Between | State::Doubt { .. } => false,
        }
    }

    /// Takes a packet in; false if its unit is lost. `is_first`, asked after a loss only: whether the packet surely
    /// begins a unit; it is told whether the loss tore a unit of the same timestamp.
    pub fn admit(&mut self, timestamp: u32, is_first: impl FnOnce(bool) -> bool) -> bool {
        match self.state {
            State::Between => self.state = State::Under { timestamp },
            State::Doubt { torn } if is_first(torn == Some(timestamp)) => {
                self.state = State::Under { timestamp };
            }
            State::Doubt { torn } => {
                self.dropped += u64::from(torn != Some(timestamp));
                self.state = State::Bad { timestamp };
            }
            State::Under { .. } | State::Bad { .. } => {}
        }
        self.is_under_way()
    }

    pub fn append(&mut self, bytes: &[u8]) {
        if !self.is_under_way() {
            return;
        }
        if self.payload.len() + bytes.len() > MAX_UNIT_BYTES {
            return self.spoil();
        }
        if self.payload.capacity() == 0 {
            self.payload.reserve(self.usual_bytes.max(bytes.len()));
        }
        self.payload.extend_from_slice(bytes);
    }

    /// The unit under way must not be given out.
    pub fn spoil(&mut self) {
        if let State::Under { timestamp } = self.state {
            self.dropped += 1;
            self.payload.clear();
            self.state = State::Bad { timestamp };
        }
    }

    /// Packets before the next one never came.
    pub fn lost(&mut self) {
        let torn = match self.state {
            State::Under { timestamp } => {
                self.spoil();
                Some(timestamp)
            }
            State::Bad { timestamp } => Some(timestamp),
            State::Between => None,
            State::Doubt { torn } => torn,
        };
        self.state = State::Doubt { torn };
    }

    /// The unit is over: its payload and timestamp, if it is whole.
    pub fn end(&mut self, end: End) -> Option<(Vec<u8>, u32)> {
        if end == End::Stream && !self.unmarked && !self.markers_lie {
            self.spoil();
        }
        match self.state {
            State::Under { timestamp } => {
                self.unmarked = end == End::NextUnit;
                if end == End::Marker {
                    self.marked = Some(timestamp);
                }
                self.state = State::Between;
                self.usual_bytes = self.payload.len();
                Some((std::mem::take(&mut self.payload), timestamp))
            }
            State::Bad { .. } => {
                self.state = State::Between;
                None
            }
            State::Between | State::Doubt { .. } => None,
        }
    }

    /// The unit under way held nothing to give out, and nothing is lost with it.
    pub fn discard(&mut self) {
        if matches!(self.state, State::Under { .. } | State::Bad { .. }) {
            self.payload.clear();
            self.state = State::Between;
        }
    }

    /// The unit under way is not the start of one: if it goes on with what a marker ended, markers are not trusted
    /// any more.
    pub fn has_no_start(&mut self) {
        if let State::Under { timestamp } = self.state
            && self.marked == Some(timestamp)
        {
            self.markers_lie = true;
        }
        self.spoil();
    }

    pub fn trusts_markers(&self) -> bool {
        !self.markers_lie
    }

    pub fn is_under_way(&self) -> bool {
        matches!(self.state, State::Under { .. })
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A unit that is whole is of no use.
    pub fn count_dropped(&mut self) {
        self.dropped += 1;
    }
}
