use std::io::{Read, Result, Seek, SeekFrom};

/// How many bytes of a file this muxer did not finish are whole: up to the end of its last complete `moov` or
/// fragment. Truncated to that, the file decodes without an error; some players refuse a whole file for a `moof`
/// that is cut off. 0 means there is nothing to play. Reads box headers only.
pub fn whole_length(file: &mut (impl Read + Seek)) -> Result<u64> {
    let len = file.seek(SeekFrom::End(0))?;
    let (mut at, mut whole) = (0u64, 0);
    while at.saturating_add(8) <= len {
        let (kind, size, header) = box_header(file, at)?;
        let end = at.saturating_add(size);
        if size < header || end > len {
            break;
        }
        if matches!(&kind, b"moov" | b"mdat") {
            whole = end;
        }
        at = end;
    }
    Ok(whole)
}

/// Kind, size and header length of the box at `at`; a size of 0 where the 64-bit size is cut off.
fn box_header(file: &mut (impl Read + Seek), at: u64) -> Result<([u8; 4], u64, u64)> {
    file.seek(SeekFrom::Start(at))?;
    let mut head = Vec::with_capacity(16);
    file.take(16).read_to_end(&mut head)?;
    let word = |range| head.get(range).and_then(|b: &[u8]| <[u8; 4]>::try_from(b).ok());
    let kind = word(4..8).unwrap_or_default();
    let size = word(0..4).map_or(0, u32::from_be_bytes);
    if size != 1 {
        return Ok((kind, u64::from(size), 8));
    }
    let large = head.get(8..16).and_then(|b| <[u8; 8]>::try_from(b).ok());
    Ok((kind, large.map_or(0, u64::from_be_bytes), 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_whole_part_lies_within_any_input(data in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let whole = whole_length(&mut std::io::Cursor::new(&data)).expect("memory");
            proptest::prop_assert!(whole <= data.len() as u64);
        }
    }
}
