use super::*;
use crate::ingest::rtmp::message::type_id;
use proptest::prelude::*;

const LIMITS: ChunkLimits =
    ChunkLimits { max_message_bytes: 300_000, max_pending_bytes: 400_000, max_chunk_streams: 64 };

fn message(csid: u32, type_id: u8, timestamp_ms: u32, payload: Vec<u8>) -> RawMessage {
    RawMessage { csid, type_id, stream_id: 1, timestamp_ms, payload }
}

/// Everything the reader gives for `bytes` cut into pieces of the given sizes, in turn.
fn read_in_pieces(bytes: &[u8], sizes: &[usize]) -> Result<Vec<RawMessage>, ChunkError> {
    let mut reader = ChunkReader::new(LIMITS);
    let mut messages = Vec::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let (mut input, after) = rest.split_at((*size).min(rest.len()));
        while let Some(message) = reader.next(&mut input)? {
            assert!(message.payload.len() <= LIMITS.max_message_bytes);
            messages.push(message);
        }
        assert!(input.is_empty());
        assert!(reader.pending_bytes <= LIMITS.max_pending_bytes);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    Ok(messages)
}

fn read(bytes: &[u8]) -> Result<Vec<RawMessage>, ChunkError> {
    read_in_pieces(bytes, &[usize::MAX])
}

/// (csid, timestamp, payload) of everything in `bytes`, which reads the same whole and byte by byte.
fn read_short(bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let messages = read(bytes).unwrap();
    assert_eq!(read_in_pieces(bytes, &[1]).unwrap(), messages);
    messages.into_iter().map(|m| (m.csid, m.timestamp_ms, m.payload)).collect()
}

fn type_0(csid: u8, timestamp: [u8; 3], length: usize, type_id: u8) -> Vec<u8> {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [x, y, z] = timestamp;
    vec![csid, x, y, z, a, b, c, type_id, 1, 0, 0, 0]
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn all_four_types_and_their_times() {
    let bytes = join(&[
        &type_0(4, [0, 0, 100], 2, 9),
        b"ab",
        &[0x44, 0, 0, 40, 0, 0, 1, 8],
        b"c",
        &[0x84, 0, 0, 7],
        b"d",
        &[0xC4],
        b"e",
    ]);
    let want = [(4, 100, b"ab".to_vec()), (4, 140, b"c".to_vec()), (4, 147, b"d".to_vec())];
    let got = read_short(&bytes);
    assert_eq!(got[..3], want);
    assert_eq!(got[3], (4, 154, b"e".to_vec()), "type 3 repeats the delta");
    assert_eq!(read(&bytes).unwrap()[3].stream_id, 1);
}

#[test]
fn a_type_3_message_after_type_0_takes_the_timestamp_as_delta() {
    let bytes = join(&[&type_0(4, [0, 0, 100], 1, 9), b"a", &[0xC4], b"b"]);
    assert_eq!(read_short(&bytes), [(4, 100, b"a".to_vec()), (4, 200, b"b".to_vec())]);
}

#[test]
fn a_delta_wraps_the_32_bit_clock() {
    let time = (u32::MAX - 9).to_be_bytes();
    let bytes = join(&[&type_0(4, [0xFF; 3], 1, 9), &time, b"a", &[0x84, 0, 0, 40], b"b"]);
    assert_eq!(read_short(&bytes), [(4, u32::MAX - 9, b"a".to_vec()), (4, 30, b"b".to_vec())]);
}

#[test]
fn extended_timestamps_repeated_or_not() {
    let time = 0x0100_0000u32.to_be_bytes();
    let body = |i: u8| vec![i; 128];
    let head = join(&[&type_0(4, [0xFF; 3], 259, 9), &time, &body(1)]);
    let payload = join(&[&body(1), &body(2), &[3; 3]]);
    let next = join(&[&type_0(5, [0; 3], 1, 8), b"n"]);

    let repeated = join(&[&head, &[0xC4], &time, &body(2), &[0xC4], &time, &[3; 3], &next]);
    let left_out = join(&[&head, &[0xC4], &body(2), &[0xC4], &[3; 3], &next]);
    for bytes in [repeated, left_out] {
        assert_eq!(read_short(&bytes), [(4, 0x0100_0000, payload.clone()), (5, 0, b"n".to_vec())]);
    }
}

#[test]
fn an_extended_delta_may_be_repeated_as_the_messages_time() {
    let delta = 0x0100_0000u32.to_be_bytes();
    let time = 0x0100_0064u32.to_be_bytes();
    let bytes = |repeat: &[u8]| {
        let second = [0x44, 0xFF, 0xFF, 0xFF, 0, 0, 130, 9];
        join(&[&type_0(4, [0, 0, 100], 1, 9), b"a", &second, &delta, &[7; 128], &[0xC4], repeat, &[7; 2]])
    };
    for repeat in [delta, time] {
        assert_eq!(read_short(&bytes(&repeat))[1], (4, 0x0100_0064, vec![7; 130]));
    }
}

#[test]
fn chunk_stream_ids_of_all_forms() {
    for csid in [2, 3, 63, 64, 319, 320, 65_599] {
        let mut bytes = Vec::new();
        let sent = message(csid, 9, 5, vec![1; 300]);
        ChunkWriter::default().write(&sent, &mut bytes);
        assert_eq!(read(&bytes), Ok(vec![sent]), "{csid}");
    }
}

#[test]
fn messages_of_several_chunk_streams_interleave() {
    let bytes = join(&[
        &type_0(4, [0, 0, 1], 200, 9),
        &[1; 128],
        &type_0(5, [0, 0, 2], 130, 8),
        &[2; 128],
        &[0xC4],
        &[1; 72],
        &type_0(6, [0, 0, 3], 0, 8),
        &[0xC5],
        &[2; 2],
    ]);
    assert_eq!(read_short(&bytes), [(4, 1, vec![1; 200]), (6, 3, vec![]), (5, 2, vec![2; 130])]);
}

#[test]
fn abort_drops_a_message_and_its_memory() {
    let bytes = join(&[
        &type_0(4, [0; 3], 200, 9),
        &[1; 128],
        &type_0(2, [0; 3], 4, type_id::ABORT),
        &[0, 0, 0, 4],
        &type_0(4, [0, 0, 9], 1, 9),
        b"n",
    ]);
    assert_eq!(read_short(&bytes), [(4, 9, b"n".to_vec())]);
}

#[test]
fn what_is_not_rtmp_is_named() {
    let control = |kind, body: &[u8]| join(&[&type_0(2, [0; 3], body.len(), kind), body]);
    let many: Vec<u8> = (2..=63).chain([0, 0, 0]).enumerate().fold(Vec::new(), |mut all, (i, csid)| {
        let mut header = type_0(csid, [0; 3], 0, 9);
        if csid == 0 {
            header.insert(1, i as u8);
        }
        all.extend(header);
        all
    });
    let cases: Vec<(Vec<u8>, ChunkError)> = vec![
        (vec![0x84, 0, 0, 0], ChunkError::NoPrevious { csid: 4, fmt: 2 }),
        (vec![0xC4], ChunkError::NoPrevious { csid: 4, fmt: 3 }),
        (
            join(&[&type_0(4, [0; 3], 200, 9), &[1; 128], &type_0(4, [0; 3], 200, 9)]),
            ChunkError::HeaderInsideMessage { csid: 4, fmt: 0, have: 128, length: 200 },
        ),
        (
            type_0(4, [0; 3], 300_001, 9),
            ChunkError::MessageTooLong { csid: 4, type_id: 9, length: 300_001, max: 300_000 },
        ),
        (many, ChunkError::TooManyStreams { csid: 64 + 64, max: 64 }),
        (control(type_id::SET_CHUNK_SIZE, &[0; 4]), ChunkError::BadChunkSize(0)),
        (control(type_id::SET_CHUNK_SIZE, &[0x80, 0, 0, 0]), ChunkError::BadChunkSize(0x8000_0000)),
        (control(type_id::SET_CHUNK_SIZE, &[1]), ChunkError::BadControl { type_id: 1, length: 1 }),
        (control(type_id::ABORT, &[]), ChunkError::BadControl { type_id: 2, length: 0 }),
    ];
    for (bytes, want) in cases {
        assert_eq!(read(&bytes), Err(want));
    }
}

#[test]
fn lying_lengths_cost_no_memory() {
    let mut reader = ChunkReader::new(LIMITS);
    assert_eq!(reader.next(&mut &type_0(4, [0; 3], 300_000, 9)[..]), Ok(None));
    assert_eq!(reader.pending_bytes, 64 << 10);

    let begun: Vec<u8> =
        (4..20).flat_map(|csid| join(&[&type_0(csid, [0; 3], 300_000, 9), &[0; 128]])).collect();
    let max = LIMITS.max_pending_bytes;
    assert_eq!(read(&begun), Err(ChunkError::PendingTooLong { bytes: 7 * (64 << 10), max }));
}

#[test]
fn a_message_cut_off_is_no_message() {
    let mut bytes = Vec::new();
    ChunkWriter::default().write(&message(4, 9, 0x0200_0000, vec![5; 500]), &mut bytes);
    for end in 0..bytes.len() {
        assert_eq!(read(&bytes[..end]), Ok(vec![]), "{end}");
    }
}

fn messages() -> impl Strategy<Value = Vec<(RawMessage, Option<u32>)>> {
    let csid = prop_oneof![3u32..8, 60u32..70, 318u32..322];
    let time = prop_oneof![0u32..100, 0xFF_FFF0u32..0x100_0010, any::<u32>()];
    let payload = (0usize..700, any::<u8>()).prop_map(|(n, byte)| vec![byte; n]);
    let one = (csid, 8u8..10, 0u32..3, time, payload).prop_map(
        |(csid, type_id, stream_id, timestamp_ms, payload)| RawMessage {
            csid,
            type_id,
            stream_id,
            timestamp_ms,
            payload,
        },
    );
    prop::collection::vec((one, prop::option::weighted(0.1, 1u32..2000)), 0..30)
}

proptest! {
    #[test]
    fn what_the_writer_writes_the_reader_reads(
        messages in messages(),
        pieces in prop::collection::vec(1usize..400, 1..20),
    ) {
        let (mut writer, mut bytes) = (ChunkWriter::default(), Vec::new());
        for (message, chunk_size) in &messages {
            if let Some(size) = chunk_size {
                writer.set_chunk_size(*size, &mut bytes);
            }
            writer.write(message, &mut bytes);
        }
        let want: Vec<_> = messages.into_iter().map(|(m, _)| m).collect();
        prop_assert_eq!(read_in_pieces(&bytes, &pieces), Ok(want));
    }

    #[test]
    fn a_steady_track_costs_one_byte_of_header(step in 1u32..100, count in 3u32..20) {
        let (mut writer, mut bytes) = (ChunkWriter::default(), Vec::new());
        let want: Vec<_> = (0..count).map(|i| message(4, 8, 500 + i * step, vec![i as u8; 20])).collect();
        want.iter().for_each(|m| writer.write(m, &mut bytes));
        prop_assert_eq!(bytes.len(), 12 + 4 + (count as usize - 2) + 20 * count as usize);
        prop_assert_eq!(read(&bytes), Ok(want));
    }

    #[test]
    fn random_bytes_never_panic_nor_exceed_the_limits(
        bytes in prop::collection::vec(any::<u8>(), 0..4000),
        pieces in prop::collection::vec(1usize..300, 1..10),
    ) {
        let _ = read_in_pieces(&bytes, &pieces);
    }

    #[test]
    fn random_headers_never_panic_nor_exceed_the_limits(
        parts in prop::collection::vec((0u8..4, 2u8..6, any::<[u8; 4]>(), 0u32..2000, 0u8..30, 0usize..200), 0..60),
        pieces in prop::collection::vec(1usize..300, 1..10),
    ) {
        let mut bytes = Vec::new();
        for (fmt, csid, time, length, type_id, body) in parts {
            let mut header = type_0(csid | fmt << 6, [time[0] | 0xF0, 0xFF, time[2]], length as usize, type_id);
            header.truncate(1 + [11, 7, 3, 0][usize::from(fmt)]);
            bytes.extend(header);
            bytes.extend(vec![time[3]; body]);
        }
        let _ = read_in_pieces(&bytes, &pieces);
    }
}
