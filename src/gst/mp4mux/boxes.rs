//! The box writer and the boxes of a fragment.

use bytes::BufMut;

/// Length of the `free` box that becomes the header of the one large `mdat`.
pub(super) const PLACEHOLDER_BYTES: u64 = 16;

const SYNC_SAMPLE: u32 = 0x0200_0000;
const NON_SYNC_SAMPLE: u32 = 0x0101_0000;

/// Appends a box; its size is filled in when `body` is done.
pub(super) fn boxed(out: &mut Vec<u8>, kind: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_u32(0);
    out.put_slice(kind);
    body(out);
    let size = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// Appends a box with version and flags.
pub(super) fn full_box(
    out: &mut Vec<u8>,
    kind: &[u8; 4],
    version: u8,
    flags: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    boxed(out, kind, |b| {
        b.put_u32(u32::from(version) << 24 | flags);
        body(b);
    });
}

pub(super) fn ftyp(out: &mut Vec<u8>) {
    boxed(out, b"ftyp", |b| {
        b.put_slice(b"isom");
        b.put_u32(0x200);
        for brand in [b"isom", b"iso6", b"iso2", b"mp41"] {
            b.put_slice(brand);
        }
    });
}

pub(super) fn placeholder(out: &mut Vec<u8>) {
    boxed(out, b"free", |b| b.put_u64(0));
}

/// What the placeholder is overwritten with: an `mdat` header with a 64-bit size (14496-12, 4.2).
pub(super) fn large_mdat_header(total_bytes: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(PLACEHOLDER_BYTES as usize);
    out.put_u32(1);
    out.put_slice(b"mdat");
    out.put_u64(total_bytes);
    out
}

/// The default sample flags of a track's fragments (`trex`).
pub(super) fn default_sample_flags(video: bool) -> u32 {
    if video { NON_SYNC_SAMPLE } else { SYNC_SAMPLE }
}

/// One sample of a fragment, times in ticks of its track.
#[derive(Clone, Copy)]
pub(super) struct RunSample {
    pub duration: u32,
    pub size: u32,
    pub composition: i32,
    pub sync: bool,
}

/// The samples of one track in a fragment: contiguous in its `mdat`.
pub(super) struct Run<I> {
    pub track_id: u32,
    pub video: bool,
    pub decode_time: u64,
    pub bytes: u64,
    pub samples: I,
}

/// Appends `moof` and the header of the `mdat` that holds the runs one after the other. Returns where the media
/// begins, in bytes from the start of the `moof`.
pub(super) fn fragment<I>(out: &mut Vec<u8>, sequence: u32, runs: impl IntoIterator<Item = Run<I>>) -> u64
where
    I: ExactSizeIterator<Item = RunSample>,
{
    let moof = out.len();
    let mut media_bytes = 0;
    let mut data_offsets = smallvec::SmallVec::<[(usize, u64); 4]>::new();
    boxed(out, b"moof", |b| {
        full_box(b, b"mfhd", 0, 0, |b| b.put_u32(sequence));
        for run in runs {
            let before = media_bytes;
            media_bytes += run.bytes;
            data_offsets.push((traf(b, run), before));
        }
    });
    let media = (out.len() - moof) as u64 + 8;
    out.put_u32((media_bytes + 8) as u32);
    out.put_slice(b"mdat");
    for (at, before) in data_offsets {
        let offset = (media + before) as u32;
        out[at..at + 4].copy_from_slice(&offset.to_be_bytes());
    }
    media
}

/// Returns where in `out` the run's data offset is to be filled in.
fn traf<I: ExactSizeIterator<Item = RunSample>>(out: &mut Vec<u8>, run: Run<I>) -> usize {
    let mut data_offset_at = 0;
    boxed(out, b"traf", |b| {
        const DEFAULT_BASE_IS_MOOF: u32 = 0x02_0000;
        full_box(b, b"tfhd", 0, DEFAULT_BASE_IS_MOOF, |b| b.put_u32(run.track_id));
        full_box(b, b"tfdt", 1, 0, |b| b.put_u64(run.decode_time));
        const OFFSET_DURATION_SIZE: u32 = 0x301;
        const FLAGS_COMPOSITION: u32 = 0xc00;
        let flags = OFFSET_DURATION_SIZE | if run.video { FLAGS_COMPOSITION } else { 0 };
        full_box(b, b"trun", 1, flags, |b| {
            b.put_u32(run.samples.len() as u32);
            data_offset_at = b.len();
            b.put_u32(0);
            for sample in run.samples {
                b.put_u32(sample.duration);
                b.put_u32(sample.size);
                if run.video {
                    b.put_u32(if sample.sync { SYNC_SAMPLE } else { NON_SYNC_SAMPLE });
                    b.put_i32(sample.composition);
                }
            }
        });
    });
    data_offset_at
}
