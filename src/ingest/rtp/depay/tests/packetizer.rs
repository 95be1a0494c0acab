//! Packets of AV1 temporal units: GStreamer 1.22 has no payloader for it.

use super::Sent;

/// OBUs of a low-overhead bitstream: kind, header (without size flag) and body.
pub(super) fn obus(mut unit: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut obus = Vec::new();
    while let Some(&header) = unit.first() {
        assert_eq!(header & 0x06, 0x02, "with size, without extension");
        let (mut size, mut at) = (0usize, 1);
        loop {
            size |= usize::from(unit[at] & 0x7F) << (7 * (at - 1));
            at += 1;
            if unit[at - 1] & 0x80 == 0 {
                break;
            }
        }
        let mut obu = vec![header & !0x02];
        obu.extend_from_slice(&unit[at..at + size]);
        obus.push((header >> 3 & 0x0F, obu));
        unit = &unit[at + size..];
    }
    obus
}

/// Packets of at most about `most` bytes. With `counted`, as many elements as fit are aggregated without the last length
/// (W); else every element has its length (W = 0).
pub(super) fn av1(unit: &[u8], timestamp: u32, most: usize, counted: bool) -> Vec<Sent> {
    const DELIMITER: u8 = 2;
    let obus: Vec<_> = obus(unit).into_iter().filter(|(kind, _)| *kind != DELIMITER).collect();
    let new_sequence = obus.iter().any(|(kind, _)| *kind == 1);
    let mut packets: Vec<(bool, bool, Vec<Vec<u8>>)> = vec![(false, false, Vec::new())];
    let mut room = most;
    for (_, obu) in &obus {
        let mut rest = &obu[..];
        let mut continues = false;
        while !rest.is_empty() {
            let full = room < 8 || (counted && packets.last().unwrap().2.len() == 3);
            if full {
                packets.last_mut().unwrap().1 = continues;
                packets.push((continues, false, Vec::new()));
                room = most;
            }
            let (part, after) = rest.split_at(rest.len().min(room - 4));
            packets.last_mut().unwrap().2.push(part.to_vec());
            room = room.saturating_sub(part.len() + 4);
            rest = after;
            continues = true;
            if !rest.is_empty() {
                room = 0;
            }
        }
    }
    let last = packets.len() - 1;
    let packet = |(index, (z, y, elements)): (usize, (bool, bool, Vec<Vec<u8>>))| {
        let w = if counted { elements.len() as u8 } else { 0 };
        let n = new_sequence && index == 0;
        let mut payload = vec![u8::from(z) << 7 | u8::from(y) << 6 | w << 4 | u8::from(n) << 3];
        for (i, element) in elements.iter().enumerate() {
            if !counted || i + 1 < elements.len() {
                let length = element.len();
                assert!(length < 1 << 14);
                payload.extend([(length & 0x7F) as u8 | 0x80, (length >> 7) as u8]);
            }
            payload.extend_from_slice(element);
        }
        Sent { payload, timestamp, marker: index == last }
    };
    packets.into_iter().enumerate().map(packet).collect()
}
