//! Which times of the tracks belong together before the first sender reports: `RTP-Info` (RFC 2326, 12.33).
//!
//! Reports may be seconds away, and until then tracks can only be put together as they arrive. Some cameras write
//! anything into `RTP-Info`, so it is believed only where it agrees roughly with the arrival.

use crate::ingest::rtp::receiver::Media;
use std::time::Duration;
use url::Url;

/// How far the first packet of a track may be from the start that is told.
const MAX_FROM_START: Duration = Duration::from_secs(10);
/// How far apart the starts of two tracks may be by their arrival.
const MAX_APART: Duration = Duration::from_millis(500);
/// Header of an RTP packet (RFC 3550, 5.1).
const RTP_HEADER_BYTES: usize = 12;

/// The common start of several tracks, until it is used.
#[derive(Debug)]
pub(super) struct Start {
    tracks: Vec<Track>,
}

#[derive(Debug)]
struct Track {
    rtp_time: u32,
    /// Clock rates by payload type, Hz.
    rates: Vec<(u8, u32)>,
    first: Option<First>,
}

#[derive(Debug)]
struct First {
    ssrc: u32,
    /// When the start would have arrived, ns.
    start_ns: i64,
}

/// A time of one sender; those of all tracks are the same moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SameTime {
    pub ssrc: u32,
    pub rtp_time: u32,
}

impl Start {
    /// From the header and the control URLs of the tracks. `None` where it does not tell of all of them, and for a
    /// single track, which has nothing to be in step with.
    pub fn parse(header: &str, controls: &[Url], media: &[Media]) -> Option<Self> {
        if controls.len() < 2 {
            return None;
        }
        let tracks = controls.iter().zip(media).map(|(control, media)| {
            let rtp_time = header.split(',').find_map(|entry| rtp_time_of(entry, control))?;
            let rates = media.formats.iter().map(|f| (f.payload_type, f.clock_rate)).collect();
            Some(Track { rtp_time, rates, first: None })
        });
        Some(Self { tracks: tracks.collect::<Option<_>>()? })
    }

    /// Takes note of a packet. Once all tracks have begun: their times that belong together, by track, or `Some(None)`
    /// when what was told cannot be.
    pub fn packet(&mut self, section: usize, packet: &[u8], now: Duration) -> Option<Option<Vec<SameTime>>> {
        let track = self.tracks.get_mut(section).filter(|track| track.first.is_none())?;
        let first = track.first_of(packet, now)?;
        track.first = Some(first);
        let firsts: Vec<_> = self.tracks.iter().map(|t| t.first.as_ref()).collect::<Option<_>>()?;
        let starts = || firsts.iter().map(|first| first.start_ns);
        let apart_ns = starts().max()?.saturating_sub(starts().min()?);
        let far = |start_ns: i64| {
            start_ns.saturating_sub(nanoseconds(now)).unsigned_abs() > MAX_FROM_START.as_nanos() as u64
        };
        if apart_ns > nanoseconds(MAX_APART) || starts().any(far) {
            return Some(None);
        }
        let same =
            |(track, first): (&Track, &&First)| SameTime { ssrc: first.ssrc, rtp_time: track.rtp_time };
        Some(Some(self.tracks.iter().zip(&firsts).map(same).collect()))
    }
}

impl Track {
    fn first_of(&self, packet: &[u8], now: Duration) -> Option<First> {
        let header = packet.first_chunk::<RTP_HEADER_BYTES>()?;
        let [_, payload_type, _, _, time @ .., a, b, c, d] = header;
        let rate = self.rates.iter().find(|(t, _)| *t == payload_type & 0x7f)?.1;
        let since = u32::from_be_bytes(*time).wrapping_sub(self.rtp_time) as i32;
        let since_ns = i64::from(since) * 1_000_000_000 / i64::from(rate.max(1));
        let ssrc = u32::from_be_bytes([*a, *b, *c, *d]);
        Some(First { ssrc, start_ns: nanoseconds(now).saturating_sub(since_ns) })
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// `rtptime` of the entry, if it is the one of `control`: servers write its URL whole, or its last part.
fn rtp_time_of(entry: &str, control: &Url) -> Option<u32> {
    let parameter = |key: &str| {
        entry.split(';').find_map(|part| part.trim().strip_prefix(key)?.trim_start().strip_prefix('='))
    };
    let last_part = |url: &str| url.trim_end_matches('/').rsplit('/').next().map(str::to_owned);
    let same = last_part(parameter("url")?.trim().trim_matches('"')) == last_part(control.as_str());
    same.then(|| parameter("rtptime")?.trim().parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ingest::rtp::{Format, receiver::Arrival},
        media::Codec,
    };

    fn start(header: &str) -> Option<Start> {
        let media = [(Codec::H264, 96, 90_000), (Codec::Opus, 97, 48_000)].map(
            |(codec, payload_type, clock_rate)| {
                let format = Format { codec, payload_type, clock_rate, channels: 1, fmtp: Vec::new() };
                Media { formats: vec![format], arrival: Arrival::InOrder }
            },
        );
        let controls =
            ["rtsp://h/cam/stream=0", "rtsp://h/cam/stream=1"].map(|u| Url::parse(u).expect("a URL"));
        Start::parse(header, &controls, &media)
    }

    fn packet(payload_type: u8, timestamp: u32, ssrc: u32) -> Vec<u8> {
        let mut packet = vec![0x80, 0x80 | payload_type, 0, 1];
        packet.extend(timestamp.to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet
    }

    #[test]
    fn tracks_begin_together_where_the_server_says_and_the_arrival_agrees() {
        let header = "url=rtsp://h/cam/stream=1;seq=9;rtptime=4294967000, url=rtsp://h/cam/stream=0;seq=1;rtptime=5000";
        let at = Duration::from_secs(60);
        let video = packet(96, 5_000 + 9_000, 1);
        // 100 ms after the start too, over the wrap; and 10 s, which cannot be.
        for (audio, good) in [(4_294_967_000_u32.wrapping_add(4_800), true), (480_000, false)] {
            let mut start = start(header).expect("all tracks are told");
            assert_eq!(start.packet(0, &video, at), None);
            assert_eq!(start.packet(0, &video, at), None, "one packet of each is enough");
            assert_eq!(start.packet(1, &packet(99, 0, 2), at), None, "another payload type");
            assert_eq!(start.packet(1, &[0x80, 97], at), None, "no packet");
            let same = start.packet(1, &packet(97, audio, 2), at).expect("all have begun");
            let want =
                vec![SameTime { ssrc: 1, rtp_time: 5000 }, SameTime { ssrc: 2, rtp_time: 4_294_967_000 }];
            assert_eq!(same, good.then_some(want));
        }
    }

    #[test]
    fn what_does_not_tell_of_all_tracks_is_left() {
        assert!(start("url=stream=0;rtptime=1,url=stream=1;rtptime=2").is_some());
        for header in [
            "",
            "url=rtsp://h/cam/stream=0;seq=1;rtptime=5000",
            "url=rtsp://h/cam/stream=0;seq=1,url=rtsp://h/cam/stream=1;seq=1;rtptime=7",
            "url=rtsp://h/cam/stream=0;rtptime=x,url=rtsp://h/cam/stream=1;rtptime=-1",
        ] {
            assert!(start(header).is_none(), "{header}");
        }
    }
}
