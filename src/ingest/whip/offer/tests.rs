use super::*;

/// What a browser offers, shortened.
pub const CHROMIUM: &str = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
    a=group:BUNDLE 0 1\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS s\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
    a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=ice-options:trickle\r\n\
    a=fingerprint:sha-256 D2:B9:31:8F:DF:24:D8:0E:ED:D2:EF:25:9E:AF:6F:B8:34:AE:53:9C:E6:F3:8F:F2:64:15:FA:E8:7F:53:2D:38\r\n\
    a=setup:actpass\r\na=mid:0\r\na=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
    a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=sendonly\r\na=msid:s a\r\na=rtcp-mux\r\n\
    a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
    a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\na=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:8 PCMA/8000\r\na=rtpmap:13 CN/8000\r\na=ssrc:3570614608 cname:4TOk42mSjXCkVIa6\r\n\
    a=candidate:1 1 udp 2122260223 5c6a0aa5-1234.local 61764 typ host\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 103 104 96 97 45 46\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
    a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=ice-options:trickle\r\n\
    a=fingerprint:sha-256 D2:B9:31:8F:DF:24:D8:0E:ED:D2:EF:25:9E:AF:6F:B8:34:AE:53:9C:E6:F3:8F:F2:64:15:FA:E8:7F:53:2D:38\r\n\
    a=setup:actpass\r\na=mid:1\r\na=extmap:13 urn:3gpp:video-orientation\r\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
    a=sendonly\r\na=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:103 H264/90000\r\na=rtcp-fb:103 goog-remb\r\n\
    a=rtcp-fb:103 nack\r\na=fmtp:103 packetization-mode=0;profile-level-id=42001f\r\na=rtpmap:104 rtx/90000\r\n\
    a=fmtp:104 apt=103\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 goog-remb\r\na=rtcp-fb:96 transport-cc\r\n\
    a=rtcp-fb:96 ccm fir\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\n\
    a=fmtp:97 apt=96\r\na=rtpmap:45 AV1/90000\r\na=fmtp:45 level-idx=5;profile=0;tier=0\r\na=rtpmap:46 rtx/90000\r\n\
    a=fmtp:46 apt=45\r\na=ssrc-group:FID 2231627014 632943048\r\na=ssrc:2231627014 cname:4TOk42mSjXCkVIa6\r\n";

fn parse(text: &str) -> Result<Offer, OfferError> {
    Offer::parse(text.as_bytes())
}

/// The offer without its lines that begin with `start`.
fn without(start: &str) -> String {
    CHROMIUM.split_inclusive("\r\n").filter(|line| !line.starts_with(start)).collect()
}

#[test]
fn what_a_browser_offers_is_cut_down_to_one_codec_each() {
    let offer = parse(CHROMIUM).expect("an offer");
    let got: Vec<_> = offer.formats().map(|f| (f.codec, f.payload_type, f.clock_rate, f.channels)).collect();
    assert_eq!(got, [(Codec::Opus, 111, 48_000, 2), (Codec::Vp8, 96, 90_000, 1)]);
    assert_eq!(offer.formats().next().and_then(|f| f.fmtp("useinbandfec")), Some("1"));
    assert_eq!(offer.credentials.ufrag, "EsAw");
    let lines: Vec<_> = offer.sdp.lines().collect();
    for there in [
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97",
        "a=group:BUNDLE 0 1",
        "a=rtpmap:97 rtx/90000",
        "a=rtcp-fb:96 nack pli",
        "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
        "a=ssrc-group:FID 2231627014 632943048",
    ] {
        assert!(lines.contains(&there), "{there} in {}", offer.sdp);
    }
    for gone in ["goog-remb", "video-orientation", "H264", "red/", ".local", "rtcp:9", "actpass\r\na=setup"] {
        assert!(!offer.sdp.contains(gone), "{gone} in {}", offer.sdp);
    }
    Session::parse(offer.sdp.as_bytes()).expect("what is made can be read");
}

#[test]
fn the_publisher_s_order_chooses_the_codec() {
    for (order, codec) in [("45 46 96 97", Codec::Av1), ("103 104 45 46", Codec::Av1), ("96", Codec::Vp8)] {
        let text = CHROMIUM.replace("103 104 96 97 45 46", order);
        assert_eq!(parse(&text).expect("an offer").formats().last().map(|f| f.codec), Some(codec), "{order}");
    }
    let mode1 = CHROMIUM.replace("packetization-mode=0", "packetization-mode=1");
    assert_eq!(parse(&mode1).expect("an offer").formats().last().map(|f| f.codec), Some(Codec::H264));
    let alaw = CHROMIUM.replace(" 111 63 9 0 8 13", " 8 111").replace("a=rtpmap:8 PCMA/8000\r\n", "");
    let offer = parse(&alaw).expect("an offer");
    assert_eq!(offer.formats().next().map(|f| (f.codec, f.clock_rate)), Some((Codec::Pcma, 8_000)));
    assert!(offer.sdp.contains("a=rtpmap:8 PCMA/8000"), "{}", offer.sdp);
}

#[test]
fn sections_that_carry_nothing_for_us_are_passed_over() {
    let data = format!("{CHROMIUM}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\n");
    let offer = parse(&data).expect("an offer");
    assert_eq!(offer.sections.iter().map(|s| s.format.is_some()).collect::<Vec<_>>(), [true, true, false]);
    assert!(!offer.sdp.contains("SCTP"));
    let audio_only =
        CHROMIUM.replacen("a=sendonly\r\na=rtcp-mux\r\na=rtcp-rsize", "a=inactive\r\na=rtcp-mux", 1);
    let offer = parse(&audio_only).expect("an offer");
    assert_eq!(offer.formats().map(|f| f.codec).collect::<Vec<_>>(), [Codec::Opus]);
    assert!(offer.sdp.contains("a=group:BUNDLE 0\r\n"), "{}", offer.sdp);
}

#[test]
fn what_cannot_be_published_is_refused_with_what_to_do() {
    let table = [
        ("hello".to_owned(), false, "not a session description"),
        ("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n".to_owned(), false, "0 m= sections"),
        (without("a=ice-pwd"), false, "ice-ufrag and ice-pwd"),
        (CHROMIUM.replace("P2uYro0UCOQ4zxjKXaWCBui1", "short"), false, "RFC 8839"),
        (without("a=fingerprint"), false, "fingerprint"),
        (without("a=mid"), false, "a=mid"),
        (CHROMIUM.replace("a=mid:1", "a=mid:0"), false, "share a mid"),
        (
            CHROMIUM.replace(" 103 104 96 97 45 46", " 111").replace("a=rtpmap:96", "a=rtpmap:111"),
            false,
            "share",
        ),
        (without("a=rtcp-mux"), true, "a=rtcp-mux"),
        (without("a=group"), true, "a=group:BUNDLE"),
        (CHROMIUM.replace("a=sendonly", "a=recvonly"), true, "sends no audio and no video"),
        (CHROMIUM.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP"), true, "offer UDP/TLS/RTP/SAVPF"),
        (
            CHROMIUM.replace("103 104 96 97 45 46", "103 104"),
            true,
            "it offers H264, rtx, VP8, AV1); offer H264 (pack",
        ),
        (CHROMIUM.replace("111 63 9 0 8 13", "63 9 13"), true, "offer opus, PCMU or PCMA"),
        (format!("{CHROMIUM}a=rid:h send\r\na=simulcast:send h;l\r\n"), true, "simulcast is not taken"),
        (CHROMIUM.replace("m=audio", "m=video"), true, "no codec of the video section"),
        ("m=audio 9 RTP/AVP 0\r\n".repeat(100), false, "not a session"),
    ];
    for (text, unusable, want) in table {
        let error = parse(&text).err().unwrap_or_else(|| panic!("taken, not refused: {want}"));
        assert_eq!(matches!(error, OfferError::Unusable(_)), unusable, "{error}");
        assert!(error.to_string().contains(want), "{error} lacks {want}");
    }
    let (head, video) = CHROMIUM.split_once("m=video").expect("video");
    let two = format!("{head}m=video{video}m=video{}", video.replace("a=mid:1", "a=mid:2"));
    assert!(parse(&two).is_err_and(|e| e.to_string().contains("2 video tracks")));
}

proptest::proptest! {
    #[test]
    fn no_change_of_an_offer_makes_the_parser_panic(
        at in 0..CHROMIUM.len(),
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..20),
        cut in 0..200usize,
    ) {
        let end = (at + cut).min(CHROMIUM.len());
        let text = [&CHROMIUM.as_bytes()[..at], &bytes, &CHROMIUM.as_bytes()[end..]].concat();
        let _ = Offer::parse(&text);
    }
}
