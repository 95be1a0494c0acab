//! H.264 parameter sets (ITU-T H.264, 7.3.2) and the `avcC` made of them.

use super::size::checked;
use crate::media::VideoSize;
use h264_reader::nal::sps::{ChromaFormat, PicOrderCntType, SeqParameterSet};
use h264_reader::rbsp::{BitReader, ByteReader};

/// What reeld reads in a sequence parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H264Sps {
    pub id: u8,
    /// As shown: cropped.
    pub size: Option<VideoSize>,
    /// Pictures that may precede another in decoding and follow it in output order; `None` when not told.
    pub reorder: Option<u8>,
    /// What profiles from High on add to the `avcC`: chroma format, bit depths of luma and chroma, less 8.
    formats: [u8; 3],
}

impl H264Sps {
    /// `nal`: the NAL unit with its header. `None` if it cannot be read.
    pub fn parse(nal: &[u8]) -> Option<Self> {
        let sps = SeqParameterSet::from_bits(BitReader::new(ByteReader::skipping_h264_header(nal))).ok()?;
        let size = sps.pixel_dimensions().ok().and_then(|(width, height)| checked(width, height));
        let chroma_format = match sps.chroma_info.chroma_format {
            ChromaFormat::Monochrome => 0,
            ChromaFormat::YUV420 => 1,
            ChromaFormat::YUV422 => 2,
            ChromaFormat::YUV444 => 3,
            ChromaFormat::Invalid(_) => return None,
        };
        let depths = (sps.chroma_info.bit_depth_luma_minus8, sps.chroma_info.bit_depth_chroma_minus8);
        Some(Self {
            id: sps.seq_parameter_set_id.id(),
            size,
            reorder: reorder(&sps, nal),
            formats: [chroma_format, depths.0.min(7), depths.1.min(7)],
        })
    }
}

/// `max_num_reorder_frames` (E.2.1), told or inferred.
fn reorder(sps: &SeqParameterSet, nal: &[u8]) -> Option<u8> {
    let told = sps.vui_parameters.as_ref().and_then(|vui| vui.bitstream_restrictions.as_ref());
    if let Some(restrictions) = told {
        return u8::try_from(restrictions.max_num_reorder_frames).ok();
    }
    const BASELINE: u8 = 66;
    const INTRA_PROFILES: [u8; 6] = [44, 86, 100, 110, 122, 244];
    const CONSTRAINT_SET_3: u8 = 0x10;
    let (profile, constraints) = (*nal.get(1)?, *nal.get(2)?);
    let intra_only = INTRA_PROFILES.contains(&profile) && constraints & CONSTRAINT_SET_3 != 0;
    let in_order = matches!(sps.pic_order_cnt, PicOrderCntType::TypeTwo);
    (profile == BASELINE || intra_only || in_order).then_some(0)
}

/// An `avcC` (ISO/IEC 14496-15, 5.3.3.1). The first of `sps` gives profile and level.
///
/// `None` when there are none or too many (31, 255). One that cannot be read to its end is taken for 8-bit 4:2:0.
pub fn avcc(sps: &[&[u8]], pps: &[&[u8]]) -> Option<Vec<u8>> {
    let first = sps.first()?;
    let &[_, profile, compatibility, level, ..] = *first else { return None };
    if sps.len() > 31 || pps.is_empty() || pps.len() > 255 {
        return None;
    }
    let mut avcc = vec![1, profile, compatibility, level, 0xFF, 0xE0 | sps.len() as u8];
    put_sets(&mut avcc, sps)?;
    avcc.push(pps.len() as u8);
    put_sets(&mut avcc, pps)?;
    const WITH_FORMATS: [u8; 5] = [100, 110, 122, 144, 244];
    if WITH_FORMATS.contains(&profile) {
        const COMMON: [u8; 3] = [1, 0, 0];
        let [chroma, luma_depth, chroma_depth] = H264Sps::parse(first).map_or(COMMON, |sps| sps.formats);
        avcc.extend([0xFC | chroma, 0xF8 | luma_depth, 0xF8 | chroma_depth, 0]);
    }
    Some(avcc)
}

/// NAL units that each follow a 16-bit length.
pub(super) fn put_sets(to: &mut Vec<u8>, sets: &[&[u8]]) -> Option<()> {
    for set in sets {
        to.extend(u16::try_from(set.len()).ok()?.to_be_bytes());
        to.extend_from_slice(set);
    }
    Some(())
}
