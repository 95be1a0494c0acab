//! The outbox of all kinds on a real database: what is put in, and in which order it leaves.

use super::{
    outbox::{self, HELD_ATTEMPTS},
    testing::{self, due_of, library, part, ran, recording, recover, reopen},
    *,
};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

const A: &str = "https://user:pass@a.example/hooks/secret?token=1";
const B: &str = "https://b.example:8443/x";

/// To everything there is.
fn everywhere() -> HandOn {
    HandOn {
        hook: Some("/hooks/x.sh".into()),
        webhooks: vec![A.into(), B.into()],
        uploads: vec![UploadTo::Storage, UploadTo::Put { url: "https://u:p@c.example/dav/in?sig=1".into() }],
    }
}

fn told(a: &[&str]) -> HandOn {
    HandOn { webhooks: a.iter().map(|url| (*url).to_owned()).collect(), ..HandOn::default() }
}

fn failed(attempts: u32) -> Tried {
    Tried { attempts, error: Some("503".into()), hook: None }
}

fn body(delivery: &Delivery) -> &Value {
    match &delivery.job {
        Job::Webhook(job) => &job.event,
        other => panic!("{other:?}"),
    }
}

/// Delivers all news to `target` in its order; answers them.
async fn drain(library: &Library, target: &str) -> Vec<Value> {
    let mut bodies = Vec::new();
    loop {
        let due = due_of(library, DeliveryKind::Webhook, Utc::now()).await;
        let Some(next) = due.into_iter().find(|d| d.target == target) else { return bodies };
        bodies.push(body(&next).clone());
        library.outbox_done(next.id, &Tried { attempts: 1, ..Tried::default() }).await.unwrap();
    }
}

fn types(bodies: &[Value]) -> Vec<&str> {
    bodies.iter().map(|b| b["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_recordings_life_is_told_in_its_order_in_the_transactions_that_make_it() {
    let (_dir, library) = library().await;
    let of = recording(0);
    library.begin(&of, &told(&[A, B])).await.unwrap();
    library.update_status(&of.id, Status::Recording).await.unwrap();
    library.update_status(&of.id, Status::Paused).await.unwrap();
    library.update_status(&of.id, Status::Recording).await.unwrap();
    for number in [1, 2] {
        library.commit_part(&of.id, &part(number)).await.unwrap();
    }
    library.complete(&of.id, Utc::now(), &Lost::default()).await.unwrap();

    let letters = library.letters(&LetterFilter { limit: 100, ..LetterFilter::default() }).await.unwrap();
    assert_eq!(letters.items.len(), 10);
    // One of each line is due, the others wait for it.
    let held = letters.items.iter().filter(|l| l.state == LetterState::Held).count();
    assert_eq!(held, 8);
    let bodies = drain(&library, A).await;
    // The second part misses what the first did: that is no news.
    let wanted = ["started", "part", "degraded", "part", "completed"].map(|t| format!("recording.{t}"));
    assert_eq!(types(&bodies), wanted);
    assert_eq!(types(&drain(&library, B).await), wanted);
    let last = library.get(&of.id).await.unwrap().unwrap();
    let told = &bodies[4]["data"]["recording"];
    for field in ["id", "status", "parts", "degraded", "durationMs", "size"] {
        assert_eq!(told[field], serde_json::to_value(&last).unwrap()[field], "{field}");
    }
    assert_eq!(
        (&bodies[0]["data"]["recording"]["status"], &bodies[3]["data"]["part"]),
        (&json!("recording"), &json!(2))
    );
    assert!(bodies.iter().all(|b| DateTime::parse_from_rfc3339(b["timestamp"].as_str().unwrap()).is_ok()));
    // What is done stays with the recording, without what may be a secret.
    assert!(last.deliveries.iter().all(|d| d.state == DeliveryState::Done));
    let kept: BTreeSet<_> = last.deliveries.iter().filter_map(|d| d.target.as_deref()).collect();
    assert_eq!(kept, ["https://a.example", "https://b.example:8443"].into());
    assert_eq!(last.deliveries.len(), 10);

    let lost = recording(1);
    library.begin(&lost, &self::told(&[A])).await.unwrap();
    library.fail(&lost.id, Utc::now(), &Lost::default(), "no frame").await.unwrap();
    let bodies = drain(&library, A).await;
    assert_eq!(types(&bodies), ["recording.failed"]);
    assert_eq!(bodies[0]["data"]["recording"]["error"], "no frame");
}

#[tokio::test]
async fn a_long_recording_is_told_with_its_newest_parts() {
    let (_dir, library) = library().await;
    let of = recording(0);
    library.begin(&of, &told(&[A])).await.unwrap();
    for number in 1..=60 {
        library.commit_part(&of.id, &part(number)).await.unwrap();
    }
    let bodies = drain(&library, A).await;
    let last = &bodies.last().unwrap()["data"];
    assert_eq!((&last["partial"], last["recording"]["parts"].as_array().unwrap().len()), (&json!(true), 50));
    assert_eq!((&last["part"], &last["recording"]["parts"][0]["number"]), (&json!(60), &json!(11)));
}

#[tokio::test]
async fn each_kind_has_its_own_line_and_all_keep_one_key() {
    let (dir, library) = library().await;
    let of = recording(0);
    library.begin(&of, &everywhere()).await.unwrap();
    for number in [1, 2] {
        library.commit_part(&of.id, &part(number)).await.unwrap();
    }
    let due = async |library: &Library| {
        let mut due = BTreeMap::new();
        for kind in DeliveryKind::ALL {
            for delivery in due_of(library, kind, Utc::now()).await {
                due.insert((kind, delivery.target.clone(), delivery.part), delivery.key);
            }
        }
        due
    };
    let first = due(&library).await;
    let parts: BTreeSet<_> = first.keys().map(|(kind, _, part)| (*kind, *part)).collect();
    assert_eq!(parts, DeliveryKind::ALL.map(|kind| (kind, Some(1))).into());
    assert_eq!(first.len(), 5);
    assert!(first.values().all(|key| key.starts_with("msg_") && key.len() == 40), "{first:?}");
    library.close().await;
    // The daemon died: the next one finds the same, under the same keys.
    let next = reopen(&dir).await;
    assert_eq!(due(&next).await, first);

    let [upload, _] = &due_of(&next, DeliveryKind::Upload, Utc::now()).await[..] else { panic!("two") };
    next.outbox_progress(upload.id, &json!({"parts": [1, 2]})).await.unwrap();
    let now = Utc::now();
    next.outbox_retry(upload.id, &failed(1), now, now).await.unwrap();
    let again = due_of(&next, DeliveryKind::Upload, Utc::now()).await;
    let again = again.iter().find(|d| d.id == upload.id).unwrap();
    assert_eq!((again.progress.clone(), &again.key), (Some(json!({"parts": [1, 2]})), &upload.key));
    let of_part = again.of.as_ref().unwrap();
    assert_eq!((of_part.sha256.clone(), of_part.size), (part(1).sha256, 1000));

    let told = next.get(&of.id).await.unwrap().unwrap().deliveries;
    let upload = told.iter().find(|d| d.state == DeliveryState::Failed).unwrap();
    assert_eq!((upload.kind, upload.error.as_deref()), (DeliveryKind::Upload, Some("503")));
    assert!(upload.next_at.is_some());
    let targets: BTreeSet<_> = told.iter().filter_map(|d| d.target.as_deref()).collect();
    let wanted =
        ["/hooks/x.sh", "https://a.example", "https://b.example:8443", "https://c.example/…/in", "storage"];
    assert_eq!(targets, wanted.into());
}

#[tokio::test]
async fn what_is_given_up_is_told_to_the_others_and_can_be_tried_again() {
    let (_dir, library) = library().await;
    let of = recording(0);
    library.begin(&of, &told(&[A, B])).await.unwrap();
    library.update_status(&of.id, Status::Recording).await.unwrap();
    let due = due_of(&library, DeliveryKind::Webhook, Utc::now()).await;
    let dead = due.iter().find(|d| d.target == A).unwrap();
    library.outbox_give_up(dead.id, &failed(33)).await.unwrap();

    let bodies = drain(&library, B).await;
    assert_eq!(types(&bodies), ["recording.started", "delivery.failed"]);
    let told = &bodies[1]["data"]["delivery"];
    let wanted = json!({"key": dead.key, "kind": "webhook", "target": "https://a.example", "part": null,
        "state": "dead", "attempts": 33, "error": "503"});
    assert_eq!(*told, wanted);
    assert_eq!(bodies[1]["data"]["recording"]["id"], of.id.to_string());
    // That this news cannot be delivered is told to nobody.
    assert!(drain(&library, A).await.is_empty());
    library.complete(&of.id, Utc::now(), &Lost::default()).await.unwrap();
    drain(&library, A).await;
    drain(&library, B).await;

    let dead_ones = LetterFilter { state: Some(LetterState::Dead), limit: 10, ..LetterFilter::default() };
    let page = library.letters(&dead_ones).await.unwrap();
    let [letter] = &page.items[..] else { panic!("{page:?}") };
    assert_eq!(
        (letter.id, letter.attempts, letter.event.as_deref()),
        (dead.id, 33, Some("recording.started"))
    );
    assert_eq!(library.retry_dead(Some(DeliveryKind::Hook), None).await.unwrap(), 0);
    assert_eq!(library.retry_dead(None, Some(RecordingId::random())).await.unwrap(), 0);
    assert_eq!(library.retry_dead(Some(DeliveryKind::Webhook), Some(of.id)).await.unwrap(), 1);
    let again = due_of(&library, DeliveryKind::Webhook, Utc::now()).await;
    assert_eq!((again[0].id, again[0].attempts, again[0].first_tried_at), (dead.id, 0, None));
    assert!(library.drop_letter(dead.id).await.unwrap() && !library.drop_letter(dead.id).await.unwrap());
    assert!(!library.retry_letter(dead.id).await.unwrap());
}

#[tokio::test]
async fn who_unsubscribes_is_told_no_more_and_a_deleted_recording_has_nothing_to_deliver() {
    let (_dir, library) = library().await;
    let of = recording(0);
    library.begin(&of, &everywhere()).await.unwrap();
    library.update_status(&of.id, Status::Recording).await.unwrap();
    library.commit_part(&of.id, &part(1)).await.unwrap();
    let due = due_of(&library, DeliveryKind::Webhook, Utc::now()).await;
    let gone = due.iter().find(|d| d.target == A).unwrap();
    library.outbox_unsubscribe(gone.id, &failed(1)).await.unwrap();
    library.commit_part(&of.id, &part(2)).await.unwrap();
    library.complete(&of.id, Utc::now(), &Lost::default()).await.unwrap();
    assert!(drain(&library, A).await.is_empty());
    assert_eq!(drain(&library, B).await.len(), 5);

    library.put_event(&[B.to_owned()], "disk.low", json!({"disk": {}})).await.unwrap();
    library.delete(&of.id).await.unwrap();
    let left = library.letters(&LetterFilter { limit: 100, ..LetterFilter::default() }).await.unwrap();
    assert_eq!(left.items.iter().filter_map(|l| l.event.as_deref()).collect::<Vec<_>>(), ["disk.low"]);
    assert_eq!(left.items[0].recording_id, None);
    // An attempt that was under way ends well.
    library.outbox_done(due[0].id, &Tried::default()).await.unwrap();
    library.outbox_retry(due[0].id, &failed(1), Utc::now(), Utc::now()).await.unwrap();
    library.outbox_give_up(due[0].id, &failed(1)).await.unwrap();
    library.outbox_unsubscribe(due[0].id, &failed(1)).await.unwrap();
    let daemons = drain(&library, B).await;
    assert_eq!((types(&daemons), &daemons[0]["data"]), (vec!["disk.low"], &json!({"disk": {}})));
}

/// A recording's own webhook was forgotten by a crash: only the policy's hook ran at the next start.
#[tokio::test]
async fn a_recording_that_a_crash_left_is_handed_on_as_it_was_to_be() {
    let (dir, library) = library().await;
    let of = recording(0);
    library.begin(&of, &everywhere()).await.unwrap();
    library.update_status(&of.id, Status::Finalizing).await.unwrap();
    let file = library.storage().reserve(|_| "cam".into(), "mp4").unwrap();
    fs::write(file.path(), "frames").unwrap();
    library.begin_part(&of.id, 1, file.path(), Utc::now()).await.unwrap();
    let describe = |f: &FinishedFile| Part {
        file: f.file.clone(),
        name: f.name.clone(),
        size: f.size,
        sha256: f.sha256.clone(),
        ..part(1)
    };
    let manifest = |f: &FinishedFile| Manifest::new(Identity::from(&of), describe(f));
    library.storage().finish(file, |_| "cam".into(), manifest).unwrap();

    let next = reopen(&dir).await;
    let by_policy = testing::hooked("/hooks/other.sh");
    assert_eq!(recover(&next, &by_policy, |_| Ok(None)).await.len(), 1);
    let hooks = testing::due(&next).await;
    assert_eq!(hooks.iter().map(|d| &d.target[..]).collect::<Vec<_>>(), ["/hooks/x.sh"]);
    assert_eq!(due_of(&next, DeliveryKind::Upload, Utc::now()).await.len(), 2);
    let wanted = ["recording.part", "recording.degraded", "recording.completed"];
    assert_eq!(types(&drain(&next, A).await), wanted);
    // A file that nobody knew is handed on as the configuration says.
    let unknown = recording(1);
    let file = next.storage().reserve(|_| "new".into(), "mp4").unwrap();
    fs::write(file.path(), "more frames").unwrap();
    let manifest = |f: &FinishedFile| Manifest::new(Identity::from(&unknown), describe(f));
    next.storage().finish(file, |_| "new".into(), manifest).unwrap();
    recover(&reopen(&dir).await, &HandOn { webhooks: vec![B.into()], ..by_policy }, |_| Ok(None)).await;
    let told = drain(&next, B).await;
    let of_it: Vec<_> =
        told.iter().filter(|b| b["data"]["recording"]["id"] == unknown.id.to_string()).cloned().collect();
    assert_eq!(types(&of_it), wanted);
}

/// What is not delivered yet, of every kind, is under the same key in the catalog that takes a damaged one's place.
#[tokio::test]
async fn a_rebuilt_catalog_delivers_what_the_damaged_one_owed() {
    let (dir, library) = library().await;
    recover(&library, &HandOn::default(), |_| Ok(None)).await;
    let of = recording(0);
    library.begin(&of, &everywhere()).await.unwrap();
    library.update_status(&of.id, Status::Recording).await.unwrap();
    for number in [1, 2] {
        let file = library.storage().reserve(|_| format!("cam{number}"), "mp4").unwrap();
        fs::write(file.path(), format!("frames {number}")).unwrap();
        let describe = |f: &FinishedFile| Part {
            file: f.file.clone(),
            name: f.name.clone(),
            size: f.size,
            sha256: f.sha256.clone(),
            ..part(number)
        };
        let manifest = |f: &FinishedFile| Manifest::new(Identity::from(&of), describe(f));
        let finished = library.storage().finish(file, |_| format!("cam{number}"), manifest).unwrap();
        library.commit_part(&of.id, &describe(&finished)).await.unwrap();
    }
    library.complete(&of.id, Utc::now(), &Lost::default()).await.unwrap();
    library.put_event(&[B.to_owned()], "disk.low", json!({})).await.unwrap();
    // One is done, one is dead.
    library.outbox_done(testing::due(&library).await[0].id, &ran(0, 1)).await.unwrap();
    let upload = due_of(&library, DeliveryKind::Upload, Utc::now()).await.remove(0);
    library.outbox_give_up(upload.id, &failed(9)).await.unwrap();
    let all = LetterFilter { limit: 1000, ..LetterFilter::default() };
    let mut before = library.letters(&all).await.unwrap().items;
    library.close().await;
    let catalog = dir.path().join("state/reeld.db");
    let pool = sqlx::SqlitePool::connect_with(options(catalog.to_str().unwrap()).unwrap()).await.unwrap();
    sqlx::query("UPDATE recording SET status = 'nonsense'").execute(&pool).await.unwrap();
    pool.close().await;

    let next = reopen(&dir).await;
    let news = next.letters(&all).await.unwrap().items;
    assert_eq!(news.iter().filter_map(|l| l.event.as_deref()).collect::<Vec<_>>(), ["disk.low"]);
    recover(&next, &testing::hooked("/hooks/other.sh"), |_| Ok(None)).await;
    let mut after = next.letters(&all).await.unwrap().items;
    for letters in [&mut before, &mut after] {
        letters.sort_by(|a, b| a.key.cmp(&b.key));
        letters.iter_mut().for_each(|letter| letter.id = 0);
    }
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_hundred_thousand_entries_are_found_by_an_index() {
    let (_dir, library) = library().await;
    let now = Utc::now();
    let not_to = ["a".to_owned()];
    let due = Due { kind: DeliveryKind::Webhook, now, limit: 4, without: &[1, 2], not_to: &not_to };
    let due = outbox::due_query(&due).into_string();
    let next = "SELECT min(next_at_ms) FROM outbox WHERE kind = ? AND state = 'waiting' AND next_at_ms > ?";
    for (query, index) in [
        (due.as_str(), "outbox_by_time"),
        (next, "outbox_by_time"),
        (outbox::HOLDS, "outbox_by_line"),
        (outbox::RELEASE, "outbox_by_line"),
        ("SELECT * FROM outbox WHERE id > ? AND state = 'dead' ORDER BY id LIMIT ?", "outbox_by_state"),
        ("SELECT * FROM outbox WHERE recording_id IN (?, ?)", "outbox_by_line"),
    ] {
        let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"));
        let rows = sqlx::query(explained).fetch_all(library.readers()).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get(row, "detail")).collect();
        assert!(plan.iter().any(|step| step.contains(index)), "{query}: {plan:?}");
        let walks = |step: &&String| {
            step.contains("SCAN outbox") || step.contains("SCAN o ") || step.contains("TEMP B-TREE")
        };
        assert_eq!(plan.iter().find(walks), None, "{query}: {plan:?}");
    }
}

/// What may happen to the outbox.
#[derive(Clone, Debug)]
enum Step {
    /// A part of this recording is finished.
    Commit(usize),
    /// One that is due succeeds, fails, or is given up.
    Done(Index),
    Fail(Index),
    GiveUp(Index),
    RetryDead,
    Drop(Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3_usize).prop_map(Step::Commit),
        4 => any::<Index>().prop_map(Step::Done),
        6 => any::<Index>().prop_map(Step::Fail),
        1 => any::<Index>().prop_map(Step::GiveUp),
        1 => Just(Step::RetryDead),
        1 => any::<Index>().prop_map(Step::Drop),
    ]
}

/// Everything that was put in, by its key: (line, place).
type Put = BTreeMap<String, (String, u32)>;

struct Model {
    library: Library,
    recordings: Vec<(Recording, u32)>,
    /// Once given up: such a one holds nobody back.
    given_up: BTreeSet<String>,
    out: BTreeSet<String>,
}

impl Model {
    async fn new(dir: &tempfile::TempDir) -> Self {
        let library = Library::in_memory(Storage::open(dir.path()).unwrap()).await.unwrap();
        let mut recordings = Vec::new();
        for second in 0..3 {
            let of = recording(second);
            library.begin(&of, &everywhere()).await.unwrap();
            recordings.push((of, 0));
        }
        Self { library, recordings, given_up: BTreeSet::new(), out: BTreeSet::new() }
    }

    async fn due(&self) -> Vec<Delivery> {
        let mut due = Vec::new();
        for kind in DeliveryKind::ALL {
            due.extend(due_of(&self.library, kind, Utc::now() + TimeDelta::days(9)).await);
        }
        due
    }

    async fn take(&mut self, step: Step) {
        let due = self.due().await;
        let pick = |index: Index| (!due.is_empty()).then(|| index.get(&due).clone());
        let now = Utc::now();
        match step {
            Step::Commit(of) => {
                let (recording, parts) = &mut self.recordings[of];
                *parts += 1;
                self.library.commit_part(&recording.id, &part(*parts)).await.unwrap();
            }
            Step::Done(index) => {
                let Some(one) = pick(index) else { return };
                self.library.outbox_done(one.id, &failed(one.attempts + 1)).await.unwrap();
                self.out.insert(one.key);
            }
            Step::Fail(index) => {
                let Some(one) = pick(index) else { return };
                let (tried, next) = (failed(one.attempts + 1), now + TimeDelta::hours(1));
                self.library.outbox_retry(one.id, &tried, now, next).await.unwrap();
            }
            Step::GiveUp(index) => {
                let Some(one) = pick(index) else { return };
                self.library.outbox_give_up(one.id, &failed(one.attempts + 1)).await.unwrap();
                self.given_up.insert(one.key);
            }
            Step::RetryDead => _ = self.library.retry_dead(None, None).await.unwrap(),
            Step::Drop(index) => {
                let Some(one) = pick(index) else { return };
                assert!(self.library.drop_letter(one.id).await.unwrap());
                self.out.insert(one.key);
            }
        }
    }

    /// Entries as (key, line, place, state, attempts), in the order of their lines.
    async fn entries(&self) -> Vec<(String, String, u32, String, u32)> {
        sqlx::query_as(
            "SELECT key, recording_id || kind || target, CASE kind WHEN 'webhook' THEN id ELSE place END, state, \
             attempts FROM outbox ORDER BY 2, 3",
        )
        .fetch_all(self.library.readers())
        .await
        .unwrap()
    }

    /// No entry is due while an earlier one of its line may still be delivered before it, and none waits for nothing.
    async fn check(&self) {
        let entries = self.entries().await;
        let is_held = |state: &str| state == "held";
        for (index, (key, line, _, state, _)) in entries.iter().enumerate() {
            let before = entries[..index].iter().filter(|e| e.1 == *line);
            let holds = |e: &&(String, String, u32, String, u32)| {
                is_held(&e.3) || (e.3 == "waiting" && e.4 < HELD_ATTEMPTS && !self.given_up.contains(&e.0))
            };
            let held_back = before.clone().any(|e| holds(&e));
            if state == "waiting" && !self.given_up.contains(key) {
                assert!(!held_back, "{key} is due before its turn: {entries:#?}");
            }
            assert_eq!(is_held(state), held_back, "{key} is {state}: {entries:#?}");
        }
    }

    /// Delivers all that is left, and looks that nothing was lost.
    async fn finish(mut self, put: &Put) {
        self.library.retry_dead(None, None).await.unwrap();
        for _ in 0..1_000 {
            let due = self.due().await;
            if due.is_empty() {
                break;
            }
            for one in due {
                self.library.outbox_done(one.id, &failed(1)).await.unwrap();
                self.out.insert(one.key);
            }
        }
        assert_eq!(self.entries().await, []);
        assert_eq!(self.out, put.keys().cloned().collect());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn lines_keep_their_order_and_lose_nothing(steps in vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut model = Model::new(&dir).await;
            let mut put = Put::new();
            for step in steps {
                model.take(step).await;
                model.check().await;
                put.extend(model.entries().await.into_iter().map(|e| (e.0, (e.1, e.2))));
            }
            model.finish(&put).await;
        });
    }
}
