//! A file as the body of an answer: read piece by piece beside the async threads, one piece ahead of what is sent.

use crate::control::{RemoteFile, read_aside};
use bytes::Bytes;
use futures_util::{StreamExt, future::ready, stream};
use std::{collections::VecDeque, fs::File, io, ops::RangeInclusive, os::unix::fs::FileExt, sync::Arc};
use tokio::{sync::mpsc, task::JoinHandle};
use warp::reply::{Reply, Response};

/// Read at once. Of a body there are two in memory: the one that is sent, and the next.
const PIECE_BYTES: u64 = 128 * 1024;

/// One stretch of a body.
#[derive(Clone, Debug)]
pub(super) enum Segment {
    Bytes(Bytes),
    /// These bytes of the file.
    File(RangeInclusive<u64>),
}

impl Segment {
    pub fn len(&self) -> u64 {
        match self {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::File(range) => range.end() - range.start() + 1,
        }
    }
}

/// The segments one after the other. A file that turns out to be shorter breaks the answer off.
pub(super) fn stream(file: Arc<File>, segments: Vec<Segment>) -> Response {
    let mut pieces = Pieces { file, segments: segments.into(), ahead: None };
    pieces.read_ahead();
    warp::reply::stream(stream::unfold(pieces, Pieces::next)).into_response()
}

/// The same of an object in the store, as its bytes come from there: one piece ahead of what is sent.
pub(super) fn stream_remote(remote: RemoteFile, segments: Vec<Segment>) -> Response {
    let (give, take) = mpsc::channel(1);
    // It ends when nobody takes its pieces any more.
    tokio::spawn(async move {
        if let Err(error) = feed(&remote, segments, &give).await {
            tracing::warn!(%error, "a file that was being sent cannot be read on from the store");
            let _ = give.send(Err(error)).await;
        }
    });
    let next = |mut take: mpsc::Receiver<_>| async { take.recv().await.map(|piece| (piece, take)) };
    warp::reply::stream(stream::unfold(take, next)).into_response()
}

async fn feed(
    remote: &RemoteFile,
    segments: Vec<Segment>,
    give: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    for segment in segments {
        let mut pieces = match segment {
            Segment::Bytes(bytes) => stream::once(ready(Ok(bytes))).boxed(),
            Segment::File(range) => remote.read(range).await?,
        };
        while let Some(piece) = pieces.next().await {
            if give.send(Ok(piece?)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

struct Pieces {
    file: Arc<File>,
    segments: VecDeque<Segment>,
    /// The next piece.
    ahead: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Pieces {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let piece = self.ahead.take()?.await.map_err(io::Error::other).flatten();
        match &piece {
            Ok(_) => self.read_ahead(),
            Err(error) => {
                tracing::warn!(%error, "a file that was being sent cannot be read on");
                self.segments.clear();
            }
        }
        Some((piece, self))
    }

    fn read_ahead(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        let file = self.file.clone();
        self.ahead = Some(match segment {
            Segment::Bytes(bytes) => tokio::spawn(async { Ok(bytes) }),
            Segment::File(range) => {
                let (start, end) = range.into_inner();
                let last = end.min(start + (PIECE_BYTES - 1));
                if last < end {
                    self.segments.push_front(Segment::File(last + 1..=end));
                }
                tokio::spawn(read_aside(move || read(&file, start..=last)))
            }
        });
    }
}

fn read(file: &File, range: RangeInclusive<u64>) -> io::Result<Bytes> {
    let mut piece = vec![0; (range.end() - range.start() + 1) as usize];
    file.read_exact_at(&mut piece, *range.start())?;
    Ok(piece.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        Arc::new(file)
    }

    async fn all(file: Arc<File>, segments: Vec<Segment>) -> Vec<io::Result<Bytes>> {
        let mut pieces = Pieces { file, segments: segments.into(), ahead: None };
        pieces.read_ahead();
        stream::unfold(pieces, Pieces::next).collect().await
    }

    #[tokio::test]
    async fn a_body_is_its_segments_in_pieces() {
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES + 7).map(|i| (i % 251) as u8).collect();
        let last = bytes.len() as u64 - 1;
        let segments = vec![
            Segment::Bytes("head".into()),
            Segment::File(0..=last),
            Segment::Bytes("between".into()),
            Segment::File(5..=5),
            Segment::File(10..=PIECE_BYTES + 9),
        ];
        let length: u64 = segments.iter().map(Segment::len).sum();
        let pieces = all(file(&bytes), segments).await;
        assert!(pieces.iter().flatten().all(|piece| piece.len() as u64 <= PIECE_BYTES));
        let got: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.expect("read")).collect();
        let one = &bytes[10..PIECE_BYTES as usize + 10];
        assert_eq!(got.len() as u64, length);
        assert!(got == [b"head", &bytes[..], b"between", &bytes[5..6], one].concat());
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_breaks_it_off() {
        let pieces = all(file(b"short"), vec![Segment::File(0..=9), Segment::Bytes("tail".into())]).await;
        assert!(matches!(&pieces[..], [Err(e)] if e.kind() == io::ErrorKind::UnexpectedEof), "{pieces:?}");
    }
}
