//! Where an encoder wants to publish: one path and query, from the three places encoders put them.

/// Most `key=value` pairs of a publish URL.
pub const MAX_QUERY_PAIRS: usize = 32;
/// Longest query of a publish URL, all places together.
pub const MAX_QUERY_BYTES: usize = 4 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("the query of the publish URL has {0} bytes; {MAX_QUERY_BYTES} is the most")]
    TooLong(usize),
    #[error("the query of the publish URL has more than {MAX_QUERY_PAIRS} parameters")]
    TooMany,
}

/// A peer asks to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// Application and stream name, without leading or trailing `/` and without query; otherwise as sent
    /// (not percent-decoded). May be empty.
    pub path: String,
    /// Decoded pairs in the order stream name, application, `tcUrl`; a pair told twice is in it once.
    pub query: Vec<(String, String)>,
    /// What the encoder calls itself, at most 128 characters; may be empty.
    pub flash_ver: String,
}

impl PublishRequest {
    /// `app`, `tc_url`, `flash_ver`: of the `connect` command; `name`: of `publish`.
    ///
    /// `rtmp://HOST/ROOM/STREAM?k=v` arrives as application `ROOM` and name `STREAM?k=v` (ffmpeg, OBS with the
    /// URL split), as `ROOM?k=v` and `STREAM`, or as `ROOM/STREAM?k=v` and an empty name (OBS without a key).
    pub fn new(app: &str, tc_url: &str, name: &str, flash_ver: &str) -> Result<Self, QueryError> {
        let (app_path, app_query) = split_query(app);
        let (name_path, name_query) = split_query(name);
        let (_, url_query) = split_query(tc_url);
        let bytes = name_query.len().max(app_query.len()).max(url_query.len());
        if bytes > MAX_QUERY_BYTES {
            return Err(QueryError::TooLong(bytes));
        }
        let mut query: Vec<(String, String)> = Vec::new();
        let queries = [name_query, app_query, url_query];
        for (key, value) in queries.iter().flat_map(|q| form_urlencoded::parse(q.as_bytes())) {
            if query.iter().any(|(k, v)| *k == key && *v == value) {
                continue;
            }
            if query.len() == MAX_QUERY_PAIRS {
                return Err(QueryError::TooMany);
            }
            query.push((key.into_owned(), value.into_owned()));
        }
        let parts = [app_path, name_path].map(|p| p.trim_matches('/'));
        let path = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/");
        Ok(Self { path, query, flash_ver: flash_ver.chars().take(128).collect() })
    }
}

fn split_query(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoder_arrives_at_the_same_place() {
        let cases = [
            ("ROOM", "rtmp://h:1935/ROOM", "STREAM?record=true", "ROOM/STREAM"),
            ("ROOM?record=true", "rtmp://h/ROOM?record=true", "STREAM", "ROOM/STREAM"),
            ("ROOM", "rtmp://h/ROOM?record=true", "STREAM", "ROOM/STREAM"),
            ("ROOM/STREAM?record=true", "rtmp://h/ROOM/STREAM?record=true", "", "ROOM/STREAM"),
            ("/ROOM/", "rtmp://h/ROOM/", "/STREAM/?record=true", "ROOM/STREAM"),
            ("a/b", "rtmp://h/a/b", "c/d?record=true", "a/b/c/d"),
            ("", "rtmp://h/", "STREAM?record=true", "STREAM"),
            ("a%20b", "rtmp://h/a%20b", "ü?record=true&record=true", "a%20b/ü"),
            ("", "rtmp://h/?record=true", "", ""),
        ];
        for (app, tc_url, name, path) in cases {
            let request = PublishRequest::new(app, tc_url, name, "LNX").unwrap();
            assert_eq!(request.path, path, "{app} {name}");
            assert_eq!(request.query, [("record".into(), "true".into())], "{app} {name}");
        }
    }

    #[test]
    fn queries_are_decoded_and_bounded() {
        let request = PublishRequest::new("a", "", "b?token=x%2Fy+z&flag", &"v".repeat(500)).unwrap();
        let pairs: Vec<_> = request.query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("token", "x/y z"), ("flag", "")]);
        assert_eq!(request.flash_ver.len(), 128);

        let many = |n: usize| (0..n).map(|i| format!("k{i}=v&")).collect::<String>();
        assert!(PublishRequest::new("a", "", &format!("b?{}", many(32)), "").is_ok());
        let error = PublishRequest::new("a", "", &format!("b?{}", many(33)), "").unwrap_err();
        assert_eq!(error, QueryError::TooMany);
        let error = PublishRequest::new("a", "", &format!("b?{}", "x".repeat(5000)), "").unwrap_err();
        assert_eq!(error, QueryError::TooLong(5000));
    }
}
