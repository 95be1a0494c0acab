//! Enhanced RTMP as newer encoders than the system's send it: ffmpeg from 6.1 (HEVC, AV1, VP9) and 7.1 (Opus), OBS from
//! 29.1, and version 2 with several tracks. The bytes are made here of what ffmpeg encoded into an MP4 file.

use std::{fs, path::Path};

use crate::{
    flv::Kind,
    media::{Packet, Probe},
    rtmp::{Client, RtmpError},
};

const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
const SEQUENCE_END: u8 = 2;
/// Without composition time, which is 0 then.
const CODED_FRAMES_X: u8 = 3;
const METADATA: u8 = 4;
const VIDEO: u8 = 0x80;
const KEY_FRAME: u8 = 0x10;
const INTER_FRAME: u8 = 0x20;
const AUDIO: u8 = 0x90;

/// How messages are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// One track.
    Plain,
    /// Version 2: video as many tracks with track 0 in the middle, audio as one track; messages with other tracks between.
    Multitrack,
}

/// An MP4 file with video and Opus, to be sent as Enhanced RTMP.
#[derive(Debug)]
pub struct Enhanced {
    file: Vec<u8>,
    pub probe: Probe,
    video: &'static str,
    config: Vec<u8>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    pub timestamp_ms: u32,
    pub payload: Vec<u8>,
}

impl Enhanced {
    /// `video`: the FourCC; its configuration is taken from the file.
    pub fn read(path: &Path, video: &'static str) -> Self {
        let file = fs::read(path).expect("the file");
        let config = match video {
            "avc1" => body_of(&file, b"avcC"),
            "hvc1" => body_of(&file, b"hvcC"),
            "av01" => body_of(&file, b"av1C"),
            "vp09" => body_of(&file, b"vpcC"),
            other => panic!("{other} is not known here"),
        };
        let config = config.to_vec();
        Self { probe: Probe::read(path), video, config, file }
    }

    /// When the packet is decoded and shown, ms; the first one is decoded at 0.
    pub fn times(&self, packet: &Packet) -> (u32, i32) {
        let all = self.probe.video.iter().chain(&self.probe.audio);
        let origin = all.map(|p| p.dts_ms).fold(f64::INFINITY, f64::min);
        let ms = |time: f64| (time - origin).round() as i32;
        (ms(packet.dts_ms) as u32, ms(packet.pts_ms))
    }

    pub fn messages(&self, dialect: Dialect) -> Vec<Message> {
        let message = |kind, timestamp_ms, payload| Message { kind, timestamp_ms, payload };
        let video = |header: u8, timestamp_ms, parts: &[&[u8]]| {
            let body = parts.concat();
            let payload = match dialect {
                Dialect::Plain => [&[VIDEO | header][..], self.video.as_bytes(), &body].concat(),
                Dialect::Multitrack => self.many_tracks(header, &body),
            };
            message(Kind::Video, timestamp_ms, payload)
        };
        let audio = |packet_type: u8, timestamp_ms, body: &[u8]| {
            let head = match dialect {
                Dialect::Plain => [&[AUDIO | packet_type][..], b"Opus"].concat(),
                Dialect::Multitrack => [&[AUDIO | 5, packet_type][..], b"Opus\0"].concat(),
            };
            message(Kind::Audio, timestamp_ms, [&head[..], body].concat())
        };
        let opus_head = b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0";
        let mut messages = vec![
            video(KEY_FRAME | SEQUENCE_START, 0, &[&self.config]),
            // The beginning of an AMF "colorInfo".
            video(KEY_FRAME | METADATA, 0, &[b"\x02\0\x09colorInfo\x03\0\0\x09"]),
            audio(SEQUENCE_START, 0, opus_head),
        ];
        let sound = self.probe.audio.iter().map(|packet| (packet, false));
        let mut packets: Vec<_> = self.probe.video.iter().map(|packet| (packet, true)).chain(sound).collect();
        packets.sort_by(|a, b| a.0.dts_ms.total_cmp(&b.0.dts_ms));
        for (packet, is_video) in packets {
            let (dts, pts) = self.times(packet);
            let data = &self.file[packet.position..packet.position + packet.size];
            let frame = if packet.key { KEY_FRAME } else { INTER_FRAME };
            let reorders = matches!(self.video, "avc1" | "hvc1");
            let offset = (pts - dts as i32).to_be_bytes();
            messages.push(match (is_video, reorders) {
                (false, _) => audio(CODED_FRAMES, dts, data),
                (true, true) if pts == dts as i32 => video(frame | CODED_FRAMES_X, dts, &[data]),
                (true, true) => video(frame | CODED_FRAMES, dts, &[&offset[1..], data]),
                (true, false) => video(frame | CODED_FRAMES, dts, &[data]),
            });
            if dialect == Dialect::Multitrack && is_video {
                let other =
                    [&[VIDEO | frame | 6, CODED_FRAMES][..], self.video.as_bytes(), b"\x02other"].concat();
                messages.push(message(Kind::Video, dts, other));
            }
        }
        let last = messages.last().map_or(0, |m| m.timestamp_ms);
        messages.push(video(KEY_FRAME | SEQUENCE_END, last, &[]));
        messages
    }

    /// Tracks 1, 0 and 2 of one codec in one message.
    fn many_tracks(&self, header: u8, body: &[u8]) -> Vec<u8> {
        const MANY_TRACKS: u8 = 0x10;
        let mut payload = vec![VIDEO | (header & 0x70) | 6, MANY_TRACKS | (header & 0x0F)];
        payload.extend(self.video.as_bytes());
        for (track, body) in [(1, &b"another"[..]), (0, body), (2, b"and one more")] {
            payload.push(track);
            payload.extend(&(body.len() as u32).to_be_bytes()[1..]);
            payload.extend(body);
        }
        payload
    }
}

/// Sends them as fast as they are taken.
pub fn send_all(client: &mut Client, messages: &[Message]) -> Result<(), RtmpError> {
    for Message { kind, timestamp_ms, payload } in messages {
        crate::live::send(client, *kind, *timestamp_ms, payload)?;
    }
    Ok(())
}

fn body_of<'f>(file: &'f [u8], name: &[u8; 4]) -> &'f [u8] {
    let at = file.windows(4).position(|w| w == name).unwrap_or_else(|| panic!("no {}", name.escape_ascii()));
    let size = u32::from_be_bytes(*file[at - 4..].first_chunk().expect("a size"));
    &file[at + 4..at - 4 + size as usize]
}
