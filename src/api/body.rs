//! Request bodies: read within bounds, then parsed.

use super::problem::{Kind, Problem};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use std::{fmt::Display, pin::pin, time::Duration};
use warp::{
    Filter, Rejection,
    reply::{Reply, Response},
};

/// Longest body taken.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a body may take to come whole.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The whole body, or why it could not be read. It is counted as it comes, so that a body without
/// Content-Length is capped like any other. Rejects only where the body was taken already.
pub(super) fn body() -> impl Filter<Extract = (Result<Bytes, Problem>,), Error = Rejection> + Clone {
    warp::body::stream().then(|stream| read_within(BODY_TIMEOUT, stream))
}

async fn read_within<B, E>(
    limit: Duration,
    stream: impl Stream<Item = Result<B, E>>,
) -> Result<Bytes, Problem>
where
    B: Buf,
    E: Display,
{
    tokio::time::timeout(limit, read(stream)).await.unwrap_or_else(|_| {
        let detail = format!("the body did not come whole within {} s", limit.as_secs());
        Err(Problem::new(Kind::BodyTimeout, detail))
    })
}

async fn read<B, E>(stream: impl Stream<Item = Result<B, E>>) -> Result<Bytes, Problem>
where
    B: Buf,
    E: Display,
{
    let mut stream = pin!(stream);
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| Problem::new(Kind::BadBody, format!("the body broke off: {e}")))?;
        if chunk.remaining() > MAX_BODY_BYTES - body.len() {
            let detail = format!("the body is longer than {MAX_BODY_BYTES} bytes");
            return Err(Problem::new(Kind::BodyTooLarge, detail));
        }
        body.put(chunk);
    }
    Ok(body.freeze())
}

/// Parses a body whose every field is optional: an empty one is the defaults.
pub(super) fn parse<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(Kind::BadBody, "the body is not a JSON object; write {…}"));
    }
    // Its message ends with the line and column.
    serde_json::from_slice(body).map_err(|e| Problem::new(Kind::BadBody, format!("the body is wrong: {e}")))
}

/// `value` as JSON with status 200.
pub(super) fn json(value: &impl serde::Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(value)
        .map_err(|e| Problem::new(Kind::Failed, format!("the answer cannot be written as JSON: {e}")))?;
    Ok(warp::reply::with_header(body, "content-type", "application/json").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::io;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        name: Option<String>,
        size: Option<u32>,
    }

    #[test]
    fn no_body_is_the_defaults_and_faults_are_placed() {
        assert_eq!(parse::<Body>(b" \r\n").expect("defaults"), Body::default());
        let named = parse::<Body>(br#" {"name": "x"}"#).expect("a body");
        assert_eq!(named, Body { name: Some("x".into()), size: None });

        let table: [(&[u8], &str); 7] = [
            (b"{\n \"name\": }", "line 2 column 10"),
            (br#"{"nmae": "x"}"#, "unknown field `nmae`, expected `name` or `size` at line 1 column 7"),
            (br#"{"size": "x"}"#, "invalid type: string \"x\", expected u32 at line 1 column 12"),
            (br#"{"name": "a", "name": "b"}"#, "duplicate field `name`"),
            (br#"{"name": "a"} {}"#, "trailing characters at line 1 column 15"),
            (b"{\"name\": \"\xff\"}", "line 1"),
            (br#"["x", 3]"#, "not a JSON object"),
        ];
        for (bytes, want) in table {
            let problem = parse::<Body>(bytes).expect_err("a fault");
            assert_eq!(problem.kind(), Kind::BadBody);
            assert!(problem.detail().contains(want), "{} lacks {want}", problem.detail());
        }
    }

    async fn read_chunks(sizes: &[usize]) -> Result<usize, Kind> {
        let chunks: Vec<io::Result<Bytes>> = sizes.iter().map(|&n| Ok(Bytes::from(vec![b' '; n]))).collect();
        read(stream::iter(chunks)).await.map(|b| b.len()).map_err(|p| p.kind())
    }

    #[tokio::test]
    async fn a_body_is_capped_however_it_is_cut() {
        assert_eq!(read_chunks(&[]).await, Ok(0));
        assert_eq!(read_chunks(&[MAX_BODY_BYTES]).await, Ok(MAX_BODY_BYTES));
        assert_eq!(read_chunks(&[1, MAX_BODY_BYTES - 1]).await, Ok(MAX_BODY_BYTES));
        assert_eq!(read_chunks(&[MAX_BODY_BYTES + 1]).await, Err(Kind::BodyTooLarge));
        assert_eq!(read_chunks(&[MAX_BODY_BYTES, 0, 1]).await, Err(Kind::BodyTooLarge));
        let broken = stream::iter([Ok(Bytes::from("{")), Err(io::Error::other("reset"))]);
        assert_eq!(read(broken).await.map_err(|p| p.kind()), Err(Kind::BadBody));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = stream::pending::<io::Result<Bytes>>();
        let outcome = read_within(Duration::ZERO, never).await;
        assert_eq!(outcome.map_err(|p| p.kind()), Err(Kind::BodyTimeout));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse::<Body>(&bytes);
        }
    }
}
