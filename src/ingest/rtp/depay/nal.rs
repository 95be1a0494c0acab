//! Access units of NAL units: what H.264 and H.265 have in common.

use super::assembly::{Assembly, End};
use super::{Output, Packet, TrackConfig, Unit};
use std::{collections::BTreeMap, marker::PhantomData};

/// Most NAL units of an access unit, those that are left out of it included.
const MAX_NAL_UNITS: usize = 4_096;
/// Longest parameter set; a real one has less than a few hundred bytes.
const MAX_SET_BYTES: usize = 4 << 10;
/// Most bytes of all parameter sets of one kind. Past them those of other ids are forgotten: all of them go into the
/// caps, which every change makes anew.
const MAX_KIND_BYTES: usize = 16 << 10;
const LENGTH_BYTES: usize = 4;

/// What a NAL unit is to an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NalKind {
    Slice {
        /// Its picture begins with it.
        first: bool,
        /// IDR, or IRAP of H.265.
        random_access: bool,
        /// No slice of another picture is needed.
        intra: bool,
    },
    /// A parameter set; `kind` as in [`ParameterSets`].
    Set { kind: usize, id: u8 },
    /// Begins an access unit, and tells nothing else.
    Delimiter,
    /// Tells nothing.
    Filler,
    /// Supplemental information and what is rare; kept.
    Other,
}

pub(super) trait NalCodec: Send {
    /// The bits of a NAL unit's first byte that tell its type.
    const TYPE_MASK: u8;

    /// `None`: malformed.
    fn kind(nal: &[u8]) -> Option<NalKind>;

    fn config(sets: &ParameterSets) -> Option<TrackConfig>;
}

/// Parameter sets by id, of each kind: VPS, SPS and PPS.
#[derive(Default)]
pub(super) struct ParameterSets {
    sets: [BTreeMap<u8, Vec<u8>>; 3],
    /// The SPS that the last access unit with any began with.
    active_sps: Option<u8>,
}

pub(super) const VPS: usize = 0;
pub(super) const SPS: usize = 1;
pub(super) const PPS: usize = 2;

impl ParameterSets {
    /// In the order of ids, but the SPS in use first: players look at the first.
    pub fn of(&self, kind: usize) -> Vec<&[u8]> {
        let mut sets: Vec<(u8, &[u8])> = self.sets[kind].iter().map(|(id, set)| (*id, &set[..])).collect();
        if kind == SPS {
            sets.sort_by_key(|(id, _)| Some(*id) != self.active_sps);
        }
        sets.into_iter().map(|(_, set)| set).collect()
    }

    /// True when it changes anything.
    fn insert(&mut self, kind: usize, id: u8, set: &[u8]) -> bool {
        let sets = &mut self.sets[kind];
        if sets.get(&id).is_some_and(|known| known == set) {
            return false;
        }
        sets.insert(id, set.to_vec());
        if sets.values().map(Vec::len).sum::<usize>() > MAX_KIND_BYTES {
            sets.retain(|known, _| *known == id);
        }
        true
    }
}

/// A NAL unit after its 16-bit size, and what follows it.
pub(super) fn split_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*size)))
}

/// Puts access units together.
pub(super) struct AccessUnits<C> {
    /// Its payload: NAL units with 4-byte lengths.
    assembly: Assembly,
    /// NAL units so far, of the unit under way.
    count: usize,
    /// Where in the payload the NAL unit starts that comes in fragments, length included.
    fragmented: Option<usize>,
    seen: Seen,
    sets: ParameterSets,
    /// The sets make another config than the one told last.
    changed: bool,
    told: bool,
    /// The kind of parameter set that this sender's access units with parameter sets begin with, and have once.
    opens_with: Option<usize>,
    codec: PhantomData<C>,
}

/// What an access unit has shown so far.
#[derive(Clone, Copy, Default)]
struct Seen {
    slices: bool,
    random_access: bool,
    /// A slice that needs other pictures.
    inter: bool,
    sps: bool,
    pps: bool,
    /// The kind of parameter set it began with.
    opening: Option<usize>,
    /// A set of that kind came again.
    reopened: bool,
}

impl<C: NalCodec> AccessUnits<C> {
    pub fn new() -> Self {
        Self {
            assembly: Assembly::default(),
            count: 0,
            fragmented: None,
            seen: Seen::default(),
            sets: ParameterSets::default(),
            changed: false,
            told: false,
            opens_with: None,
            codec: PhantomData,
        }
    }

    /// A parameter set from the session description. One that cannot be used is passed over: better ones may come
    /// in-band.
    pub fn described_set(&mut self, nal: &[u8]) {
        if let Some(NalKind::Set { kind, id }) = C::kind(nal)
            && nal.len() <= MAX_SET_BYTES
        {
            self.take_set(kind, id, nal);
            self.seen = Seen::default();
        }
    }

    /// True if the payload of `packet` is to be read. `first_nal`: its first NAL unit, unless it has but a part of one.
    pub fn begin(&mut self, packet: Packet<'_>, first_nal: Option<&[u8]>, out: &mut Vec<Output>) -> bool {
        if !self.told {
            self.tell_config(out);
        }
        if self.assembly.ends_before(packet.timestamp) {
            self.end(End::NextUnit, out);
        }
        self.assembly.admit(packet.timestamp, |torn| {
            let begins = match first_nal.and_then(C::kind) {
                Some(NalKind::Delimiter) => true,
                Some(NalKind::Set { kind, .. }) => self.opens_with == Some(kind),
                _ => false,
            };
            begins && !torn
        })
    }

    /// The packet has been read.
    pub fn packet_done(&mut self, packet: Packet<'_>, out: &mut Vec<Output>) {
        // Some cameras mark their parameter sets too.
        let no_picture = self.assembly.is_under_way() && !self.seen.slices && self.fragmented.is_none();
        if packet.marker && !no_picture && self.assembly.trusts_markers() {
            self.end(End::Marker, out);
        }
    }

    /// A whole NAL unit.
    pub fn nal(&mut self, nal: &[u8]) {
        if self.fragmented.is_some() {
            return self.spoil();
        }
        let at = self.assembly.payload.len();
        self.assembly.append(&[0; LENGTH_BYTES]);
        self.assembly.append(nal);
        self.nal_done(at);
    }

    /// NAL units after their 16-bit sizes (RFC 6184, 5.7.1; RFC 7798, 4.4.2).
    pub fn aggregate(&mut self, mut rest: &[u8]) {
        while let Some((nal, more)) = split_sized(rest) {
            self.nal(nal);
            rest = more;
        }
        if !rest.is_empty() {
            self.spoil();
        }
    }

    /// A part of a NAL unit with `header` (RFC 6184, 5.8; RFC 7798, 4.4.3), the `first`, the `last`, or between them.
    pub fn fragment(&mut self, header: &[u8], fragment: &[u8], first: bool, last: bool) {
        match (first, last) {
            (true, true) => self.nal(&[header, fragment].concat()),
            (true, false) => self.first_fragment(header, fragment),
            (false, last) => self.next_fragment(header[0], fragment, last),
        }
    }

    fn first_fragment(&mut self, header: &[u8], fragment: &[u8]) {
        if self.fragmented.is_some() {
            return self.spoil();
        }
        self.fragmented = Some(self.assembly.payload.len());
        self.assembly.append(&[0; LENGTH_BYTES]);
        self.assembly.append(header);
        self.assembly.append(fragment);
    }

    /// Its `header` must tell the same NAL unit type as the first one's.
    fn next_fragment(&mut self, header: u8, fragment: &[u8], last: bool) {
        let Some(at) = self.fragmented else { return self.spoil() };
        let begun = self.assembly.payload.get(at + LENGTH_BYTES);
        if begun.is_none_or(|begun| begun & C::TYPE_MASK != header & C::TYPE_MASK) {
            return self.spoil();
        }
        self.assembly.append(fragment);
        if last {
            self.fragmented = None;
            self.nal_done(at);
        }
    }

    /// What came cannot be read, or must not come: the unit is not given out.
    pub fn spoil(&mut self) {
        self.assembly.spoil();
        self.forget();
    }

    pub fn lost(&mut self) {
        self.assembly.lost();
        self.forget();
    }

    pub fn finish(&mut self, out: &mut Vec<Output>) {
        self.end(End::Stream, out);
    }

    pub fn dropped(&self) -> u64 {
        self.assembly.dropped()
    }

    /// Looks at the NAL unit that begins, with its length, at `at`.
    fn nal_done(&mut self, at: usize) {
        let nal = self.assembly.payload.get(at + LENGTH_BYTES..).unwrap_or_default();
        self.count += 1;
        let Some(kind) = C::kind(nal).filter(|_| self.count <= MAX_NAL_UNITS) else { return self.spoil() };
        match kind {
            NalKind::Slice { first, .. } if !first && !self.seen.slices => {
                self.assembly.has_no_start();
                return self.forget();
            }
            NalKind::Slice { random_access, intra, .. } => {
                self.seen.slices = true;
                self.seen.random_access |= random_access;
                self.seen.inter |= !intra;
            }
            NalKind::Set { kind, id } if nal.len() <= MAX_SET_BYTES => {
                self.seen.reopened |= self.seen.opening == Some(kind);
                if self.count == 1 {
                    self.seen.opening = Some(kind);
                }
                let set = self.assembly.payload.split_off(at);
                return self.take_set(kind, id, &set[LENGTH_BYTES..]);
            }
            NalKind::Set { .. } => return self.spoil(),
            NalKind::Delimiter | NalKind::Filler => return self.assembly.payload.truncate(at),
            NalKind::Other => {}
        }
        // Fits: a unit has at most MAX_UNIT_BYTES.
        let length = nal.len() as u32;
        self.assembly.payload[at..at + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    }

    fn take_set(&mut self, kind: usize, id: u8, set: &[u8]) {
        self.changed |= self.sets.insert(kind, id, set);
        if kind == SPS && !self.seen.sps && self.sets.active_sps.replace(id) != Some(id) {
            self.changed = true;
        }
        self.seen.sps |= kind == SPS;
        self.seen.pps |= kind == PPS;
    }

    /// The unit under way has all its packets.
    fn end(&mut self, end: End, out: &mut Vec<Output>) {
        if self.fragmented.is_some() {
            self.spoil();
        }
        self.count = 0;
        if !self.seen.slices {
            // Parameter sets in packets of their own belong to the picture that follows: they stay seen.
            self.seen.opening = None;
            return self.assembly.discard();
        }
        let seen = std::mem::take(&mut self.seen);
        let Some((payload, timestamp)) = self.assembly.end(end) else { return };
        if seen.sps {
            self.opens_with = seen.opening.filter(|_| !seen.reopened);
        }
        self.tell_config(out);
        if !self.told || self.changed {
            return self.assembly.count_dropped();
        }
        // Cameras with open groups of pictures send no IDR after the first.
        let key = seen.random_access || (seen.sps && seen.pps && !seen.inter);
        out.push(Output::Unit(Unit { payload, timestamp, key, duration: None }));
    }

    /// Tells what the parameter sets make, if that is new.
    fn tell_config(&mut self, out: &mut Vec<Output>) {
        if self.changed
            && let Some(config) = C::config(&self.sets)
        {
            (self.changed, self.told) = (false, true);
            out.push(Output::Config(config));
        }
    }

    fn forget(&mut self) {
        self.count = 0;
        self.fragmented = None;
        self.seen = Seen::default();
    }
}
