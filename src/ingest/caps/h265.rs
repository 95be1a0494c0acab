//! H.265 parameter sets (ITU-T H.265, 7.3.2) and the `hvcC` made of them.

use super::{h264::put_sets, size::checked};
use crate::media::VideoSize;
use h264_reader::rbsp::{BitRead, BitReader, BitReaderError, ByteReader};
use std::num::NonZeroUsize;

/// What reeld reads in a sequence parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H265Sps {
    pub id: u8,
    /// As shown: cropped.
    pub size: Option<VideoSize>,
    /// Pictures that may precede another in decoding and follow it in output order.
    pub reorder: u8,
    /// Profile, tier and level, as they stand in the `hvcC` too.
    general: [u8; 12],
    temporal_layers: u8,
    temporal_nesting: bool,
    chroma_format: u8,
    /// Of luma and chroma, less 8.
    bit_depths: [u8; 2],
}

impl H265Sps {
    /// `nal`: the NAL unit with its header. `None` if it cannot be read.
    pub fn parse(nal: &[u8]) -> Option<Self> {
        const NAL_HEADER_BYTES: NonZeroUsize = NonZeroUsize::new(2).expect("2 is not 0");
        let mut bits = BitReader::new(ByteReader::skipping_bytes(nal, NAL_HEADER_BYTES));
        Self::read(&mut bits).ok()?
    }

    /// ITU-T H.265, 7.3.2.2.1, up to the reordering.
    fn read(bits: &mut impl BitRead) -> Result<Option<Self>, BitReaderError> {
        bits.skip(4, "sps_video_parameter_set_id")?;
        let sub_layers: u32 = bits.read::<3, _>("sps_max_sub_layers_minus1")?;
        let temporal_nesting = bits.read_bit("sps_temporal_id_nesting_flag")?;
        let general = profile_tier_level(bits, sub_layers)?;
        let id = bits.read_ue("sps_seq_parameter_set_id")?;
        let chroma_format = bits.read_ue("chroma_format_idc")?;
        if chroma_format == 3 {
            bits.skip(1, "separate_colour_plane_flag")?;
        }
        let size = cropped_size(bits, chroma_format)?;
        let mut depth = || bits.read_ue("bit_depth_minus8");
        let bit_depths = [depth()?, depth()?];
        bits.read_ue("log2_max_pic_order_cnt_lsb_minus4")?;
        let each = bits.read_bit("sps_sub_layer_ordering_info_present_flag")?;
        let mut reorder = 0;
        for _ in 0..=if each { sub_layers } else { 0 } {
            bits.read_ue("sps_max_dec_pic_buffering_minus1")?;
            reorder = bits.read_ue("sps_max_num_reorder_pics")?;
            bits.read_ue("sps_max_latency_increase_plus1")?;
        }
        if id > 15 || chroma_format > 3 || bit_depths.iter().any(|&d| d > 7) || reorder > 16 {
            return Ok(None);
        }
        Ok(Some(Self {
            id: id as u8,
            size,
            reorder: reorder as u8,
            general,
            temporal_layers: sub_layers as u8 + 1,
            temporal_nesting,
            chroma_format: chroma_format as u8,
            bit_depths: bit_depths.map(|d| d as u8),
        }))
    }
}

fn cropped_size(bits: &mut impl BitRead, chroma_format: u32) -> Result<Option<VideoSize>, BitReaderError> {
    let width = bits.read_ue("pic_width_in_luma_samples")?;
    let height = bits.read_ue("pic_height_in_luma_samples")?;
    let mut offsets = [0; 4];
    if bits.read_bit("conformance_window_flag")? {
        for offset in &mut offsets {
            *offset = bits.read_ue("conf_win_offset")?;
        }
    }
    // In chroma samples.
    let [left, right, top, bottom] = offsets;
    let (unit_x, unit_y) = match chroma_format {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    };
    let cropped = |pixels: u32, before: u32, after: u32, unit: u32| {
        pixels.checked_sub(before.checked_add(after)?.checked_mul(unit)?)
    };
    let size = cropped(width, left, right, unit_x).zip(cropped(height, top, bottom, unit_y));
    Ok(size.and_then(|(width, height)| checked(width, height)))
}

/// ITU-T H.265, 7.3.3: the general part; what is told of sub-layers is passed over.
fn profile_tier_level(bits: &mut impl BitRead, sub_layers: u32) -> Result<[u8; 12], BitReaderError> {
    const PROFILE_BITS: u32 = 88;
    const LEVEL_BITS: u32 = 8;
    let mut general = [0; 12];
    for byte in &mut general {
        *byte = bits.read::<8, _>("general_profile_and_level")?;
    }
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
    bits.skip(sub_layer_bits, "sub_layer_profiles_and_levels")?;
    Ok(general)
}

/// An `hvcC` (ISO/IEC 14496-15, 8.3.3.1). The first of `sps` gives profile, level and formats.
///
/// `None` when there are none of one kind, more than 255, or the first SPS cannot be read.
pub fn hvcc(vps: &[&[u8]], sps: &[&[u8]], pps: &[&[u8]]) -> Option<Vec<u8>> {
    let first = H265Sps::parse(sps.first()?)?;
    let mut hvcc = vec![1];
    hvcc.extend(first.general);
    // Segmentation and parallelism: not told.
    hvcc.extend([0xF0, 0, 0xFC, 0xFC | first.chroma_format]);
    hvcc.extend(first.bit_depths.map(|depth| 0xF8 | depth));
    // No average frame rate.
    hvcc.extend([0, 0]);
    const LENGTHS_OF_4_BYTES: u8 = 3;
    hvcc.push(first.temporal_layers << 3 | u8::from(first.temporal_nesting) << 2 | LENGTHS_OF_4_BYTES);
    let arrays = [(32u8, vps), (33, sps), (34, pps)];
    hvcc.push(arrays.len() as u8);
    for (kind, sets) in arrays {
        if sets.is_empty() || sets.len() > 255 {
            return None;
        }
        // All sets of this kind are here, none in the samples.
        const COMPLETE: u8 = 0x80;
        hvcc.extend([COMPLETE | kind, 0, sets.len() as u8]);
        put_sets(&mut hvcc, sets)?;
    }
    Some(hvcc)
}
