//! The parts of an `AudioSpecificConfig` (ISO/IEC 14496-3, 1.6.2.1) that RTP needs.

use crate::media::Bits;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asc {
    /// Samples of an access unit, at the core's rate.
    pub samples: u32,
    /// Length of the configuration, bits, without what may follow for backward compatible extensions.
    pub bits: usize,
}

impl Asc {
    /// `None` for what is not AAC Main, LC, SSR or LTP, with or without SBR and PS.
    pub fn parse(config: &[u8]) -> Option<Self> {
        let mut bits = Counted { bits: Bits::new(config), taken: 0 };
        let mut object = bits.take(5)?;
        rate(&mut bits)?;
        bits.take(4)?;
        const SBR: u32 = 5;
        const PS: u32 = 29;
        if object == SBR || object == PS {
            rate(&mut bits)?;
            object = bits.take(5)?;
        }
        if !(1..=4).contains(&object) {
            return None;
        }
        let samples = if bits.take(1)? == 1 { 960 } else { 1_024 };
        if bits.take(1)? == 1 {
            let _core_coder_delay = bits.take(14)?;
        }
        let _extension = bits.take(1)?;
        Some(Self { samples, bits: bits.taken })
    }

    /// Length of an access unit in ticks of `clock_rate`; `rate`: the core's sample rate.
    pub fn ticks(&self, clock_rate: u32, rate: u32) -> u32 {
        let ticks = u64::from(self.samples) * u64::from(clock_rate) / u64::from(rate.max(1));
        u32::try_from(ticks).unwrap_or(self.samples)
    }
}

struct Counted<'a> {
    bits: Bits<'a>,
    taken: usize,
}

impl Counted<'_> {
    fn take(&mut self, count: u32) -> Option<u32> {
        self.taken += count as usize;
        self.bits.take(count)
    }
}

fn rate(bits: &mut Counted<'_>) -> Option<()> {
    const AS_NUMBER: u32 = 15;
    if bits.take(4)? == AS_NUMBER {
        bits.take(24)?;
    }
    Some(())
}
