//! What waits for a publisher's tracks to be known.

use super::{depay::TrackConfig, section::Event};
use crate::media::Codec;
use std::time::Duration;

const MAX_BYTES: usize = 16 << 20;
/// What an event takes beside its payload, roughly.
const OVERHEAD_BYTES: usize = 256;

/// The events of all sections, in the order in which they came.
#[derive(Default)]
pub(super) struct Hold {
    /// When the first usable packet came.
    pub since: Option<Duration>,
    pub events: Vec<(usize, Event)>,
    bytes: usize,
    /// The latest media time of any section, ns.
    pub media_ns: i64,
}

impl Hold {
    pub fn add(&mut self, section: usize, event: Event) {
        self.bytes += OVERHEAD_BYTES;
        if let Event::Unit(unit) = &event {
            self.bytes += unit.payload.len();
            self.media_ns = self.media_ns.max(unit.media_ns);
        }
        self.events.push((section, event));
    }

    /// More must not wait, whatever is known by then.
    pub fn is_full(&self) -> bool {
        self.bytes > MAX_BYTES
    }

    /// What a section's track is at its first unit.
    pub fn config(&self, section: usize) -> Option<(Codec, &TrackConfig)> {
        let mine = self.events.iter().filter(|(s, _)| *s == section).map(|(_, event)| event);
        let mut found = None;
        for event in mine {
            match event {
                Event::Config(codec, config) => found = Some((*codec, config)),
                Event::Unit(_) if found.is_some() => break,
                Event::Unit(_) => {}
            }
        }
        found
    }

    pub fn has_config(&self) -> bool {
        self.events.iter().any(|(_, event)| matches!(event, Event::Config(..)))
    }

    pub fn has_unit(&self, section: usize) -> bool {
        self.units(section).next().is_some()
    }

    /// Media times of a section's units, ns.
    pub fn units(&self, section: usize) -> impl Iterator<Item = i64> + '_ {
        self.events.iter().filter_map(move |(s, event)| match event {
            Event::Unit(unit) if *s == section => Some(unit.media_ns),
            _ => None,
        })
    }
}
