//! Makes files whole that a killed daemon left as `.part`, one module per container.

mod ebml;
mod found;
mod matroska;
mod mp4;
mod pages;
#[cfg(test)]
mod tests;
mod ts;

use crate::library::Salvaged;
use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

/// Finishes `part`, a file that its muxer was not able to finish, in place; it is synced to the disk then. `None`, with
/// nothing changed, when there is nothing to play in it, or nothing known that can be done for what it is (an MP4 of
/// GStreamer's `mp4mux` plays as it is, up to its last fragment). After an error the file plays as before. Blocks; reads
/// the file once.
///
/// What a power cut left behind the first hole is cut away. A file that is whole stays as it is.
///
/// It goes by what is in the file: the parts of one recording may be of several containers.
pub fn make_whole(part: &Path) -> Result<Option<Salvaged>, String> {
    let failed = |e: io::Error| format!("{} cannot be finished: {e}", part.display());
    let file = OpenOptions::new().read(true).write(true).open(part).map_err(failed)?;
    for finish in [matroska::finish, mp4::finish, ts::finish] as [fn(&File) -> _; 3] {
        if let Some(found) = finish(&file).map_err(failed)? {
            file.sync_all().map_err(failed)?;
            return Ok(Some(found.into()));
        }
    }
    Ok(None)
}
