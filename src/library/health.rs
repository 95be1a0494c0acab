//! What was wrong with a recording while it ran: noted as it happens, so that it is known after a crash.

use super::{
    Library, LibraryError, Recording, RecordingId,
    catalog::{from_json, get, to_json},
    outbox::{self, News},
    sql,
};
use crate::media::HealthReason;
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

/// Troubles of one recording that are kept: the newest, and those that hold.
const MAX_HEALTH: usize = 100;

/// One trouble of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    pub reason: HealthReason,
    pub from: DateTime<Utc>,
    /// `None`: it holds, or held when the recording ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// What a change of a recording's troubles comes to, for those who are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthNews {
    /// One has begun.
    Degraded,
    /// One is over, another holds.
    Better,
    /// The last one is over.
    Healthy,
}

impl HealthNews {
    /// `None`: the same hold as before.
    pub fn between(before: &[Health], after: &[Health]) -> Option<Self> {
        let begun = holding(after).any(|reason| !holding(before).any(|r| r == reason));
        let over = holding(before).any(|reason| !holding(after).any(|r| r == reason));
        match (begun, over, holding(after).next()) {
            (true, _, _) => Some(Self::Degraded),
            (false, true, None) => Some(Self::Healthy),
            (false, true, Some(_)) => Some(Self::Better),
            (false, false, _) => None,
        }
    }
}

/// Reasons of those that hold.
pub(super) fn holding(health: &[Health]) -> impl Iterator<Item = HealthReason> {
    health.iter().filter(|h| h.until.is_none()).map(|h| h.reason)
}

impl Recording {
    /// `reason` holds since `at`, or is over since then.
    pub fn note_health(&mut self, reason: HealthReason, holds: bool, at: DateTime<Utc>) {
        let at = at.trunc_subsecs(3);
        let open = self.health.iter_mut().find(|h| h.reason == reason && h.until.is_none());
        match (open, holds) {
            (Some(open), false) => {
                open.until = Some(at.max(open.from));
                self.degraded.retain(|told| told != reason.as_str());
            }
            (None, true) => {
                self.health.push(Health { reason, from: at, until: None });
                keep_newest(&mut self.health);
                self.degrade(&[reason.to_string()]);
            }
            (Some(_), true) | (None, false) => {}
        }
    }
}

/// Of those that are over the oldest go.
fn keep_newest(health: &mut Vec<Health>) {
    while health.len() > MAX_HEALTH {
        let Some(oldest) = health.iter().position(|h| h.until.is_some()) else { return };
        health.remove(oldest);
    }
}

impl Library {
    /// What was and is wrong with a recording under way: all of it, oldest first. Its webhooks are told in the same transaction;
    /// wake the deliveries after it.
    pub async fn note_health(&self, id: &RecordingId, health: &[Health]) -> Result<(), LibraryError> {
        const WHAT: &str = "note what is wrong";
        let mut tx = self.write(WHAT).await?;
        let before = stored(&mut tx, id, WHAT).await?;
        store(&mut tx, id, health, WHAT).await?;
        match HealthNews::between(&before, health) {
            Some(HealthNews::Degraded) => outbox::put_event(&mut tx, id, News::Degraded, WHAT).await?,
            Some(HealthNews::Healthy) => outbox::put_event(&mut tx, id, News::Healthy, WHAT).await?,
            Some(HealthNews::Better) | None => {}
        }
        tx.commit().await.map_err(sql(WHAT))
    }
}

async fn stored(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    what: &'static str,
) -> Result<Vec<Health>, LibraryError> {
    let row = sqlx::query("SELECT health FROM recording WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(tx)
        .await
        .map_err(sql(what))?
        .ok_or(LibraryError::Unknown(*id))?;
    from_json("health", get(&row, "health")?)
}

async fn store(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    health: &[Health],
    what: &'static str,
) -> Result<(), LibraryError> {
    sqlx::query("UPDATE recording SET health = ? WHERE id = ?")
        .bind(to_json(&health))
        .bind(id.to_string())
        .execute(tx)
        .await
        .map_err(sql(what))?;
    Ok(())
}

/// What the manifest of another file of the recording says. One that went on over the end of a file is in the manifests of
/// both: of the later one it is known whether it ended.
pub(super) async fn add(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    health: &[Health],
    what: &'static str,
) -> Result<(), LibraryError> {
    if health.is_empty() {
        return Ok(());
    }
    let before = stored(tx, id, what).await?;
    store(tx, id, &merged(before, health), what).await
}

fn merged(mut all: Vec<Health>, more: &[Health]) -> Vec<Health> {
    for one in more {
        match all.iter_mut().find(|h| (h.reason, h.from) == (one.reason, one.from)) {
            Some(known) => known.until = known.until.or(one.until),
            None => all.push(one.clone()),
        }
    }
    all.sort_by_key(|h| h.from);
    keep_newest(&mut all);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::testing;
    use HealthReason::{Black, NoAudio, Silent};
    use chrono::TimeDelta;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000).unwrap() + TimeDelta::seconds(second)
    }

    fn health(reason: HealthReason, from: i64, until: Option<i64>) -> Health {
        Health { reason, from: at(from), until: until.map(at) }
    }

    #[test]
    fn degraded_has_what_holds() {
        let mut recording = testing::recording(0);
        recording.degraded = vec!["sound came late".into()];
        let told = |r: &Recording| r.degraded[1..].to_vec();
        recording.note_health(Black, true, at(1));
        recording.note_health(Black, true, at(2));
        recording.note_health(Silent, true, at(3));
        assert_eq!(told(&recording), ["black", "silent"]);
        recording.note_health(Black, false, at(4));
        recording.note_health(Black, false, at(5));
        assert_eq!(told(&recording), ["silent"]);
        recording.note_health(Black, true, at(6));
        let expected = [health(Black, 1, Some(4)), health(Silent, 3, None), health(Black, 6, None)];
        assert_eq!(recording.health, expected);
        assert_eq!((told(&recording).len(), &recording.degraded[0][..]), (2, "sound came late"));
    }

    #[test]
    fn a_recording_that_flaps_keeps_the_newest_and_what_holds() {
        let mut recording = testing::recording(0);
        recording.note_health(NoAudio, true, at(0));
        for n in 0..500 {
            recording.note_health(Black, n % 2 == 0, at(n));
        }
        assert_eq!(recording.health.len(), MAX_HEALTH);
        assert_eq!(recording.health[0], health(NoAudio, 0, None));
        assert_eq!(recording.health[MAX_HEALTH - 1], health(Black, 498, Some(499)));
        assert_eq!(recording.degraded, ["no-audio"]);
    }

    #[test]
    fn news_are_told_once() {
        let black = health(Black, 0, None);
        let over = health(Black, 0, Some(1));
        let silent = health(Silent, 0, None);
        let cases: [(&[&Health], &[&Health], Option<HealthNews>); 7] = [
            (&[], &[], None),
            (&[], &[&black], Some(HealthNews::Degraded)),
            (&[&black], &[&black], None),
            (&[&black], &[&black, &silent], Some(HealthNews::Degraded)),
            (&[&black], &[&over, &silent], Some(HealthNews::Degraded)),
            (&[&black, &silent], &[&over, &silent], Some(HealthNews::Better)),
            (&[&black], &[&over], Some(HealthNews::Healthy)),
        ];
        for (n, (before, after, news)) in cases.into_iter().enumerate() {
            let [before, after] =
                [before, after].map(|list| list.iter().map(|h| (*h).clone()).collect::<Vec<_>>());
            assert_eq!(HealthNews::between(&before, &after), news, "case {n}");
        }
    }

    #[tokio::test]
    async fn the_catalog_keeps_it() {
        let (_dir, library) = testing::library().await;
        let recording = testing::recording(0);
        library.begin(&recording, &Default::default()).await.unwrap();
        let both = [health(Black, 1, Some(4)), health(Silent, 3, None)];
        library.note_health(&recording.id, &both).await.unwrap();
        let found = library.get(&recording.id).await.unwrap().unwrap();
        assert_eq!((&found.health[..], &found.degraded[..]), (&both[..], &["silent".to_owned()][..]));
    }

    #[test]
    fn manifests_of_two_files_tell_one_trouble_once() {
        let first = vec![health(Silent, 1, Some(2)), health(Black, 3, None)];
        let second = [health(Black, 3, Some(9)), health(NoAudio, 5, None)];
        let expected = [health(Silent, 1, Some(2)), health(Black, 3, Some(9)), health(NoAudio, 5, None)];
        assert_eq!(merged(first.clone(), &second), expected);
        assert_eq!(merged(second.to_vec(), &first), expected);
    }
}
