//! The bytes of recordings: `/file`, `/manifest` and `/poster` of a recording's parts (RFC 9110: ranges, conditions).
//!
//! Nothing is held in memory but a piece or two of a file, which are read beside the async threads. A file that is being
//! written is answered as long as it is now.

mod body;
mod ranges;

use super::{
    Answer, allow,
    openapi::{Operation, Tag, one_of},
    problem::{Kind, Problem, quoted},
};
use crate::control::{Control, Manifest, Media, RecordingId, Resource};
use body::Segment;
use bytes::Bytes;
use headers::{ETag, HeaderMapExt, IfMatch, IfNoneMatch, IfRange};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ranges::{Asked, asked};
use std::ops::RangeInclusive;
use warp::{
    Filter, Rejection,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    reply::{Reply, Response},
};

const READ: &str = "GET, HEAD";
/// A copy may be kept, but each use of it is asked about: the recording may be deleted.
const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");
/// What `ext-value` holds as it is: `attr-char` of RFC 8187.
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

pub(super) fn routes(
    control: Control,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    let request = warp::method()
        .and(warp::query::<Vec<(String, String)>>())
        .and(warp::header::headers_cloned())
        .and(warp::any().map(move || control.clone()));
    let first = warp::path!("api" / "v1" / "recordings" / String / Name).and(request.clone()).then(
        |id, name, method, query, headers, control| {
            part(id, "1".into(), name, method, query, headers, control)
        },
    );
    let nth =
        warp::path!("api" / "v1" / "recordings" / String / "parts" / String / Name).and(request).then(part);
    first.or(nth).unify()
}

const MEDIA_TYPES: &[&str] = &["video/mp4", "video/webm", "video/x-matroska", "video/mp2t"];

pub(super) fn operations() -> Vec<Operation> {
    let recording = "/api/v1/recordings/{recordingId}";
    let places =
        [(recording.to_owned(), "", "part 1"), (format!("{recording}/parts/{{part}}"), "Part", "a part")];
    let of = |(path, id, whose): &(String, &str, &str)| {
        let get = |resource: Resource, id: String, summary: String| {
            Operation::get(Tag::Files, format!("{path}/{}", resource.as_str()), &id, &summary)
                .query("download", one_of(&["0", "1"]), "1: to be saved under its name, not shown")
                .problems(&[Kind::BadParameter, Kind::UnknownRecording, Kind::UnknownFile])
        };
        [
            bytes(get(Resource::File, format!("get{id}File"), format!("The bytes of {whose}"))),
            conditional(get(
                Resource::Manifest,
                format!("get{id}Manifest"),
                format!("The manifest of {whose}"),
            ))
            .about("It holds all that is known of the file, and is beside it on the disk.")
            .answers::<Manifest>(200, "The manifest"),
            conditional(get(Resource::Poster, format!("get{id}Poster"), format!("A picture from {whose}")))
                .answers_raw(200, "The first key frame that is not black", &["image/jpeg"], None),
        ]
    };
    places.iter().flat_map(of).collect()
}

/// A media file, as [`send`] answers it.
pub(super) fn bytes(operation: Operation) -> Operation {
    conditional(operation)
        .about("Also while it is being written: what is there so far.")
        .answers_raw(200, "The whole file", MEDIA_TYPES, None)
        .header("ETag", "Of a finished file: its SHA-256")
}

fn conditional(operation: Operation) -> Operation {
    operation
        .takes_header("Range", "`bytes=0-99`; several ranges are answered as `multipart/byteranges`")
        .takes_header("If-Range", "`ETag` of the file that a range is wanted of")
        .takes_header("If-None-Match", "`ETag` of what the client has")
        .takes_header("If-Match", "`ETag` of what the client wants")
        .answers_nothing(304, "The client has it")
        .answers_raw(206, "What was asked for with `Range`", &["*/*"], None)
        .header("Content-Range", "`bytes FIRST-LAST/ALL`")
        .problems(&[Kind::IfMatchWrong, Kind::RangeNotSatisfiable, Kind::Failed])
}

/// `file`, `manifest` or `poster` in a path.
#[derive(Clone, Copy)]
struct Name(Resource);

impl std::str::FromStr for Name {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Resource::parse(word).map(Name).ok_or(())
    }
}

async fn part(
    id: String,
    number: String,
    Name(resource): Name,
    method: Method,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    control: Control,
) -> Answer {
    allow(&method, READ)?;
    let id = super::v1::recording_id(&id)?;
    let number = number.parse().map_err(|_| {
        let detail = format!("{} is no number of a part; parts are numbered from 1", quoted(&number));
        Problem::new(Kind::UnknownFile, detail)
    })?;
    let download = download(&query)?;
    send(&control, (id, number, resource), &method, &headers, download).await
}

fn download(query: &[(String, String)]) -> Result<bool, Problem> {
    match query {
        [] => Ok(false),
        [(name, value)] if name == "download" && matches!(value.as_str(), "0" | "1") => Ok(value == "1"),
        [(name, value), ..] => {
            let detail = format!("{}={}: the only parameter is download=1", quoted(name), quoted(value));
            Err(Problem::new(Kind::BadParameter, detail))
        }
    }
}

/// Answers GET and HEAD for one file of a recording. `download`: it is to be saved, not shown.
pub(super) async fn send(
    control: &Control,
    (id, number, resource): (RecordingId, u32, Resource),
    method: &Method,
    headers: &HeaderMap,
    download: bool,
) -> Answer {
    let media = control.media(id, number, resource).await?;
    let etag = media.etag.as_ref().and_then(|tag| format!("\"{tag}\"").parse::<ETag>().ok());
    let mut response = match precondition(headers, etag.as_ref())? {
        Some(not_modified) => not_modified.into_response(),
        None => content(&media, ranges_of(method, headers, etag.as_ref(), media.size), method)?,
    };
    let fields = response.headers_mut();
    if let Some(etag) = etag {
        fields.typed_insert(etag);
        fields.insert(header::CACHE_CONTROL, REVALIDATE);
    }
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(header::CONTENT_DISPOSITION, disposition(&media.name, download));
    Ok(response)
}

/// RFC 9110, section 13.2.2, without dates: none is given out.
fn precondition(headers: &HeaderMap, etag: Option<&ETag>) -> Result<Option<StatusCode>, Problem> {
    if let Some(wanted) = headers.typed_get::<IfMatch>()
        && !etag.is_some_and(|etag| wanted.precondition_passes(etag))
    {
        return Err(Problem::new(Kind::IfMatchWrong, "the file is not the one of If-Match (any more)"));
    }
    let known = headers.typed_get::<IfNoneMatch>();
    let is_known = known.zip(etag).is_some_and(|(known, etag)| !known.precondition_passes(etag));
    Ok(is_known.then_some(StatusCode::NOT_MODIFIED))
}

/// Ranges are for GET only, and not of another file than the client has a part of.
fn ranges_of(method: &Method, headers: &HeaderMap, etag: Option<&ETag>, size: u64) -> Asked {
    let Some(range) = headers.get(header::RANGE).filter(|_| method == Method::GET) else {
        return Asked::Whole;
    };
    let is_other = |condition: Option<IfRange>| condition.is_none_or(|c| c.is_modified(etag, None));
    if headers.contains_key(header::IF_RANGE) && is_other(headers.typed_get()) {
        return Asked::Whole;
    }
    range.to_str().map_or(Asked::Whole, |range| asked(range, size))
}

fn content(media: &Media, asked: Asked, method: &Method) -> Answer {
    let last =
        |range: &RangeInclusive<u64>| format!("bytes {}-{}/{}", range.start(), range.end(), media.size);
    let kind = HeaderValue::from_static(media.content_type);
    let (status, kind, content_range, segments) = match asked {
        Asked::Unsatisfiable => return Err(Problem::range_not_satisfiable(media.size)),
        Asked::Whole if media.size == 0 => (StatusCode::OK, kind, None, Vec::new()),
        Asked::Whole => (StatusCode::OK, kind, None, vec![Segment::File(0..=media.size - 1)]),
        Asked::One(range) => {
            (StatusCode::PARTIAL_CONTENT, kind, Some(last(&range)), vec![Segment::File(range)])
        }
        Asked::Many(ranges) => {
            let boundary = format!("{:032x}", rand::random::<u128>());
            let kind = text(format!("multipart/byteranges; boundary={boundary}"))?;
            let of = |range: &RangeInclusive<u64>| {
                let (kind, range) = (media.content_type, last(range));
                format!("\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {range}\r\n\r\n")
            };
            let mut segments: Vec<_> = ranges
                .into_iter()
                .flat_map(|range| [Segment::Bytes(Bytes::from(of(&range))), Segment::File(range)])
                .collect();
            segments.push(Segment::Bytes(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
            (StatusCode::PARTIAL_CONTENT, kind, None, segments)
        }
    };
    let length: u64 = segments.iter().map(Segment::len).sum();
    let mut response = match *method {
        Method::HEAD => Response::default(),
        _ => body::stream(media.file.clone(), segments),
    };
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, kind);
    fields.insert(header::CONTENT_LENGTH, length.into());
    if let Some(range) = content_range {
        fields.insert(header::CONTENT_RANGE, text(range)?);
    }
    Ok(response)
}

fn text(value: String) -> Result<HeaderValue, Problem> {
    HeaderValue::try_from(value).map_err(|e| Problem::new(Kind::Failed, format!("an answer's header: {e}")))
}

/// RFC 6266: the name as it is in `filename*`, and for those who do not know it one of plain ASCII.
fn disposition(name: &str, download: bool) -> HeaderValue {
    let kind = if download { "attachment" } else { "inline" };
    // Backslash and % are taken for escapes by some clients, rightly or not.
    let plain = |c: char| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%') { c } else { '_' };
    let ascii: String = name.chars().map(plain).collect();
    let exact = utf8_percent_encode(name, ATTR_CHAR);
    let value = format!("{kind}; filename=\"{ascii}\"; filename*=UTF-8''{exact}");
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_in_both_forms() {
        for (name, wanted) in [
            ("cam.mp4", "inline; filename=\"cam.mp4\"; filename*=UTF-8''cam.mp4"),
            (
                "Größe \"1\" 50%.mp4",
                "inline; filename=\"Gr__e _1_ 50_.mp4\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%221%22%2050%25.mp4",
            ),
            ("a\r\nb\u{7f}.mp4", "inline; filename=\"a__b_.mp4\"; filename*=UTF-8''a%0D%0Ab%7F.mp4"),
            ("it's(1).mp4", "inline; filename=\"it's(1).mp4\"; filename*=UTF-8''it%27s%281%29.mp4"),
        ] {
            assert_eq!(disposition(name, false).to_str().expect("ASCII"), wanted);
        }
        let download = disposition("cam.mp4", true);
        assert!(download.to_str().expect("ASCII").starts_with("attachment; "));
    }

    #[test]
    fn the_only_parameter_is_download() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            download(&pairs).map_err(|p| p.kind())
        };
        assert_eq!(parse(&[]), Ok(false));
        assert_eq!(parse(&[("download", "1")]), Ok(true));
        assert_eq!(parse(&[("download", "0")]), Ok(false));
        for bad in [&[("download", "yes")][..], &[("x", "1")], &[("download", "1"), ("download", "1")]] {
            assert_eq!(parse(bad), Err(Kind::BadParameter), "{bad:?}");
        }
    }
}
