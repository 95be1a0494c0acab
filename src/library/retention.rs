//! Which recordings go to make room: the ones that ended first, and none that is locked, under way, or still to be
//! delivered (what was given up counts as that).

use super::{
    Library, LibraryError, RecordingId,
    catalog::{count_of, get, id_of, time_of},
    sql,
};
use crate::config::RetentionRule;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::sqlite::SqliteRow;
use std::{fmt, sync::atomic::Ordering};

/// Rows that one look reads.
const PAGE: u32 = 200;

/// The next page of those that are not locked, after this end time and id. `?3`: rows.
const ENDED_FIRST: &str = "SELECT id, ended_at_ms, \
     (SELECT coalesce(sum(p.size), 0) FROM part p WHERE p.recording_id = recording.id AND p.local = 1) AS size, \
     EXISTS (SELECT 1 FROM outbox WHERE outbox.recording_id = recording.id) AS undelivered, \
     EXISTS (SELECT 1 FROM writing WHERE writing.recording_id = recording.id) AS unfinished \
     FROM recording INDEXED BY recording_by_end \
     WHERE locked = 0 AND ended_at_ms IS NOT NULL AND (ended_at_ms, id) > (?1, ?2) ORDER BY ended_at_ms, id LIMIT ?3";

const BYTES_HELD: &str =
    "SELECT max(0, bytes - (SELECT coalesce(sum(size), 0) FROM part WHERE local = 0)) AS bytes FROM held";

/// One that is not locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub id: RecordingId,
    pub ended_at: DateTime<Utc>,
    /// Of its finished files that are here, and not in the store only.
    pub bytes: u64,
    /// Something is still to be done with its files.
    undelivered: bool,
    /// A file of it waits to be made whole.
    unfinished: bool,
}

/// What is held, and what is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    /// Of all recordings.
    pub bytes: u64,
    /// Of the disk of the records.
    pub free_bytes: u64,
    pub disk_bytes: u64,
}

/// Why a recording is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletedFor {
    Age,
    Bytes,
    Free,
}

impl DeletedFor {
    /// The key in `[limits]` that asked for it.
    pub fn as_str(self) -> &'static str {
        match self {
            DeletedFor::Age => "retention_age",
            DeletedFor::Bytes => "retention_bytes",
            DeletedFor::Free => "retention_free",
        }
    }
}

impl fmt::Display for DeletedFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which of `page` go, and why; `stock` is then what will be. False when the rest need not be looked at.
///
/// What is deleted counts as free at once: while somebody still reads a file, its room is not free yet, and more would
/// go than has to.
pub fn select(
    rule: &RetentionRule,
    page: &[Ended],
    stock: &mut Stock,
    now: DateTime<Utc>,
) -> (Vec<(RecordingId, DeletedFor)>, bool) {
    let mut selected = Vec::new();
    for ended in page {
        let Some(why) = reason(rule, ended, stock, now) else { return (selected, false) };
        // What is in the store only makes no room here.
        let makes_no_room = ended.unfinished || ended.bytes == 0;
        if ended.undelivered || (makes_no_room && why != DeletedFor::Age) {
            continue;
        }
        stock.bytes = stock.bytes.saturating_sub(ended.bytes);
        stock.free_bytes = stock.free_bytes.saturating_add(ended.bytes);
        selected.push((ended.id, why));
    }
    (selected, !page.is_empty())
}

fn reason(rule: &RetentionRule, ended: &Ended, stock: &Stock, now: DateTime<Utc>) -> Option<DeletedFor> {
    let age = rule.age.and_then(|age| TimeDelta::from_std(age).ok());
    if age.is_some_and(|age| now - ended.ended_at > age) {
        return Some(DeletedFor::Age);
    }
    if rule.bytes.is_some_and(|most| stock.bytes > most) {
        return Some(DeletedFor::Bytes);
    }
    let wanted = rule.free.map(|free| free.of(stock.disk_bytes));
    wanted.filter(|wanted| stock.free_bytes < *wanted).map(|_| DeletedFor::Free)
}

impl Library {
    /// Those that are not locked, the one that ended first before the others; after `last`. A few at a time, and none when
    /// there are no more.
    pub async fn ended_first(&self, last: Option<&Ended>) -> Result<Vec<Ended>, LibraryError> {
        let (ms, id) = last.map_or((i64::MIN, String::new()), |last| {
            (last.ended_at.timestamp_millis(), last.id.to_string())
        });
        let rows = sqlx::query(ENDED_FIRST).bind(ms).bind(id).bind(PAGE).fetch_all(self.readers()).await;
        rows.map_err(sql("look for the oldest recordings"))?.iter().map(ended_of).collect()
    }

    /// Bytes of all finished files that are here.
    pub async fn bytes_held(&self) -> Result<u64, LibraryError> {
        let row = sqlx::query(BYTES_HELD).fetch_one(self.readers()).await;
        count_of(&row.map_err(sql("read how much is held"))?, "bytes")
    }

    /// Whether what a daemon left behind is being made whole and entered.
    pub fn is_recovering(&self) -> bool {
        self.inner.recovering.load(Ordering::SeqCst) > 0
    }
}

fn ended_of(row: &SqliteRow) -> Result<Ended, LibraryError> {
    Ok(Ended {
        id: id_of(row, "id")?,
        ended_at: time_of(row, "ended_at_ms")?,
        bytes: count_of(row, "size")?,
        undelivered: get(row, "undelivered")?,
        unfinished: get(row, "unfinished")?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::{
        config::Space,
        library::{HandOn, Lost},
    };
    use sqlx::Row;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Of 100 bytes, `hours` ago.
    fn ended(hours: i64) -> Ended {
        Ended {
            id: RecordingId::random(),
            ended_at: Utc::now() - TimeDelta::hours(hours),
            bytes: 100,
            undelivered: false,
            unfinished: false,
        }
    }

    #[test]
    fn the_oldest_go_as_far_as_a_rule_asks() {
        use DeletedFor::{Age, Bytes, Free};
        let undelivered = Ended { undelivered: true, ..ended(6) };
        let unfinished = Ended { unfinished: true, ..ended(5) };
        let page = [ended(7), undelivered, unfinished, ended(4), ended(3), ended(2)];
        let stock = Stock { bytes: 600, free_bytes: 50, disk_bytes: 1000 };
        let off = RetentionRule::default();
        let cases: [(RetentionRule, &[(usize, DeletedFor)]); 7] = [
            (off, &[]),
            (RetentionRule { age: Some(HOUR * 7 / 2), ..off }, &[(0, Age), (2, Age), (3, Age)]),
            (RetentionRule { bytes: Some(600), ..off }, &[]),
            (RetentionRule { bytes: Some(350), ..off }, &[(0, Bytes), (3, Bytes), (4, Bytes)]),
            (RetentionRule { free: Some(Space::Bytes(151)), ..off }, &[(0, Free), (3, Free)]),
            (RetentionRule { free: Some(Space::Share(1500)), ..off }, &[(0, Free)]),
            (
                RetentionRule { age: Some(HOUR * 13 / 2), bytes: Some(400), free: Some(Space::Bytes(300)) },
                &[(0, Age), (3, Bytes), (4, Free)],
            ),
        ];
        for (rule, wanted) in cases {
            let (selected, _) = select(&rule, &page, &mut stock.clone(), Utc::now());
            let wanted: Vec<_> = wanted.iter().map(|(n, why)| (page[*n].id, *why)).collect();
            assert_eq!(selected, wanted, "{rule:?}");
        }
    }

    #[test]
    fn pages_are_read_until_a_rule_asks_for_no_more() {
        let rule = RetentionRule { bytes: Some(0), ..RetentionRule::default() };
        let mut stock = Stock { bytes: 200, free_bytes: 0, disk_bytes: 0 };
        assert!(select(&rule, &[ended(3), ended(2)], &mut stock, Utc::now()).1, "there may be more");
        assert_eq!(stock.bytes, 0);
        assert!(!select(&rule, &[ended(1)], &mut stock, Utc::now()).1);
        assert!(!select(&rule, &[], &mut Stock { bytes: 9, ..stock }, Utc::now()).1, "there are none");
    }

    #[tokio::test]
    async fn the_oldest_are_found_without_the_locked_and_the_running() {
        let (_dir, library) = testing::library().await;
        let now = Utc::now();
        let mut ids = Vec::new();
        for n in 0..5_i64 {
            let recording = testing::recording(n);
            let hook = (n == 1).then(|| "/hook".into());
            library.begin(&recording, &HandOn { hook, ..HandOn::default() }).await.unwrap();
            let part = crate::library::Part { file: format!("/records/{n}.mp4").into(), ..testing::part(1) };
            library.commit_part(&recording.id, &part).await.unwrap();
            if n != 4 {
                // The later they began, the earlier they ended.
                let at = now - TimeDelta::seconds(n);
                library.complete(&recording.id, at, &Lost::default()).await.unwrap();
            }
            ids.push(recording.id);
        }
        library.set_locked(&ids[2], true).await.unwrap();
        let found = library.ended_first(None).await.unwrap();
        assert_eq!(found.iter().map(|e| e.id).collect::<Vec<_>>(), [ids[3], ids[1], ids[0]]);
        assert_eq!(found.iter().map(|e| e.undelivered).collect::<Vec<_>>(), [false, true, false]);
        let rest = library.ended_first(Some(&found[0])).await.unwrap();
        assert_eq!(rest, found[1..]);
        assert_eq!(library.bytes_held().await.unwrap(), 5_000);
        library.delete(&ids[3]).await.unwrap();
        assert_eq!(library.bytes_held().await.unwrap(), 4_000);
    }

    /// They were deleted from the store to make room here, one after the other, and made none.
    #[tokio::test]
    async fn what_is_in_the_store_only_makes_no_room() {
        let (_dir, library) = testing::library().await;
        let recording = testing::recording(0);
        library.begin(&recording, &HandOn::default()).await.unwrap();
        library.commit_part(&recording.id, &testing::part(1)).await.unwrap();
        library.complete(&recording.id, Utc::now(), &Lost::default()).await.unwrap();
        let held = library.bytes_held().await.unwrap();
        assert!(held > 0);
        let mut tx = library.write("send it away").await.unwrap();
        sqlx::query("UPDATE part SET local = 0, remote = 's3://b/x'").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(library.bytes_held().await.unwrap(), 0);
        let page = library.ended_first(None).await.unwrap();
        assert_eq!(page.iter().map(|e| e.bytes).collect::<Vec<_>>(), [0]);
        let stock = Stock { bytes: held, free_bytes: 0, disk_bytes: 1 << 40 };
        let off = RetentionRule::default();
        let later = Utc::now() + TimeDelta::seconds(1);
        for (rule, deleted) in [
            (RetentionRule { bytes: Some(1), ..off }, 0),
            (RetentionRule { free: Some(Space::Bytes(1 << 40)), ..off }, 0),
            (RetentionRule { age: Some(Duration::ZERO), ..off }, 1),
        ] {
            assert_eq!(select(&rule, &page, &mut stock.clone(), later).0.len(), deleted, "{rule:?}");
        }
    }

    /// With a million recordings a look that sorts or scans takes seconds.
    #[tokio::test]
    async fn a_look_walks_its_index() {
        let (_dir, library) = testing::library().await;
        let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {ENDED_FIRST}")));
        let rows = plan.bind(0).bind("").bind(1).fetch_all(library.readers()).await.unwrap();
        let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let walk = "SEARCH recording USING COVERING INDEX recording_by_end ((ended_at_ms,id)>(?,?))";
        assert_eq!(steps[0], walk, "{steps:?}");
        assert!(steps.iter().all(|s| !s.starts_with("SCAN") && !s.contains("TEMP B-TREE")), "{steps:?}");
    }
}
