use super::*;
use crate::config::Container;
use crate::media::Codec;
use proptest::prelude::*;

fn parse(text: &str) -> Loaded<Policy> {
    Policy::parse(text, Path::new("reeld.properties"))
}

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

/// The policy of a text that must load without a word.
fn clean(text: &str) -> Policy {
    let (policy, warnings) = parse(text).unwrap_or_else(|p| panic!("{text}: {:?}", shown(&p)));
    assert_eq!(shown(&warnings), Vec::<String>::new(), "{text}");
    policy
}

#[test]
fn an_empty_file_is_the_contracts_defaults() {
    let policy = clean("# nothing\n\n");
    assert_eq!(policy, Policy::default());
    assert_eq!(policy.name.template.to_string(), "stream-{sessionId}-{mediaSessionId}");
    assert_eq!(policy.hook_in(Path::new("/h")), None);
    let hooks = tempfile::tempdir().expect("a folder");
    let script = hooks.path().join("on_record_hook.sh");
    std::fs::write(&script, "").expect("a script");
    assert_eq!(policy.hook_in(hooks.path()), Some(script));
}

#[test]
fn each_key_sets_its_field() {
    type Set = fn(&mut Policy);
    let template = |t: &str| NameTemplate::parse(t).unwrap();
    assert_eq!(clean("stream_record_policy_template = {login}").name.template, template("{login}"));
    for text in [
        "stream_record_policy=streamName",
        "stream_record_policy=streamname\nstream_record_policy_template={login}",
    ] {
        assert_eq!(clean(text).name.template, template("{streamName}"), "{text}");
    }
    assert_eq!(clean("stream_record_policy=template"), Policy::default());
    let cases: &[(&str, Set)] = &[
        ("record_streams=FALSE", |p| p.record_streams = false),
        ("record_flash_published_streams = true", |p| p.record_rtmp_streams = true),
        ("record_rtmp_streams: True", |p| p.record_rtmp_streams = true),
        ("record_rtmp_streams=true\nrecord_flash_published_streams=true", |p| p.record_rtmp_streams = true),
        ("record_rtsp_streams=true ", |p| p.record_rtsp_streams = true),
        ("record_webrtc_streams=always", |p| p.record_webrtc_streams = WebrtcRecording::Always),
        ("record_webrtc_streams=never", |p| p.record_webrtc_streams = WebrtcRecording::Never),
        ("encode_record_name=False", |_| ()),
        ("exclude_record_name_characters=:.,/", |p| p.name.exclude = vec![':', '.', ',', '/']),
        ("exclude_record_name_characters=/ ", |p| p.name.exclude = vec!['/', ' ']),
        ("exclude_record_name_characters=", |p| p.name.exclude = vec![]),
        ("record_rotation=20", |p| p.rotation.duration = Some(Duration::from_secs(20))),
        ("record_rotation = 1h,1G", |p| {
            p.rotation = Rotation { duration: Some(Duration::from_secs(3600)), bytes: Some(1_000_000_000) }
        }),
        ("record_rotation=10M", |p| p.rotation.bytes = Some(10_000_000)),
        ("record_rotation=off", |_| ()),
        ("record_rotation_align=Clock", |p| p.rotation_align = RotationAlign::Clock),
        ("record_preroll=10", |p| p.preroll = Duration::from_secs(10)),
        ("record_preroll=10s", |p| p.preroll = Duration::from_secs(10)),
        ("record_health_checks=all", |_| ()),
        ("record_health_checks=none", |p| p.health_checks = HealthChecks::NONE),
        ("record_health_checks = no-data, black", |p| {
            p.health_checks = [HealthReason::NoData, HealthReason::Black].into_iter().collect();
        }),
        ("record_health_checks=-frozen,-silent", |p| {
            let kept = |r: &HealthReason| ![HealthReason::Frozen, HealthReason::Silent].contains(r);
            p.health_checks = HealthReason::ALL.into_iter().filter(kept).collect();
        }),
        ("record_resume_window=30s", |p| p.resume_window = Duration::from_secs(30)),
        ("record_preroll=\nrecord_resume_window = 0\nrecord_rotation_align=start\nrecord_rotation=", |_| ()),
        ("record_audio=passthrough", |p| p.audio = AudioRule::Passthrough),
        ("on_record_hook_script=/opt/x y.sh", |p| p.hook_script = Some("/opt/x y.sh".into())),
        ("on_record_hook_script=", |p| p.hook_script = None),
        ("file_recorder_error_interval=5", |p| p.error_interval = Duration::from_secs(300)),
        ("file_recorder_max_errors_per_interval=7", |p| p.max_errors = 7),
    ];
    for (text, set) in cases {
        let mut expected = Policy::default();
        set(&mut expected);
        assert_eq!(clean(text), expected, "{text}");
    }
    assert_eq!(clean("record_formats=h264-mkv").formats.container(Some(Codec::H264)), Container::Mkv);
    assert_eq!(clean("on_record_hook_script=/opt/x.sh").hook_in(Path::new("/h")), Some("/opt/x.sh".into()));
}

#[test]
fn an_encoded_name_keeps_its_slash_unless_told() {
    let rule = |text| clean(text).name;
    for (text, expected) in [
        ("encode_record_name=true,HEX", NameEncoding::Hex),
        ("encode_record_name = TRUE , base64", NameEncoding::Base64),
    ] {
        assert_eq!((rule(text).encoding, rule(text).exclude), (Some(expected), vec![]), "{text}");
    }
    assert_eq!(rule("encode_record_name=true,HEX\nexclude_record_name_characters=/").exclude, ['/']);
}

#[test]
fn a_wrong_value_is_an_error_that_says_what_to_write() {
    let cases = [
        ("record_streams=yes", "record_streams: \"yes\" is neither true nor false; write one of them"),
        ("record_rtsp_streams=", "record_rtsp_streams: \"\" is neither true nor false; write one of them"),
        (
            "record_webrtc_streams=true",
            "record_webrtc_streams: \"true\" is not known; write asked or always or never",
        ),
        (
            "stream_record_policy=name",
            "stream_record_policy: \"name\" is not known; write template or streamName",
        ),
        (
            "stream_record_policy_template={stream",
            "stream_record_policy_template: the { at character 1 is never closed; write } after the key",
        ),
        (
            "encode_record_name=true",
            "encode_record_name: \"true\" is not known; write false or true,HEX or true,BASE64",
        ),
        (
            "record_formats=vp8-mp4",
            "record_formats: vp8 does not go into mp4; mp4 takes h264 h265 av1 vp9, and vp8 goes into webm mkv",
        ),
        (
            "record_rotation=10X",
            "record_rotation: \"10X\" is not a rotation; write seconds like 20, a time like 90s, 10m or 1h, megabytes like 10M, 1G, a time and a size like 1h,1G, or off",
        ),
        ("record_rotation_align=hour", "record_rotation_align: \"hour\" is not known; write start or clock"),
        (
            "record_preroll=1h",
            "record_preroll: \"1h\" is not a time that works here; write seconds from 0 to 600, like 10 or 10s",
        ),
        ("record_health_checks=blck", "record_health_checks: \"blck\" is not known; did you mean black?"),
        (
            "record_health_checks=black,-silent",
            "record_health_checks: \"black,-silent\" is neither a list of checks nor one of those left out; write all, none, or some of no-data no-key-frame no-video no-audio frozen black silent with commas between, or each with - in front for all but those",
        ),
        (
            "record_resume_window=-1",
            "record_resume_window: \"-1\" is not a time that works here; write seconds from 0 to 86400, like 10 or 10s",
        ),
        ("record_audio=aac", "record_audio: \"aac\" is not known; write auto or passthrough"),
        (
            "on_record_hook_script=a\\u0000b",
            "on_record_hook_script: a path cannot hold a NUL character; write the path of a script",
        ),
        (
            "file_recorder_error_interval=0",
            "file_recorder_error_interval: \"0\" is not a number of minutes; write a whole number from 1 to 525600",
        ),
        (
            "file_recorder_max_errors_per_interval=-1",
            "file_recorder_max_errors_per_interval: \"-1\" is not a number of errors; write a whole number from 1 to 1000000",
        ),
    ];
    for (text, expected) in cases {
        let problems = parse(&format!("\n{text}")).expect_err(text);
        assert_eq!(shown(&problems), [format!("reeld.properties:2: {expected}")], "{text}");
    }
}

#[test]
fn all_mistakes_are_collected_in_line_order() {
    let problems =
        parse("record_audio=x\nforeign=1\nrecord_streams=x\nrecord_formats=a,b\nrecord_rtsp_streams=\\u1")
            .unwrap_err();
    let lines: Vec<(usize, bool)> = problems.iter().map(|p| (p.line, p.is_error())).collect();
    assert_eq!(lines, [(1, true), (2, false), (3, true), (4, true), (4, true), (5, true)]);
}

#[test]
fn what_has_no_effect_is_said_once() {
    let cases: &[(&str, &[&str])] = &[
        (
            "keep_alive.enabled=x\nkeep_alive.enabled=y",
            &["1: keep_alive.enabled: unknown key, it has no effect"],
        ),
        (
            "record_format=x",
            &["1: record_format: unknown key, it has no effect; did you mean record_formats?"],
        ),
        (
            "Record_Streams=true",
            &["1: Record_Streams: unknown key, it has no effect; did you mean record_streams?"],
        ),
        (
            "record_streams=false\nrecord_streams=true",
            &["2: record_streams: given on line 1 already; this line wins, remove one"],
        ),
        (
            "exclude_record_name_characters=:\\\nrecord_streams=false",
            &[
                "1: exclude_record_name_characters: the \\ at the end makes line 2 part of this value; write \\\\ for a backslash",
            ],
        ),
    ];
    for (text, expected) in cases {
        let (policy, warnings) = parse(text).expect(text);
        let expected: Vec<String> = expected.iter().map(|w| format!("reeld.properties:{w}")).collect();
        assert_eq!(shown(&warnings), expected, "{text}");
        assert!(policy.record_streams, "{text}");
    }
}

#[test]
fn the_two_names_of_the_rtmp_switch_must_agree() {
    let problems = parse("record_rtmp_streams=true\n\nrecord_flash_published_streams=false").unwrap_err();
    let what = "record_rtmp_streams (line 1) and record_flash_published_streams (line 3) are two names of one switch and differ; keep one";
    assert_eq!(shown(&problems), [format!("reeld.properties:3: {what}")]);
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused_without_a_panic(
        lines in prop::collection::vec((prop::sample::select(KEYS.to_vec()), ".{0,30}"), 0..8)
    ) {
        let text: String = lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        if let Err(problems) = parse(&text) {
            prop_assert!(problems.iter().any(Problem::is_error));
        }
    }
}
