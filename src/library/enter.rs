//! Finished files that the catalog does not know, entered from their manifests.

use super::{
    HandOn, Health, Identity, Library, LibraryError, Lost, Manifest, Part, PartLost, Recording, RecordingId,
    Status, Storage,
    catalog::{
        from_json, get, insert_part, insert_recording, path_text, recording_of, time_of, to_json, to_sql,
    },
    files::poster_of,
    health,
    outbox::{self, News},
    sql,
    storage::{io_error, measure, rename_new},
};
use crate::media::{Gap, GapKind};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::SqliteConnection;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// Files that are entered in one transaction: others who write wait for it.
const BATCH: usize = 200;
/// Gaps of one recording that are told; of more only what is lost is counted.
const MAX_GAPS: usize = 1_000;
/// Files that are named in the log one by one.
pub(super) const MAX_TOLD: usize = 20;

/// A finished file, and whether it is to be handed on.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub identity: Identity,
    pub part: Part,
    /// Of its recording, while it was written.
    pub health: Vec<Health>,
    pub recovered: bool,
    pub hand_on: bool,
}

/// What became of files that the catalog did not know.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entered {
    pub parts: usize,
    /// Of these.
    pub handed_on: usize,
    /// Known, under a name they had before.
    pub moved: usize,
    /// Not entered: another file is that part, or its recording has not ended.
    pub left: Vec<PathBuf>,
}

impl Entered {
    pub fn add(&mut self, other: Self) {
        self.parts += other.parts;
        self.handed_on += other.handed_on;
        self.moved += other.moved;
        self.left.extend(other.left);
    }
}

impl Library {
    /// Enters the files `names`, which have their manifests beside them, each handed on as `hand_on` says, but in a `rebuilt` catalog:
    /// there only what the one before still owed is. Files
    /// that were copied or renamed come last, so that the one that has its own name is the part. A file of
    /// another size than its manifest tells is entered into a `rebuilt` catalog only: the one before may have had it.
    pub(super) async fn enter_whole(
        &self,
        names: &[String],
        rebuilt: bool,
        hand_on: &HandOn,
    ) -> Result<Entered, LibraryError> {
        let mut entered = Entered::default();
        let mut renamed = Vec::new();
        for batch in names.chunks(BATCH) {
            let (folder, batch) = (self.storage().folder().to_path_buf(), batch.to_vec());
            let read = tokio::task::spawn_blocking(move || read_manifests(&folder, &batch, rebuilt)).await;
            let failed = |e| io_error("cannot search", self.storage().folder())(std::io::Error::other(e));
            let mut found = read.map_err(failed)?;
            found.iter_mut().for_each(|(_, found)| found.hand_on = !rebuilt);
            let (other, found): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|(name, found)| *name != found.part.name);
            entered.add(self.enter(found.into_iter().map(|(_, found)| found).collect(), hand_on).await?);
            renamed.extend(other.into_iter().map(|(name, found)| under_its_name(name, found)));
        }
        for batch in renamed.chunks(BATCH) {
            entered.add(self.enter(batch.to_vec(), hand_on).await?);
        }
        Ok(entered)
    }

    /// Whether this catalog was made anew, and not every file of before is entered yet.
    pub(super) async fn is_rebuilt(&self) -> Result<bool, LibraryError> {
        let row = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM rebuild)");
        row.fetch_one(self.readers()).await.map_err(sql("read whether it is new"))
    }

    /// Every file of before is entered.
    pub(super) async fn rebuilt(&self) -> Result<(), LibraryError> {
        const WHAT: &str = "note that it is filled";
        let mut tx = self.write(WHAT).await?;
        sqlx::query("DELETE FROM rebuild").execute(&mut *tx).await.map_err(sql(WHAT))?;
        let left = outbox::owed::forget(&mut tx, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))?;
        if left > 0 {
            tracing::warn!(left, "deliveries were still to be made of files that are gone");
        }
        Ok(())
    }

    /// Enters parts and, where the catalog has none, their recordings: all of them or none.
    pub(super) async fn enter(
        &self,
        mut batch: Vec<Found>,
        hand_on: &HandOn,
    ) -> Result<Entered, LibraryError> {
        const WHAT: &str = "enter files from their manifests";
        let mut entered = Entered::default();
        if batch.is_empty() {
            return Ok(entered);
        }
        // Hooks of one recording run in the order of its parts.
        batch.sort_by_key(|f| (f.identity.started_at, f.identity.id, f.part.number));
        let mut tx = self.write(WHAT).await?;
        let (mut grown, mut begun) = (BTreeSet::new(), BTreeSet::new());
        for found in batch {
            let id = found.identity.id;
            match entry(&mut tx, self.storage(), &found, hand_on, WHAT).await? {
                Entry::Known => {}
                Entry::Moved => entered.moved += 1,
                Entry::Other => entered.left.push(found.part.file),
                Entry::New { first } => {
                    insert_part(&mut tx, &id, &found.part, WHAT).await?;
                    health::add(&mut tx, &id, &found.health, WHAT).await?;
                    entered.parts += 1;
                    grown.insert(id);
                    if hand_on_found(&mut tx, &found, hand_on, WHAT).await? {
                        entered.handed_on += 1;
                        begun.extend(Some(id).filter(|_| first && found.hand_on));
                    }
                }
            }
        }
        for id in grown {
            sum_up(&mut tx, &id, WHAT).await?;
        }
        for id in begun {
            outbox::put_event(&mut tx, &id, News::Completed, WHAT).await?;
        }
        tx.commit().await.map_err(sql(WHAT))?;
        Ok(entered)
    }
}

enum Entry {
    /// A part to enter; its recording has a row. `first`: since now.
    New {
        first: bool,
    },
    Known,
    /// The row tells its new name now.
    Moved,
    /// Not for us to enter.
    Other,
}

async fn entry(
    tx: &mut SqliteConnection,
    storage: &Storage,
    found: &Found,
    hand_on: &HandOn,
    what: &'static str,
) -> Result<Entry, LibraryError> {
    let Found { identity, part, recovered, .. } = found;
    let (id, file) = (identity.id.to_string(), path_text(&part.file)?);
    let known = sqlx::query("SELECT file, sha256 FROM part WHERE recording_id = ? AND number = ?")
        .bind(&id)
        .bind(part.number)
        .fetch_optional(&mut *tx)
        .await
        .map_err(sql(what))?;
    if let Some(known) = known {
        let (its_file, its_sha256): (String, String) = (get(&known, "file")?, get(&known, "sha256")?);
        if its_file == file {
            return Ok(Entry::Known);
        }
        if its_sha256 != part.sha256 || fs::symlink_metadata(&its_file).is_ok() {
            return Ok(Entry::Other);
        }
        sqlx::query("UPDATE part SET file = ?, name = ? WHERE recording_id = ? AND number = ?")
            .bind(file)
            .bind(&part.name)
            .bind(&id)
            .bind(part.number)
            .execute(tx)
            .await
            .map_err(sql(what))?;
        return Ok(Entry::Moved);
    }
    let status: Option<String> = sqlx::query_scalar("SELECT status FROM recording WHERE id = ?")
        .bind(&id)
        .fetch_optional(&mut *tx)
        .await
        .map_err(sql(what))?;
    let first = status.is_none();
    match status.as_deref().map(Status::parse) {
        None => {
            let known = outbox::owed::hand_on_of(tx, &identity.id, what).await?;
            let hand_on = known.as_ref().unwrap_or(hand_on);
            let locked = storage.is_marked_locked(&identity.id);
            insert_recording(tx, &of_manifest(identity, *recovered, locked), hand_on, what).await?;
            outbox::owed::restore(tx, &identity.id, None, what).await?;
        }
        Some(Some(Status::Completed)) if *recovered => {
            sqlx::query("UPDATE recording SET status = 'recovered' WHERE id = ?")
                .bind(&id)
                .execute(tx)
                .await
                .map_err(sql(what))?;
        }
        Some(Some(status)) if status.is_final() => {}
        Some(_) => return Ok(Entry::Other),
    }
    Ok(Entry::New { first })
}

/// What an earlier catalog owed of a part, else what is to be done with each. False when that is nothing.
async fn hand_on_found(
    tx: &mut SqliteConnection,
    found: &Found,
    hand_on: &HandOn,
    what: &'static str,
) -> Result<bool, LibraryError> {
    let Found { identity, part, recovered, .. } = found;
    if outbox::owed::restore(tx, &identity.id, Some(part.number), what).await? > 0 {
        return Ok(true);
    }
    if found.hand_on {
        let status = if *recovered { Status::Recovered } else { Status::Completed };
        outbox::put_part(tx, &identity.id, part, status, hand_on, what).await?;
    }
    Ok(found.hand_on)
}

/// A recording of which only finished files are known.
fn of_manifest(identity: &Identity, recovered: bool, locked: bool) -> Recording {
    let identity = identity.clone();
    Recording {
        id: identity.id,
        status: if recovered { Status::Recovered } else { Status::Completed },
        degraded: Vec::new(),
        health: Vec::new(),
        room_name: identity.room_name,
        room_id: identity.room_id,
        stream_name: identity.stream_name,
        media_session_id: identity.media_session_id,
        session_id: identity.session_id,
        protocol: identity.protocol,
        container: identity.container,
        started_at_ms: identity.started_at.timestamp_millis(),
        started_at: identity.started_at,
        ended_at: None,
        duration_ms: 0,
        size: 0,
        parts: Vec::new(),
        lost: Lost::default(),
        deliveries: Vec::new(),
        error: None,
        locked,
    }
}

/// Puts together what the parts of a recording say of it. What the recording knew before, of what was lost between its
/// parts too, is kept where it is more.
async fn sum_up(tx: &mut SqliteConnection, id: &RecordingId, what: &'static str) -> Result<(), LibraryError> {
    let row = sqlx::query("SELECT * FROM recording WHERE id = ?")
        .bind(id.to_string())
        .fetch_one(&mut *tx)
        .await
        .map_err(sql(what))?;
    let recording = recording_of(&row)?;
    let rows = sqlx::query(
        "SELECT size, duration_ms, started_at_ms, gaps, lost FROM part WHERE recording_id = ? ORDER BY number",
    )
    .bind(id.to_string())
    .fetch_all(&mut *tx)
    .await
    .map_err(sql(what))?;

    let (mut size, mut duration_ms) = (0_u64, 0_u64);
    let mut ended_at = recording.ended_at.max(Some(recording.started_at));
    let mut lost = Lost::default();
    for row in &rows {
        let part_ms = get::<i64>(row, "duration_ms")?.unsigned_abs();
        let gaps: Vec<Gap> = from_json("gaps", get(row, "gaps")?)?;
        let its_lost: PartLost = from_json("lost", get(row, "lost")?)?;
        ended_at = ended_at.max(end_of(time_of(row, "started_at_ms")?, part_ms, &gaps));
        let room = MAX_GAPS.saturating_sub(lost.gaps.len());
        let shifted = |gap: Gap| Gap { at_ms: gap.at_ms.saturating_add(duration_ms), ..gap };
        lost.gaps.extend(gaps.into_iter().take(room).map(shifted));
        lost.packets = lost.packets.saturating_add(its_lost.packets);
        lost.frames = lost.frames.saturating_add(its_lost.frames);
        size = size.saturating_add(get::<i64>(row, "size")?.unsigned_abs());
        duration_ms = duration_ms.saturating_add(part_ms);
    }
    let before = recording.lost;
    lost.packets = lost.packets.max(before.packets);
    lost.frames = lost.frames.max(before.frames);
    if before.gaps.len() > lost.gaps.len() {
        lost.gaps = before.gaps;
    }
    sqlx::query("UPDATE recording SET size = ?, duration_ms = ?, ended_at_ms = ?, lost = ? WHERE id = ?")
        .bind(to_sql(size))
        .bind(to_sql(duration_ms))
        .bind(ended_at.map(|t| t.timestamp_millis()))
        .bind(to_json(&lost))
        .bind(id.to_string())
        .execute(tx)
        .await
        .map_err(sql(what))?;
    Ok(())
}

/// When the last frame of a part came: its media time, and the time that was left out of it.
pub(super) fn end_of(started_at: DateTime<Utc>, duration_ms: u64, gaps: &[Gap]) -> Option<DateTime<Utc>> {
    // One that a part begins with was over when it began.
    let in_part = |gap: &Gap| gap.at.is_none_or(|at| at >= started_at);
    let left_out = |gap: &&Gap| {
        matches!(gap.kind, GapKind::Pause | GapKind::Reconnect | GapKind::Switch) && in_part(gap)
    };
    let closed = gaps.iter().filter(left_out).map(|gap| gap.by_ms.max(0)).fold(0, i64::saturating_add);
    let length = i64::try_from(duration_ms).ok()?.checked_add(closed)?;
    started_at.checked_add_signed(TimeDelta::try_milliseconds(length)?)
}

/// The manifests of `names`, each with the name its file has. What cannot be read is logged and left out. Blocks.
fn read_manifests(folder: &Path, names: &[String], any_size: bool) -> Vec<(String, Found)> {
    let read = |name: &String| match read_manifest(folder, name, any_size) {
        Ok(found) => Some((name.clone(), found)),
        Err(error) => {
            tracing::warn!(file = name, error, "is not entered");
            None
        }
    };
    names.iter().filter_map(read).collect()
}

/// The path is the one beside the manifest, whatever the manifest says.
fn read_manifest(folder: &Path, name: &str, any_size: bool) -> Result<Found, String> {
    let file = folder.join(name);
    let Manifest { recording, recovered, health, mut part, .. } =
        Manifest::read(&Manifest::path_of(&file)).map_err(|e| e.to_string())?;
    let size = fs::symlink_metadata(&file).map_err(|e| e.to_string())?.len();
    if size != part.size {
        let differs = format!("it has {size} bytes, and {} by its manifest", part.size);
        if !any_size {
            return Err(differs);
        }
        tracing::warn!(file = name, "entered as its manifest tells, but {differs}");
    }
    part.poster = poster_beside(&file);
    part.file = file;
    part.hook = None;
    part.local = true;
    Ok(Found { identity: recording, part, health, recovered, hand_on: true })
}

fn poster_beside(file: &Path) -> Option<PathBuf> {
    Some(poster_of(file)).filter(|p| fs::symlink_metadata(p).is_ok_and(|m| m.is_file()))
}

fn under_its_name(name: String, found: Found) -> Found {
    Found { part: Part { name, ..found.part }, ..found }
}

/// Manifests whose file is still a `.part`: the daemon died between the two renames. Gives those their name. Answers them, and
/// takes them out of `parts`; also those whose file is in the store only. Blocks.
pub(super) fn finish_renames(storage: &Storage, gone: &[String], parts: &mut Vec<String>) -> Vec<Found> {
    let mut found = Vec::new();
    let mut told = 0;
    for name in gone {
        match finish_rename(storage, name, parts) {
            Ok(Some(part)) => found.push(part),
            Ok(None) if told < MAX_TOLD => {
                told += 1;
                tracing::warn!(file = %name, "is gone, though its manifest is there; left as it is");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(file = name, error, "is not entered"),
        }
    }
    if !found.is_empty()
        && let Err(error) = storage.sync_folder()
    {
        tracing::warn!(%error, "a finished file may lose its name in a power cut");
    }
    found
}

fn finish_rename(storage: &Storage, name: &str, parts: &mut Vec<String>) -> Result<Option<Found>, String> {
    let file = storage.folder().join(name);
    if fs::symlink_metadata(&file).is_ok() {
        // It has its name by now.
        return read_manifest(storage.folder(), name, false).map(Some);
    }
    let Manifest { recording, recovered, health, mut part, .. } =
        Manifest::read(&Manifest::path_of(&file)).map_err(|e| e.to_string())?;
    if !part.local && part.remote.is_some() {
        // It was given up when everything about it was delivered.
        part.poster = poster_beside(&file);
        part.name = name.to_owned();
        part.file = file;
        part.hook = None;
        return Ok(Some(Found { identity: recording, part, health, recovered, hand_on: false }));
    }
    let has_it = |at: &String| {
        let path = storage.folder().join(at);
        let has_size = fs::symlink_metadata(&path).is_ok_and(|m| m.len() == part.size);
        has_size && File::open(path).and_then(measure).is_ok_and(|(_, sha256)| sha256 == part.sha256)
    };
    let Some(at) = parts.iter().position(has_it) else { return Ok(None) };
    if !rename_new(&storage.folder().join(&parts[at]), &file).map_err(|e| e.to_string())? {
        return Ok(None);
    }
    parts.remove(at);
    part.name = name.to_owned();
    part.file = file;
    part.hook = None;
    part.poster = None;
    Ok(Some(Found { identity: recording, part, health, recovered, hand_on: true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_after_its_media_and_what_was_left_out_of_it() {
        let started_at = DateTime::from_timestamp_millis(1_700_000_000_000).expect("a time");
        let gap = |kind, after_ms, by_ms| {
            let at = Some(started_at + TimeDelta::milliseconds(after_ms));
            Gap { kind, at_ms: after_ms.max(0) as u64, by_ms, at, frames: 0, packets: 0 }
        };
        for (gaps, length_ms) in [
            (vec![], 10_000),
            (vec![gap(GapKind::Pause, 2_000, 500), gap(GapKind::Reconnect, 4_000, 300)], 10_800),
            (vec![gap(GapKind::Overflow, 2_000, 500)], 10_000),
            // It began when that was over.
            (vec![gap(GapKind::Switch, -700, 700)], 10_000),
        ] {
            let end = end_of(started_at, 10_000, &gaps).expect("an end");
            assert_eq!((end - started_at).num_milliseconds(), length_ms, "{gaps:?}");
        }
    }
}
