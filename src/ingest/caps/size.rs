//! Picture sizes from sequence headers. Everything here is `None` on input it cannot read.

use crate::media::VideoSize;
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::rbsp::{BitRead, BitReader, BitReaderError, ByteReader};
use scuffle_av1::seq::SequenceHeaderObu;
use scuffle_av1::{ObuHeader, ObuType};
use std::num::NonZeroUsize;

const MAX_PIXELS: u32 = 65_535;

fn checked(width: u32, height: u32) -> Option<VideoSize> {
    let known = |n| (1..=MAX_PIXELS).contains(&n);
    (known(width) && known(height)).then_some(VideoSize { width, height })
}

/// The first of a row of NAL units that each follow a 16-bit length.
pub(super) fn nal_unit(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

pub(super) fn of_h264_sps(sps: &[u8]) -> Option<VideoSize> {
    let bits = BitReader::new(ByteReader::skipping_h264_header(sps));
    let (width, height) = SeqParameterSet::from_bits(bits).ok()?.pixel_dimensions().ok()?;
    checked(width, height)
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

/// Reads a sequence parameter set (ITU-T H.265, 7.3.2.2.1) up to its conformance window.
pub(super) fn of_h265_sps(sps: &[u8]) -> Option<VideoSize> {
    const NAL_HEADER_BYTES: NonZeroUsize = NonZeroUsize::new(2).expect("2 is not 0");
    let mut bits = BitReader::new(ByteReader::skipping_bytes(sps, NAL_HEADER_BYTES));
    let window = h265_window(&mut bits).ok()?;
    let cropped = |pixels: u32, before: u32, after: u32, unit: u32| {
        pixels.checked_sub(before.checked_add(after)?.checked_mul(unit)?)
    };
    let [left, right, top, bottom] = window.offsets;
    let (unit_x, unit_y) = match window.chroma_format {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    };
    checked(cropped(window.width, left, right, unit_x)?, cropped(window.height, top, bottom, unit_y)?)
}

struct Window {
    chroma_format: u32,
    width: u32,
    height: u32,
    /// Left, right, top, bottom, in chroma samples.
    offsets: [u32; 4],
}

fn h265_window(bits: &mut impl BitRead) -> Result<Window, BitReaderError> {
    bits.skip(4, "sps_video_parameter_set_id")?;
    let sub_layers: u32 = bits.read::<3, _>("sps_max_sub_layers_minus1")?;
    bits.skip(1, "sps_temporal_id_nesting_flag")?;
    skip_profile_tier_level(bits, sub_layers)?;
    bits.read_ue("sps_seq_parameter_set_id")?;
    let chroma_format = bits.read_ue("chroma_format_idc")?;
    if chroma_format == 3 {
        bits.skip(1, "separate_colour_plane_flag")?;
    }
    let width = bits.read_ue("pic_width_in_luma_samples")?;
    let height = bits.read_ue("pic_height_in_luma_samples")?;
    let mut offsets = [0; 4];
    if bits.read_bit("conformance_window_flag")? {
        for offset in &mut offsets {
            *offset = bits.read_ue("conf_win_offset")?;
        }
    }
    Ok(Window { chroma_format, width, height, offsets })
}

/// ITU-T H.265, 7.3.3.
fn skip_profile_tier_level(bits: &mut impl BitRead, sub_layers: u32) -> Result<(), BitReaderError> {
    const PROFILE_BITS: u32 = 88;
    const LEVEL_BITS: u32 = 8;
    bits.skip(PROFILE_BITS + LEVEL_BITS, "general_profile_and_level")?;
    let mut sub_layer_bits = 0;
    for _ in 0..sub_layers {
        if bits.read_bit("sub_layer_profile_present_flag")? {
            sub_layer_bits += PROFILE_BITS;
        }
        if bits.read_bit("sub_layer_level_present_flag")? {
            sub_layer_bits += LEVEL_BITS;
        }
    }
    if sub_layers > 0 {
        bits.skip(2 * (8 - sub_layers), "reserved_zero_2bits")?;
    }
    bits.skip(sub_layer_bits, "sub_layer_profiles_and_levels")
}

/// `obus`: what follows the 4 bytes of an `av1C`; a sequence header comes first, if there is any.
pub(super) fn of_av1_obus(mut obus: &[u8]) -> Option<VideoSize> {
    let header = ObuHeader::parse(&mut obus).ok()?;
    if header.obu_type != ObuType::SequenceHeader {
        return None;
    }
    let sequence = SequenceHeaderObu::parse(header, &mut obus).ok()?;
    checked(sequence.max_frame_width.try_into().ok()?, sequence.max_frame_height.try_into().ok()?)
}
