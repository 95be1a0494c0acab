//! The catalog is an index of the files: without it, or with a damaged or an old one, the next start knows them all again.

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, text},
    flv::Flv,
    live::publish_at_once,
    media::{Probe, av_source, run},
    wait::wait_until,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str =
    "record_rtmp_streams=true\nstream_record_policy=streamName\nrecord_formats=h264-mkv,h265-mkv\n";
const LENGTH: Duration = Duration::from_secs(2);

fn record(house: &House, daemon: &Daemon, name: &str) {
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let client = publish_at_once(daemon.publish_options("court", name), &flv, LENGTH).expect("all is taken");
    client.unpublish().expect("a good end");
    daemon.completed(name);
    wait_until("its hook ran", SOON, || house.hook_calls().iter().any(|call| call.stream == name));
    wait_until("its result is kept", SOON, || daemon.completed(name)["parts"][0]["hook"]["exit"] == 0);
}

/// What has to be the same before and after.
fn known(daemon: &Daemon) -> Vec<Value> {
    let page = daemon.get("/api/v1/recordings?limit=1000");
    let part = |p: &Value| {
        let fields =
            ["number", "file", "name", "size", "sha256", "startedAt", "durationMs", "video", "audio", "gaps"];
        fields.map(|field| p[field].clone())
    };
    let recording = |r: &Value| {
        let parts: Vec<_> = r["parts"].as_array().expect("parts").iter().map(part).collect();
        let fields = [
            "id",
            "roomName",
            "roomId",
            "streamName",
            "mediaSessionId",
            "sessionId",
            "protocol",
            "container",
            "startedAt",
            "durationMs",
            "size",
            "lost",
            "degraded",
        ];
        json!([fields.map(|field| r[field].clone()), parts])
    };
    page["items"].as_array().expect("items").iter().map(recording).collect()
}

/// Of all files, once each has its poster, which its manifest names.
fn bytes(house: &House) -> BTreeMap<String, Vec<u8>> {
    wait_until("each file has its poster", SOON, || {
        let manifests = house.records(".json");
        let named = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|text| text.contains("\"poster\""));
        house.records(".temp").is_empty() && manifests.iter().all(named)
    });
    let files = house.records("").into_iter();
    files.map(|f| (f.display().to_string(), fs::read(&f).expect("a file"))).collect()
}

fn catalogs_set_aside(house: &House) -> usize {
    let entries = fs::read_dir(house.path("state")).expect("state");
    let names = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
    names
        .filter(|n| n.starts_with("catalog.sqlite.corrupt-") && !n.ends_with("-wal") && !n.ends_with("-shm"))
        .count()
}

fn garbage_in_the_middle(catalog: &Path) {
    let mut bytes = fs::read(catalog).expect("the catalog");
    let middle = bytes.len() / 3..bytes.len() * 2 / 3;
    bytes[middle].iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 31 + 7) as u8);
    fs::write(catalog, bytes).expect("a damaged catalog");
}

#[test]
fn the_catalog_is_made_again_from_the_manifests() {
    let house = House::new(RECORD_ALL, "");
    let catalog = house.path("state/catalog.sqlite");
    let mut daemon = house.start(REELD);
    for name in ["one", "two", "three"] {
        record(&house, &daemon, name);
    }
    let (before, files, calls) = (known(&daemon), bytes(&house), house.hook_calls());
    assert_eq!((before.len(), calls.len()), (3, 3));

    type Damage = fn(&Path);
    let cases: [(&str, usize, Damage); 4] = [
        ("deleted", 0, |f| fs::remove_file(f).expect("the catalog")),
        ("cut off", 1, |f| {
            let length = fs::metadata(f).expect("the catalog").len();
            fs::File::options().write(true).open(f).and_then(|f| f.set_len(length / 2)).expect("cut off");
        }),
        ("garbage in the middle", 2, garbage_in_the_middle),
        ("text", 3, |f| fs::write(f, "no database ".repeat(1000)).expect("a text")),
    ];
    for (case, aside, damage) in cases {
        assert!(daemon.terminate().success(), "{case}");
        damage(&catalog);
        daemon = house.start(REELD);
        assert_eq!(known(&daemon), before, "{case}");
        assert_eq!(catalogs_set_aside(&house), aside, "{case}");
        assert_eq!(daemon.log().contains("the catalog is damaged"), aside > 0, "{case}");
    }
    assert_eq!((bytes(&house), house.hook_calls()), (files, calls));
    // It is a catalog like any other.
    record(&house, &daemon, "four");
    assert_eq!(known(&daemon).len(), 4);
}

#[test]
fn an_old_copy_of_the_catalog_gets_what_came_since() {
    let house = House::new(RECORD_ALL, "");
    let (catalog, copy) = (house.path("state/catalog.sqlite"), house.path("copy"));
    let mut daemon = house.start(REELD);
    record(&house, &daemon, "one");
    assert!(daemon.terminate().success());
    fs::copy(&catalog, &copy).expect("a copy");
    daemon = house.start(REELD);
    record(&house, &daemon, "two");
    record(&house, &daemon, "three");
    let (before, files) = (known(&daemon), bytes(&house));
    assert!(daemon.terminate().success());

    fs::copy(&copy, &catalog).expect("the old catalog");
    daemon = house.start(REELD);
    assert_eq!((known(&daemon), bytes(&house)), (before, files));
    let calls = |name| house.hook_calls().iter().filter(|call| call.stream == name).count();
    wait_until("what the copy does not know is handed on", SOON, || calls("two") == 2 && calls("three") == 2);
    assert_eq!(calls("one"), 1);
}

#[test]
fn what_was_being_written_when_the_catalog_was_lost_is_adopted() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    record(&house, &daemon, "one");
    let whole = known(&daemon);
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let client = publish_at_once(daemon.publish_options("court", "cut"), &flv, LENGTH).expect("all is taken");
    wait_until("it is being written", SOON, || {
        house.records("cut.mkv.part").first().is_some_and(|f| fs::metadata(f).is_ok_and(|m| m.len() > 20_000))
    });
    daemon.kill_9();
    drop(client);
    fs::remove_file(house.path("state/catalog.sqlite")).expect("the catalog");
    // A film that somebody put there, and something that is none.
    let film = house.path("records/film.mp4");
    let copy = ["-v", "error", "-i"];
    run(Command::new("ffmpeg").args(copy).arg(av_source(TMP, 2)).args(["-c", "copy"]).arg(&film));
    let before = fs::read(&film).expect("the film");
    fs::write(house.path("records/notes.mp4"), "no film").expect("a file");

    let daemon = house.start(REELD);
    let now = known(&daemon);
    assert_eq!(now.len(), 3, "{now:#?}");
    assert!(whole.iter().all(|recording| now.contains(recording)));
    for name in ["cut", "film"] {
        let [recording] = &daemon.recordings(name)[..] else { panic!("one recording of {name}") };
        let told = ["status", "roomName", "protocol", "error"].map(|field| recording[field].clone());
        assert_eq!(told, [json!("recovered"), json!("live"), json!("file"), Value::Null]);
        let part = &recording["parts"][0];
        assert_eq!([&part["video"]["codec"], &part["audio"]["codec"]], ["h264", "aac"], "{part:#}");
        let probe = Probe::read(Path::new(&text(part, "file")));
        assert!(part["durationMs"].as_u64().is_some_and(|ms| ms > 500), "{part:#}");
        assert_eq!(part["video"]["frames"].as_u64(), Some(probe.counts().0 as u64), "{part:#}");
    }
    assert_eq!(fs::read(&film).expect("the film"), before);
    assert!(house.records("notes.mp4.json").is_empty() && house.records(".part").is_empty());
    wait_until("its hook runs", SOON, || house.hook_calls().iter().any(|call| call.stream == "cut"));
    assert!(house.hook_calls().iter().all(|call| call.stream != "film"));
}
