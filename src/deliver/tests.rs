//! Real scripts, a real catalog.

use super::{worker::LONGEST_SLEEP, *};
use crate::library::{
    DeliveredPart, Delivery, HandOn, HookJob, HookResult, Job, LetterFilter, LetterState, Recording,
    RecordingId, Status,
    testing::{self, library, part},
};
use chrono::{DateTime, Utc};
use std::{path::Path, process::Command};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// Writes an executable script. Through another process: a script that this one had open for writing while a
/// test beside it forks could not be started ("text file busy").
fn script(dir: &TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("hook.sh");
    let write = "printf '%s' \"$2\" > \"$1\" && chmod +x \"$1\"";
    let status = Command::new("/bin/sh").args(["-c", write, "sh"]).arg(&path).arg(text).status().unwrap();
    assert!(status.success());
    path
}

fn settings(dir: &TempDir) -> Settings {
    let mut settings = Settings::new(dir.path().into());
    settings.retry.first = Duration::from_millis(10);
    settings
}

fn delivery(script: PathBuf, stream_name: &str, file: &str) -> Delivery {
    let recording = testing::recording(0);
    Delivery {
        id: 1,
        key: "msg_1".into(),
        recording: Some(recording.id),
        part: Some(3),
        kind: DeliveryKind::Hook,
        target: script.to_string_lossy().into_owned(),
        attempts: 0,
        first_tried_at: None,
        job: Job::Hook(HookJob { script, status: Status::Completed }),
        progress: None,
        of: Some(DeliveredPart {
            stream_name: stream_name.into(),
            room_name: "the room".into(),
            media_session_id: recording.media_session_id,
            container: "mp4".into(),
            file: file.into(),
            name: "cam.mp4".into(),
            poster: None,
            started_at: recording.started_at,
            duration_ms: 2500,
            size: 77,
            sha256: "ab".repeat(32),
            has_video: true,
        }),
    }
}

async fn run_of(delivery: &Delivery, settings: &Settings) -> hook::Run {
    let (Job::Hook(job), Some(part)) = (&delivery.job, &delivery.of) else { panic!("{delivery:?}") };
    hook::run(delivery, job, part, &settings.hooks).await
}

async fn run(dir: &TempDir, text: &str) -> hook::Run {
    run_of(&delivery(script(dir, text), "cam", "/records/cam.mp4"), &settings(dir)).await
}

/// Enters a recording with so many parts, each with its hook.
async fn recorded(library: &Library, script: &Path, parts: u32) -> Recording {
    let recording = testing::recording(0);
    library.begin(&recording, &testing::hooked(script)).await.unwrap();
    for number in 1..=parts {
        library.commit_part(&recording.id, &part(number)).await.unwrap();
    }
    recording
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

async fn hooks(library: &Library, id: &RecordingId) -> Vec<Option<HookResult>> {
    library.get(id).await.unwrap().unwrap().parts.into_iter().map(|p| p.hook).collect()
}

async fn all_succeeded(library: &Library, id: &RecordingId) -> Vec<HookResult> {
    until("every hook to succeed", async || {
        let done: Option<Vec<_>> = hooks(library, id).await.into_iter().collect();
        done.filter(|all| all.iter().all(|h| h.exit == Some(0)))
    })
    .await
}

async fn due(library: &Library) -> usize {
    testing::due_at(library, DateTime::<Utc>::MAX_UTC).await.len()
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[tokio::test]
async fn names_reach_the_script_as_they_are() {
    let nasty = "it's a \"name\"; $(touch pwned) `touch pwned` * ${HOME} \\ | > x & \u{2028}é";
    for (shebang, name) in
        [("#!/bin/sh\n", nasty), ("", nasty), ("#!/bin/sh\n", "-rf"), ("", "-c"), ("", "--help")]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = script(&dir, &format!("{shebang}printf '%s\\0' \"$#\" \"$1\" \"$2\"\n"));
        let file = format!("/records/{nasty}.mp4");
        let run = run_of(&delivery(path, name, &file), &settings(&dir)).await;
        assert_eq!(run, hook::Run { exit: Some(0), output: format!("2\0{name}\0{file}\0") });
        assert!(!dir.path().join("pwned").exists());
    }
}

#[tokio::test]
async fn the_environment_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(&dir, "#!/bin/sh\npwd\nenv | grep -v '^_=' | cut -d= -f1 | sort | tr '\\n' ' '; echo\n\
                         echo $REELD_ROOM,$REELD_PART,$REELD_DURATION_MS,$REELD_SIZE,$REELD_CONTAINER,$REELD_STATUS,$REELD_DELIVERY_ID\n\
                         echo $REELD_MANIFEST; cat\n")
    .await;
    assert_eq!(run.exit, Some(0));
    let lines: Vec<_> = run.output.lines().collect();
    assert_eq!(Path::new(lines[0]).canonicalize().unwrap(), dir.path().canonicalize().unwrap());
    let known = ["PATH", "HOME", "LANG", "TZ", "USER", "PWD", "OLDPWD", "SHLVL"];
    let others: Vec<_> = lines[1].split(' ').filter(|n| !n.is_empty() && !known.contains(n)).collect();
    assert_eq!(others.len(), 9, "{others:?}");
    assert!(others.iter().all(|n| n.starts_with("REELD_")), "{others:?}");
    assert_eq!(lines[2..], ["the room,3,2500,77,mp4,completed,msg_1", "/records/cam.mp4.json"]);
}

/// The example of Flashphoner's manual has no `#!` line and needs bash.
#[tokio::test]
async fn the_manuals_example_works_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display();
    std::fs::create_dir_all(dir.path().join("records")).unwrap();
    std::fs::create_dir_all(dir.path().join("html")).unwrap();
    std::fs::write(dir.path().join("records/a.mp4"), "film").unwrap();
    let path = script(
        &dir,
        &format!(
            "STREAM_NAME=$1\nSRC_FILE=$2\nSRC_DIR=\"{root}/records/\"\n\
             REPLACE_STR=\"{root}/html/$STREAM_NAME-\"\n\
             DST_FILE=\"${{SRC_FILE/$SRC_DIR/$REPLACE_STR}}\"\ncp $SRC_FILE $DST_FILE\n"
        ),
    );
    let run = run_of(&delivery(path, "cam", &format!("{root}/records/a.mp4")), &settings(&dir)).await;
    assert_eq!(run, hook::Run { exit: Some(0), output: String::new() });
    assert_eq!(std::fs::read(dir.path().join("html/cam-a.mp4")).unwrap(), b"film");
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let missing = delivery(dir.path().join("none.sh"), "cam", "/x.mp4");
    let said = run_of(&missing, &settings(&dir)).await.output;
    assert!(said.contains("none.sh: there is no such file"), "{said}");

    let path = script(&dir, "#!/nowhere/interpreter\n");
    let said = run_of(&delivery(path.clone(), "cam", "/x.mp4"), &settings(&dir)).await.output;
    assert!(said.contains("its first line names is missing"), "{said}");

    let plain = dir.path().join("plain.sh");
    std::fs::write(&plain, "exit 0").unwrap();
    let said = run_of(&delivery(plain.clone(), "cam", "/x.mp4"), &settings(&dir)).await;
    assert_eq!(said.exit, None);
    assert!(said.output.contains(&format!("chmod +x {}", plain.display())), "{}", said.output);

    let gone = Settings::new(dir.path().join("gone"));
    let said = run_of(&delivery(path, "cam", "/x.mp4"), &gone).await.output;
    assert!(said.contains("gone it is to run in is missing"), "{said}");
}

#[tokio::test]
async fn how_it_ended_and_the_end_of_its_output_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let failed = run(&dir, "#!/bin/sh\nseq 1 100000\necho oops >&2\nexit 3\n").await;
    assert_eq!(failed.exit, Some(3));
    assert!(failed.output.len() <= 8192 && failed.output.ends_with("99999\n100000\noops\n"));

    let killed = run(&dir, "#!/bin/sh\necho bye\nkill -9 $$\n").await;
    assert_eq!(killed, hook::Run { exit: None, output: "bye\n[reeld: killed by signal 9]\n".into() });
}

#[tokio::test]
async fn the_time_limit_ends_all_that_the_script_started() {
    let dir = tempfile::tempdir().unwrap();
    // It ignores SIGTERM, and so does its child.
    let path = script(&dir, "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\necho $! > child\necho begun\nwait\n");
    let mut settings = settings(&dir);
    settings.hooks.timeout = Duration::from_millis(300);
    let run = run_of(&delivery(path, "cam", "/x.mp4"), &settings).await;
    assert_eq!(run.exit, None);
    assert!(run.output.starts_with("begun\n[reeld: ended after its time limit of 0.3 s]"), "{}", run.output);
    let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
    until("the child to be gone", async || (!is_alive(&child)).then_some(())).await;
}

#[tokio::test]
async fn a_child_that_keeps_the_output_open_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let left = run(&dir, "#!/bin/sh\nsleep 1000 &\necho $! > child\necho done\n").await;
    assert_eq!(left.exit, Some(0));
    assert!(left.output.starts_with("done\n[reeld: what the script left running"), "{}", left.output);
    assert!(begun.elapsed() < PATIENCE);
    let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
    until("the child to be gone", async || (!is_alive(&child)).then_some(())).await;

    // One with its output elsewhere may go on.
    let quiet = run(&dir, "#!/bin/sh\nsleep 1000 >/dev/null 2>&1 &\necho $! > child\n").await;
    assert_eq!(quiet, hook::Run { exit: Some(0), output: String::new() });
    let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
    assert!(is_alive(&child));
    let pid = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn parts_come_in_order_and_a_failure_is_tried_again() {
    let (dir, library) = library().await;
    // Part 2 fails twice.
    let path = script(
        &dir,
        "#!/bin/sh\necho $REELD_PART >> log\n[ $REELD_PART != 2 ] || [ $(grep -c 2 log) = 3 ]\n",
    );
    let recording = recorded(&library, &path, 3).await;
    let deliveries = Deliveries::start(library.clone(), settings(&dir), |_| {});
    let results = all_succeeded(&library, &recording.id).await;
    assert_eq!(results.iter().map(|r| r.attempts).collect::<Vec<_>>(), [1, 3, 1]);
    assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), "1\n2\n2\n2\n3\n");
    assert_eq!(due(&library).await, 0);
    deliveries.drain(PATIENCE).await;
}

#[tokio::test]
async fn a_wake_starts_the_hook() {
    let (dir, library) = library().await;
    let path = script(&dir, "#!/bin/sh\nexit 0\n");
    let deliveries = Deliveries::start(library.clone(), settings(&dir), |_| {});
    // The first is through, so that the worker sleeps when the second is committed.
    for _ in 0..2 {
        let recording = recorded(&library, &path, 1).await;
        let begun = Instant::now();
        deliveries.waker().wake();
        all_succeeded(&library, &recording.id).await;
        assert!(begun.elapsed() < LONGEST_SLEEP / 2);
    }
}

#[tokio::test]
async fn what_fails_for_too_long_is_given_up() {
    let (dir, library) = library().await;
    let mut settings = settings(&dir);
    settings.retry.give_up_after = Duration::from_millis(1);
    let recording = recorded(&library, &script(&dir, "#!/bin/sh\nexit 7\n"), 1).await;
    let deliveries = Deliveries::start(library.clone(), settings, |_| {});
    until("the entry to be dead", async || (due(&library).await == 0).then_some(())).await;
    let result = hooks(&library, &recording.id).await.remove(0).unwrap();
    assert_eq!((result.exit, result.attempts), (Some(7), 2));
    deliveries.drain(PATIENCE).await;
}

#[tokio::test]
async fn draining_runs_what_was_never_tried_and_starts_no_retry() {
    let (dir, library) = library().await;
    let path = script(&dir, "#!/bin/sh\necho $REELD_PART >> log\n[ \"$1\" = cam ]\n");
    let good = recorded(&library, &path, 3).await;
    let mut bad = testing::recording(1);
    bad.stream_name = "bad".into();
    library.begin(&bad, &testing::hooked(path)).await.unwrap();
    library.commit_part(&bad.id, &part(1)).await.unwrap();

    let mut settings = settings(&dir);
    settings.retry.first = Duration::ZERO;
    Deliveries::start(library.clone(), settings, |_| {}).drain(PATIENCE).await;
    assert!(hooks(&library, &good.id).await.iter().all(|h| h.as_ref().is_some_and(|h| h.exit == Some(0))));
    let result = hooks(&library, &bad.id).await.remove(0).unwrap();
    assert_eq!((result.exit, result.attempts), (Some(1), 1));
    assert_eq!(due(&library).await, 1);
}

#[tokio::test]
async fn what_is_cut_off_runs_at_the_next_start() {
    for by_drain in [true, false] {
        let (dir, library) = library().await;
        let path = script(
            &dir,
            "#!/bin/sh\n[ -e again ] && exit 0\necho $$ > pid.new; mv pid.new pid\nsleep 1000\n",
        );
        let recording = recorded(&library, &path, 1).await;
        let deliveries = Deliveries::start(library.clone(), settings(&dir), |_| {});
        let pid =
            until("the script to run", async || std::fs::read_to_string(dir.path().join("pid")).ok()).await;
        match by_drain {
            true => deliveries.drain(Duration::from_millis(10)).await,
            false => drop(deliveries),
        }
        until("the script to be gone", async || (!is_alive(&pid)).then_some(())).await;
        assert_eq!(hooks(&library, &recording.id).await, [None]);

        std::fs::write(dir.path().join("again"), "").unwrap();
        let next = testing::reopen(&dir).await;
        let deliveries = Deliveries::start(next.clone(), settings(&dir), |_| {});
        assert_eq!(all_succeeded(&next, &recording.id).await[0].attempts, 1);
        deliveries.drain(PATIENCE).await;
    }
}

#[tokio::test]
async fn no_more_scripts_run_at_once_than_are_allowed() {
    let (dir, library) = library().await;
    let path = script(&dir, "#!/bin/sh\necho + >> log\nsleep 0.1\necho - >> log\n");
    let mut recordings = Vec::new();
    for _ in 0..6 {
        recordings.push(recorded(&library, &path, 1).await);
    }
    let mut settings = settings(&dir);
    settings.hooks.concurrency = 2;
    Deliveries::start(library.clone(), settings, |_| {}).drain(PATIENCE).await;
    for recording in recordings {
        assert_eq!(all_succeeded(&library, &recording.id).await.len(), 1);
    }
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let running = log.lines().scan(0, |n, line| {
        *n += if line == "+" { 1 } else { -1 };
        Some(*n)
    });
    assert_eq!(running.max(), Some(2));
}

/// The workers of other kinds slept on: news of a dead hook came a minute late.
#[tokio::test]
async fn webhooks_are_told_at_once_of_a_hook_that_is_given_up() {
    let (dir, library) = library().await;
    let mut settings = settings(&dir);
    settings.retry.give_up_after = Duration::from_millis(1);
    let recording = testing::recording(0);
    let hand_on = HandOn {
        webhooks: vec!["http://127.0.0.1:1/".into()],
        ..testing::hooked(script(&dir, "#!/bin/sh\nexit 7\n"))
    };
    library.begin(&recording, &hand_on).await.unwrap();
    let deliveries = Deliveries::start(library.clone(), settings, |_| {});
    library.commit_part(&recording.id, &part(1)).await.unwrap();
    let begun = Instant::now();
    deliveries.waker().wake();
    until("the news to be tried", async || {
        let all = LetterFilter { limit: 100, ..LetterFilter::default() };
        let letters = library.letters(&all).await.unwrap().items;
        let news = letters.iter().find(|l| l.event.as_deref() == Some("delivery.failed"))?;
        (news.state != LetterState::Pending).then_some(())
    })
    .await;
    assert!(begun.elapsed() < LONGEST_SLEEP / 2);
}
