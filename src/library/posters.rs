//! Which parts are still to get a poster, and how one gets it: a JPEG beside the file, named in its manifest and in the
//! catalog.

use super::{
    Library, LibraryError, RecordingId, Storage,
    catalog::{get, id_of, path_text},
    files::{poster_of, with_suffix},
    remote::replace_manifest,
    sql,
    storage::{StorageError, io_error},
};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// How often a part is tried: a daemon that dies over a file meets it once more.
pub(super) const TRIES: u32 = 2;

/// A part that is to get a poster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PosterJob {
    pub recording: RecordingId,
    pub number: u32,
    /// Absolute path.
    pub file: PathBuf,
}

impl Library {
    /// The newest part that has pictures and was not tried `TRIES` times; this is one more.
    pub async fn next_poster(&self) -> Result<Option<PosterJob>, LibraryError> {
        const WHAT: &str = "look for a part without a poster";
        let mut tx = self.write(WHAT).await?;
        let row = sqlx::query(
            "UPDATE part SET poster_tries = poster_tries - 1 WHERE rowid = (SELECT rowid FROM part \
             WHERE poster_tries > 0 ORDER BY rowid DESC LIMIT 1) RETURNING recording_id, number, file",
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(sql(WHAT))?;
        let Some(row) = row else { return Ok(None) };
        tx.commit().await.map_err(sql(WHAT))?;
        let file = PathBuf::from(get::<String>(&row, "file")?);
        Ok(Some(PosterJob { recording: id_of(&row, "recording_id")?, number: get(&row, "number")?, file }))
    }

    /// Writes the poster beside the file, under its name at once and whole, and names it in the manifest and the catalog.
    /// False, with nothing left behind, when the part was deleted meanwhile.
    pub async fn set_poster(&self, job: &PosterJob, jpeg: Vec<u8>) -> Result<bool, LibraryError> {
        const WHAT: &str = "note a poster";
        // Or a poster, and the manifest, would come back to a recording that is just being deleted.
        let _files = self.inner.files.lock().await;
        let file = path_text(&job.file)?;
        let known: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM part WHERE recording_id = ? AND number = ? AND file = ?)",
        )
        .bind(job.recording.to_string())
        .bind(job.number)
        .bind(file)
        .fetch_one(self.readers())
        .await
        .map_err(sql(WHAT))?;
        if !known || !self.storage().holds(&job.file) {
            return Ok(false);
        }
        let (placed, storage) = (job.clone(), self.storage().clone());
        let poster = tokio::task::spawn_blocking(move || place(&storage, &placed, &jpeg)).await;
        let poster = poster.map_err(|e| io_error("cannot write", &job.file)(std::io::Error::other(e)))??;
        self.end_poster(job, Some(path_text(&poster)?)).await?;
        Ok(true)
    }

    /// The part gets none.
    pub async fn no_poster(&self, job: &PosterJob) -> Result<(), LibraryError> {
        self.end_poster(job, None).await
    }

    async fn end_poster(&self, job: &PosterJob, poster: Option<&str>) -> Result<(), LibraryError> {
        const WHAT: &str = "note a poster";
        let mut tx = self.write(WHAT).await?;
        sqlx::query("UPDATE part SET poster = ?, poster_tries = 0 WHERE recording_id = ? AND number = ?")
            .bind(poster)
            .bind(job.recording.to_string())
            .bind(job.number)
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))
    }
}

/// The poster first: a manifest never names one that is not there. Blocks.
fn place(storage: &Storage, job: &PosterJob, jpeg: &[u8]) -> Result<PathBuf, StorageError> {
    let poster = poster_of(&job.file);
    let temp = temp_of(job);
    let placed = write(&temp, jpeg).and_then(|()| fs::rename(&temp, &poster));
    if placed.is_err() {
        let _ = fs::remove_file(&temp);
    }
    placed.map_err(io_error("cannot write", &poster))?;
    let named = poster.clone();
    replace_manifest(&job.file, (job.recording, job.number), |part| part.poster = Some(named))?;
    storage.sync_folder()?;
    Ok(poster)
}

/// For the poster, then for the manifest: a longer name is none where the file's has all the bytes that a name may have.
fn temp_of(job: &PosterJob) -> PathBuf {
    with_suffix(&job.file, ".temp")
}

fn write(path: &Path, jpeg: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(jpeg)?;
    file.sync_all()
}
