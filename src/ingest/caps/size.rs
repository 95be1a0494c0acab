//! Picture sizes from sequence headers. Everything here is `None` on input it cannot read.

use crate::media::VideoSize;
use scuffle_av1::seq::SequenceHeaderObu;
use scuffle_av1::{ObuHeader, ObuType};

const MAX_PIXELS: u32 = 65_535;

pub(super) fn checked(width: u32, height: u32) -> Option<VideoSize> {
    let known = |n| (1..=MAX_PIXELS).contains(&n);
    (known(width) && known(height)).then_some(VideoSize { width, height })
}

/// The first of a row of NAL units that each follow a 16-bit length.
pub(super) fn nal_unit(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// The first sequence parameter set in an `hvcC` (ISO/IEC 14496-15, 8.3.3.1.2).
pub(super) fn h265_sps(hvcc: &[u8]) -> Option<&[u8]> {
    const SPS: u8 = 33;
    let mut rest = hvcc.get(23..)?;
    for _ in 0..hvcc[22] {
        let (&[kind, high, low], mut nals) = rest.split_first_chunk()?;
        for _ in 0..u16::from_be_bytes([high, low]) {
            let nal = nal_unit(nals)?;
            if kind & 0x3F == SPS {
                return Some(nal);
            }
            nals = &nals[2 + nal.len()..];
        }
        rest = nals;
    }
    None
}

/// `obus`: what follows the 4 bytes of an `av1C`; a sequence header comes first, if there is any.
pub(super) fn of_av1_obus(obus: &[u8]) -> Option<VideoSize> {
    let sequence = av1_sequence(obus)?;
    checked(sequence.max_frame_width.try_into().ok()?, sequence.max_frame_height.try_into().ok()?)
}

/// The sequence header that `obus` begins with.
pub(super) fn av1_sequence(mut obus: &[u8]) -> Option<SequenceHeaderObu> {
    let header = ObuHeader::parse(&mut obus).ok()?;
    if header.obu_type != ObuType::SequenceHeader {
        return None;
    }
    SequenceHeaderObu::parse(header, &mut obus).ok()
}
