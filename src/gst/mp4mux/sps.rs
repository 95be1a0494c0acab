//! Picture sizes from sequence parameter sets. `None` for what cannot be read.

use crate::media::Bits;

/// More of a parameter set is not looked at.
const MAX_SPS_BYTES: usize = 512;

/// Picture size from the first sequence parameter set of an `avcC` (14496-15, 5.3.3.1.2).
pub(super) fn avcc_size(config: &[u8]) -> Option<(u16, u16)> {
    let (_, sps) = config.split_at_checked(6)?;
    let (len, sps) = sps.split_first_chunk()?;
    h264_size(sps.get(..usize::from(u16::from_be_bytes(*len)))?)
}

/// Picture size from an H.264 sequence parameter set, a whole NAL unit (ITU-T H.264, 7.3.2.1.1).
pub fn h264_size(nal: &[u8]) -> Option<(u16, u16)> {
    let sps = without_emulation_prevention(nal.get(1..nal.len().min(MAX_SPS_BYTES))?);
    let mut bits = Bits::new(&sps);
    let profile = bits.take(8)?;
    bits.take(16)?;
    bits.ue()?;
    let mut chroma = 1;
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = skip_chroma(&mut bits)?;
    }
    skip_frame_order(&mut bits)?;
    let across = bits.ue()?.checked_add(1)?.checked_mul(16)?;
    let map_units = bits.ue()?.checked_add(1)?;
    let frames_only = bits.flag()?;
    let down = map_units.checked_mul(if frames_only { 16 } else { 32 })?;
    if !frames_only {
        bits.flag()?;
    }
    bits.flag()?;
    let (mut width, mut height) = (across, down);
    if bits.flag()? {
        let (unit_x, unit_y) = chroma_units(chroma);
        let unit_y = if frames_only { unit_y } else { unit_y * 2 };
        width = width.checked_sub(bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_x)?)?;
        height = height.checked_sub(bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_y)?)?;
    }
    Some((u16::try_from(width).ok()?, u16::try_from(height).ok()?))
}

/// Picture size from an H.265 sequence parameter set, a whole NAL unit (ITU-T H.265, 7.3.2.2.1).
pub fn h265_size(nal: &[u8]) -> Option<(u16, u16)> {
    let sps = without_emulation_prevention(nal.get(2..nal.len().min(MAX_SPS_BYTES))?);
    let mut bits = Bits::new(&sps);
    bits.take(4)?;
    let sub_layers = bits.take(3)?;
    bits.flag()?;
    skip_profile_tier_level(&mut bits, sub_layers)?;
    bits.ue()?;
    let chroma = bits.ue()?;
    if chroma == 3 {
        bits.flag()?;
    }
    let (mut width, mut height) = (bits.ue()?, bits.ue()?);
    if bits.flag()? {
        let (unit_x, unit_y) = chroma_units(chroma);
        width = width.checked_sub(bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_x)?)?;
        height = height.checked_sub(bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_y)?)?;
    }
    Some((u16::try_from(width).ok()?, u16::try_from(height).ok()?))
}

/// ITU-T H.265, 7.3.3.
fn skip_profile_tier_level(bits: &mut Bits, sub_layers: u32) -> Option<()> {
    const PROFILE_BITS: u32 = 88;
    const LEVEL_BITS: u32 = 8;
    let skip = |bits: &mut Bits, count: u32| (0..count).try_for_each(|_| bits.flag().map(|_| ()));
    skip(bits, PROFILE_BITS + LEVEL_BITS)?;
    let mut told = 0;
    for _ in 0..sub_layers {
        told += if bits.flag()? { PROFILE_BITS } else { 0 };
        told += if bits.flag()? { LEVEL_BITS } else { 0 };
    }
    if sub_layers > 0 {
        skip(bits, 2 * (8 - sub_layers))?;
    }
    skip(bits, told)
}

/// How many luma samples a chroma sample is wide and high.
fn chroma_units(chroma: u32) -> (u32, u32) {
    match chroma {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    }
}

fn without_emulation_prevention(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if byte == 3 && zeros >= 2 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// The fields of the high profiles. Returns chroma_format_idc.
fn skip_chroma(bits: &mut Bits) -> Option<u32> {
    let chroma = bits.ue()?;
    if chroma == 3 {
        bits.flag()?;
    }
    bits.ue()?;
    bits.ue()?;
    bits.flag()?;
    if bits.flag()? {
        for list in 0..if chroma == 3 { 12 } else { 8 } {
            if bits.flag()? {
                skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Some(chroma)
}

fn skip_scaling_list(bits: &mut Bits, len: usize) -> Option<()> {
    let mut last = 8i64;
    for _ in 0..len {
        let next = (last + i64::from(bits.se()?)).rem_euclid(256);
        if next == 0 {
            return Some(());
        }
        last = next;
    }
    Some(())
}

fn skip_frame_order(bits: &mut Bits) -> Option<()> {
    bits.ue()?;
    match bits.ue()? {
        0 => {
            bits.ue()?;
        }
        1 => {
            bits.flag()?;
            bits.se()?;
            bits.se()?;
            for _ in 0..bits.ue()?.min(255) {
                bits.se()?;
            }
        }
        _ => {}
    }
    bits.ue()?;
    bits.flag()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gstreamer as gst;

    #[test]
    fn picture_size_comes_from_the_sequence_parameter_set() {
        gst::init().expect("GStreamer");
        for (size, format) in
            [((320, 180), "I420"), ((1920, 1080), "I420"), ((98, 66), "Y42B"), ((99, 67), "Y444")]
        {
            let config = super::super::tests::x264_codec_data(size, format);
            assert_eq!(avcc_size(&config), Some(size), "{format}");
        }
    }

    #[test]
    fn emulation_prevention_is_taken_out_once() {
        let nal = [1, 0, 0, 3, 3, 0, 0, 3, 0, 0, 3, 1];
        assert_eq!(without_emulation_prevention(&nal), [1, 0, 0, 3, 0, 0, 0, 0, 1]);
    }

    proptest::proptest! {
        #[test]
        fn no_parameter_set_panics(data in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            h264_size(&data);
            h265_size(&data);
            avcc_size(&data);
        }
    }
}
