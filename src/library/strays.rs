//! Files in the records folder that no row of the catalog knows, found by their names alone: one look through the folder
//! and one query, however many files there are.

use super::{
    Library, LibraryError,
    catalog::{get, path_text},
    sql,
};
use futures_util::TryStreamExt;
use std::{collections::HashSet, fs, io, path::Path};

/// Extensions of the files that reeld's containers make: only these are looked at where there is no manifest.
const EXTENSIONS: [&str; 4] = ["mp4", "webm", "mkv", "ts"];

/// Files that the catalog does not know; names within the records folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Strays {
    /// Files with a manifest beside them.
    pub whole: Vec<String>,
    /// Files that are not there, though their manifest is.
    pub gone: Vec<String>,
    /// Files without a manifest.
    pub foreign: Vec<String>,
    /// `NAME.EXT.part`, all of it.
    pub parts: Vec<String>,
}

impl Strays {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Files a manifest is there for.
    pub fn with_manifest(&self) -> impl Iterator<Item = &String> {
        self.whole.iter().chain(&self.gone)
    }

    fn of(names: impl IntoIterator<Item = String>, known: &HashSet<String>) -> Self {
        let mut strays = Self::default();
        let mut manifests = HashSet::new();
        let mut media = Vec::new();
        for name in names {
            if name.starts_with('.') || known.contains(&name) {
                continue;
            }
            if let Some(of) = name.strip_suffix(".json") {
                if !known.contains(of) {
                    manifests.insert(of.to_owned());
                }
            } else if name.strip_suffix(".part").is_some_and(is_media) {
                strays.parts.push(name);
            } else {
                media.push(name);
            }
        }
        for name in media {
            if manifests.remove(&name) {
                strays.whole.push(name);
            } else if is_media(&name) {
                strays.foreign.push(name);
            }
        }
        // Any other JSON is somebody else's.
        strays.gone.extend(manifests.into_iter().filter(|name| is_media(name)));
        for names in [&mut strays.whole, &mut strays.gone, &mut strays.foreign, &mut strays.parts] {
            names.sort_unstable();
        }
        strays
    }
}

fn is_media(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| EXTENSIONS.contains(&e))
}

impl Library {
    /// For the start, before anything is recorded: later, a file that has just been finished would be among them.
    pub(super) async fn strays(&self) -> Result<Strays, LibraryError> {
        let known = self.known_names().await?;
        let storage = self.storage().clone();
        let look = move || {
            let names = file_names(storage.folder())?;
            storage.remove_trials(&names);
            Ok(Strays::of(names, &known))
        };
        let looked = tokio::task::spawn_blocking(look).await;
        match looked.map_err(io::Error::other).flatten() {
            Ok(strays) => Ok(strays),
            Err(error) => {
                let folder = self.storage().folder().display();
                tracing::error!(%folder, %error, "cannot be searched for files that the catalog does not know");
                Ok(Strays::default())
            }
        }
    }

    /// Names in the records folder that the catalog has: of parts, of what was being written, and of what could not be
    /// deleted.
    async fn known_names(&self) -> Result<HashSet<String>, LibraryError> {
        const WHAT: &str = "read which files it has";
        let mut rows = sqlx::query(
            "SELECT file FROM part UNION ALL SELECT file FROM writing UNION ALL SELECT file FROM deleting",
        )
        .fetch(self.readers());
        // With a slash at its end.
        let folder = self.storage().folder().join("");
        let folder = path_text(&folder)?;
        let mut known = HashSet::new();
        while let Some(row) = rows.try_next().await.map_err(sql(WHAT))? {
            let file: &str = get(&row, "file")?;
            known.extend(file.strip_prefix(folder).filter(|n| !n.contains('/')).map(str::to_owned));
        }
        Ok(known)
    }
}

/// Plain files, no links; names that are not UTF-8 are not ours. Blocks.
fn file_names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Opening a FIFO would wait for its writer, and a link may lead to one.
        if entry.file_type().is_ok_and(|t| t.is_file()) {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    #[test]
    fn names_tell_what_a_file_is() {
        let known: HashSet<String> = owned(&["a.mp4", "b.mp4.part"]).into_iter().collect();
        let names = [
            "a.mp4",
            "a.mp4.json",
            "b.mp4.part", // known
            "c.mp4",
            "c.mp4.json",
            "d.webm.part",
            "e.mkv.json",
            "f.ts",
            "own.mov",
            "own.mov.json", // an extension that a pipeline of the operator's has
            "notes.json",
            "readme.txt",
            "g.mp4.temp",
            ".h.mp4",
            "film.part",
            "mp4",
            "x.MP4",
        ];
        let strays = Strays::of(owned(&names), &known);
        let expected = Strays {
            whole: owned(&["c.mp4", "own.mov"]),
            gone: owned(&["e.mkv"]),
            foreign: owned(&["f.ts"]),
            parts: owned(&["d.webm.part"]),
        };
        assert_eq!(strays, expected);
        assert!(Strays::of(owned(&names[..3]), &known).is_empty());
    }

    #[test]
    fn only_plain_files_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.mp4"), "").unwrap();
        fs::create_dir(dir.path().join("b.mp4")).unwrap();
        std::os::unix::fs::symlink("a.mp4", dir.path().join("c.mp4")).unwrap();
        assert_eq!(file_names(dir.path()).unwrap(), ["a.mp4"]);
    }
}
