//! The `av1C` of an AV1 stream.

use super::size::av1_sequence;

/// An `av1C` (AV1-ISOBMFF, 2.3.3) with its sequence header. `obu`: the sequence header OBU, with size field.
///
/// `None` if it cannot be read.
pub fn av1c(obu: &[u8]) -> Option<Vec<u8>> {
    let sequence = av1_sequence(obu)?;
    let point = sequence.operating_points.first()?;
    let color = &sequence.color_config;
    let flags = [
        point.seq_tier,
        color.bit_depth > 8,
        color.bit_depth == 12,
        color.mono_chrome,
        color.subsampling_x,
        color.subsampling_y,
    ];
    let flags = flags.iter().fold(0u8, |byte, &flag| byte << 1 | u8::from(flag));
    let mut av1c = vec![
        0x81,
        sequence.seq_profile << 5 | point.seq_level_idx & 0x1F,
        flags << 2 | color.chroma_sample_position & 3,
        0,
    ];
    av1c.extend_from_slice(obu);
    Some(av1c)
}
