//! `[storage]`: how files are synced, and the object store that finished ones go to.

use super::daemon::at;
use super::quoted;
use super::toml_keys::{Settings, boolean, duration, text};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeValue;
use url::Url;

pub(super) const STORAGE_KEYS: &[&str] = &[
    "sync_interval",
    "url",
    "endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "secret_access_key_file",
    "credentials_file",
    "allow_http",
    "keep_local",
];

const EXAMPLE: &str = "s3://bucket/prefix";
/// Largest secret that is read from a file, bytes.
const MAX_SECRET_BYTES: u64 = 4096;
/// With a file's name of 255 bytes it stays below the 1,024 bytes that a key may have.
const MAX_PREFIX_BYTES: usize = 700;
const LONGEST_KEPT: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// What nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// For the one who signs with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

impl StoreKind {
    pub fn scheme(self) -> &'static str {
        match self {
            StoreKind::S3 => "s3",
            StoreKind::Gs => "gs",
            StoreKind::Az => "az",
        }
    }

    fn parse(scheme: &str) -> Option<Self> {
        [StoreKind::S3, StoreKind::Gs, StoreKind::Az].into_iter().find(|kind| kind.scheme() == scheme)
    }
}

/// What becomes of the local copy of a file once everything about it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepLocal {
    Always,
    /// It is deleted so long after its upload.
    For(Duration),
}

/// An object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    pub kind: StoreKind,
    /// Of Azure: the container.
    pub bucket: String,
    /// Without a slash at either end; may be empty.
    pub prefix: String,
    /// Instead of the provider's own.
    pub endpoint: Option<Url>,
    pub region: Option<String>,
    /// Of Azure: the storage account.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    /// Google's JSON of a service account.
    pub credentials_file: Option<PathBuf>,
    pub allow_http: bool,
    pub keep_local: KeepLocal,
}

impl StoreConfig {
    /// `s3://bucket/prefix`, which holds no secret.
    pub fn url(&self) -> String {
        let Self { kind, bucket, prefix, .. } = self;
        match prefix.is_empty() {
            true => format!("{}://{bucket}", kind.scheme()),
            false => format!("{}://{bucket}/{prefix}", kind.scheme()),
        }
    }
}

/// `None`: finished files stay where they are. `has` tells whether the environment has a variable.
pub(super) fn store(settings: &mut Settings, base: &Path, has: &dyn Fn(&str) -> bool) -> Option<StoreConfig> {
    let place = settings.get("storage", "url", None, place);
    let endpoint = settings.get("storage", "endpoint", None, |v| endpoint(v).map(Some));
    let word = |v: &DeValue, example| match text(v, example)? {
        word if word.trim().is_empty() => Err("it is empty; leave it out".to_owned()),
        word => Ok(Some(word)),
    };
    let region = settings.get("storage", "region", None, |v| word(v, "eu-central-1"));
    let access_key_id = settings.get("storage", "access_key_id", None, |v| word(v, "AKIA..."));
    // What is wrong with a secret is said without it.
    let secret = settings.get("storage", "secret_access_key", None, |v| match v.as_str() {
        Some(secret) if !secret.trim().is_empty() => Ok(Some(Secret::new(secret))),
        _ => Err("expected a text that is not empty, in quotes".to_owned()),
    });
    let from_file = settings.get("storage", "secret_access_key_file", None, |v| {
        secret_in(&at(base, &text(v, "FILE")?)).map(Some)
    });
    let credentials_file = settings.get("storage", "credentials_file", None, |v| {
        let file = at(base, &text(v, "service-account.json")?);
        File::open(&file).map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
        Ok(Some(file))
    });
    let allow_http = settings.get("storage", "allow_http", false, boolean);
    let keep_local = settings.get("storage", "keep_local", KeepLocal::Always, keep_local);
    if secret.is_some() && from_file.is_some() {
        let line = settings.line_of("storage", "secret_access_key_file");
        settings.error(line, "secret_access_key is given too; leave one of them out".into());
    }
    let Some((kind, bucket, prefix)) = place else {
        without_url(settings);
        return None;
    };
    let store = StoreConfig {
        kind,
        bucket,
        prefix,
        endpoint,
        region,
        access_key_id,
        secret_access_key: secret.or(from_file),
        credentials_file,
        allow_http,
        keep_local,
    };
    cross_check(settings, &store, has);
    Some(store)
}

fn without_url(settings: &mut Settings) {
    let written = STORAGE_KEYS[2..].iter().map(|key| (*key, settings.line_of("storage", key)));
    let Some((key, line)) = written.into_iter().find(|(_, line)| *line > 0) else { return };
    settings.warn(line, format!("{key} means nothing without url; write url = \"{EXAMPLE}\""));
}

/// What is missing, and what does not go together.
fn cross_check(settings: &mut Settings, store: &StoreConfig, has: &dyn Fn(&str) -> bool) {
    if store.endpoint.as_ref().is_some_and(|e| e.scheme() == "http") && !store.allow_http {
        let line = settings.line_of("storage", "endpoint");
        let what = "endpoint is on http, where everybody on the way can read the recordings; write https, or \
                    allow_http = true";
        settings.error(line, what.into());
    }
    let key = store.access_key_id.is_some();
    if key != store.secret_access_key.is_some() {
        let (given, other) = match key {
            true => ("access_key_id", "secret_access_key or secret_access_key_file"),
            false => ("secret_access_key", "access_key_id"),
        };
        let line =
            settings.line_of("storage", given).max(settings.line_of("storage", "secret_access_key_file"));
        settings.error(line, format!("{given} is given without {other}; write both, or neither"));
    } else if !key && !has_credentials(store, has) {
        let line = settings.line_of("storage", "url");
        settings.warn(line, missing_credentials(store.kind).into());
    }
    let region = store.region.is_some() || has("AWS_REGION") || has("AWS_DEFAULT_REGION");
    if store.kind == StoreKind::S3 && store.endpoint.is_none() && !region {
        let line = settings.line_of("storage", "url");
        settings.error(line, "the region of the bucket is missing; write region = \"eu-central-1\"".into());
    }
}

fn has_credentials(store: &StoreConfig, has: &dyn Fn(&str) -> bool) -> bool {
    let any = |names: &[&str]| names.iter().any(|name| has(name));
    match store.kind {
        StoreKind::S3 => {
            (has("AWS_ACCESS_KEY_ID") && has("AWS_SECRET_ACCESS_KEY"))
                || any(&[
                    "AWS_WEB_IDENTITY_TOKEN_FILE",
                    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                ])
        }
        StoreKind::Gs => {
            store.credentials_file.is_some()
                || any(&[
                    "GOOGLE_APPLICATION_CREDENTIALS",
                    "GOOGLE_SERVICE_ACCOUNT",
                    "GOOGLE_SERVICE_ACCOUNT_PATH",
                    "GOOGLE_SERVICE_ACCOUNT_KEY",
                ])
        }
        StoreKind::Az => any(&[
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_ACCESS_KEY",
            "AZURE_CLIENT_SECRET",
            "AZURE_STORAGE_SAS_KEY",
            "AZURE_FEDERATED_TOKEN_FILE",
        ]),
    }
}

fn missing_credentials(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::S3 => {
            "no credentials: write access_key_id and secret_access_key_file, or give the daemon AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY in its environment"
        }
        StoreKind::Gs => {
            "no credentials: write credentials_file = \"service-account.json\", or give the daemon \
             GOOGLE_APPLICATION_CREDENTIALS in its environment"
        }
        StoreKind::Az => {
            "no credentials: write access_key_id (the storage account) and secret_access_key_file, or give the daemon \
             AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY in its environment"
        }
    }
}

type Place = (StoreKind, String, String);

fn place(value: &DeValue) -> Result<Option<Place>, String> {
    let url = text(value, EXAMPLE)?;
    if url.is_empty() {
        return Ok(None);
    }
    let write = format!("write \"{EXAMPLE}\", \"gs://bucket/prefix\" or \"az://container/prefix\"");
    // The rest of another URL may hold a password.
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| format!("{} is no URL; {write}", quoted(&url)))?;
    let kind = StoreKind::parse(scheme)
        .ok_or_else(|| format!("{}: is no store that is known; {write}", quoted(scheme)))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if bucket.is_empty() || !bucket.chars().all(plain) {
        return Err(format!("it names no bucket, and holds no user and no password; {write}"));
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let bad =
        |part: &str| part.is_empty() || part == "." || part == ".." || part.contains(['?', '#', '\\', '*']);
    if !prefix.is_empty() && prefix.split('/').any(bad) || prefix.len() > MAX_PREFIX_BYTES {
        return Err(format!("the prefix {} is no path of plain names; {write}", quoted(prefix)));
    }
    Ok(Some((kind, bucket.to_owned(), prefix.to_owned())))
}

fn endpoint(value: &DeValue) -> Result<Url, String> {
    let example = "https://s3.example.org";
    let text = text(value, example)?;
    // It may hold a password, so it is not repeated.
    let wrong = |why: &str| format!("{why}; write for example \"{example}\"");
    let url = Url::parse(&text).map_err(|e| wrong(&format!("it is no URL ({e})")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("it is no http or https URL"));
    }
    let has_user = !url.username().is_empty() || url.password().is_some();
    match has_user || url.query().is_some() || url.fragment().is_some() {
        true => Err(wrong("it has a user, a password or a query; keys are written in keys of their own")),
        false => Ok(url),
    }
}

fn keep_local(value: &DeValue) -> Result<KeepLocal, String> {
    match value.as_bool() {
        Some(true) => Ok(KeepLocal::Always),
        Some(false) => Ok(KeepLocal::For(Duration::ZERO)),
        None => duration(value, Duration::ZERO..=LONGEST_KEPT)
            .map(KeepLocal::For)
            .map_err(|_| "write true, false, or how long after its upload a file stays, like \"7d\"".into()),
    }
}

fn secret_in(file: &Path) -> Result<Secret, String> {
    let unreadable = |e: std::io::Error| format!("{} cannot be read: {e}", file.display());
    // A FIFO or a device would block or never end.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(format!("{} is not a file", file.display()));
    }
    let mut text = String::new();
    File::open(file)
        .and_then(|file| file.take(MAX_SECRET_BYTES).read_to_string(&mut text))
        .map_err(unreadable)?;
    match text.trim() {
        "" => Err(format!("{} is empty; write the secret into it", file.display())),
        secret => Ok(Secret::new(secret)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Problem;
    use super::*;

    fn read(toml: &str, env: &[&str]) -> (Option<StoreConfig>, Vec<Problem>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), " from-file\n").unwrap();
        std::fs::write(dir.path().join("empty"), "\n").unwrap();
        let text = format!("[storage]\n{toml}");
        let mut settings = Settings::parse(&text, Path::new("reeld.toml"), &[("storage", STORAGE_KEYS)]);
        let store = store(&mut settings, dir.path(), &|name| env.contains(&name));
        (store, settings.problems)
    }

    const KEYS: &str = "access_key_id = \"me\"\nsecret_access_key = \"hush\"\nregion = \"r\"\n";

    #[test]
    fn places() {
        for (url, kind, bucket, prefix) in [
            ("s3://b", StoreKind::S3, "b", ""),
            ("s3://b/", StoreKind::S3, "b", ""),
            ("s3://my.bucket-1/a/b/", StoreKind::S3, "my.bucket-1", "a/b"),
            ("gs://b/a", StoreKind::Gs, "b", "a"),
            ("az://container/a", StoreKind::Az, "container", "a"),
        ] {
            let (store, problems) = read(&format!("{KEYS}url = \"{url}\""), &[]);
            let store = store.expect(url);
            assert_eq!((store.kind, &*store.bucket, &*store.prefix), (kind, bucket, prefix), "{url}");
            assert_eq!(problems, [], "{url}");
            assert_eq!(store.keep_local, KeepLocal::Always);
            assert_eq!(store.url(), url.trim_end_matches('/'));
        }
        for url in [
            "b",
            "ftp://b",
            "s3://",
            "s3:///a",
            "s3://u:hush@b/a",
            "s3://b/../a",
            "s3://b//a",
            "s3://b/a?x=hush",
        ] {
            let (store, problems) = read(&format!("{KEYS}url = \"{url}\""), &[]);
            assert!(store.is_none() && problems.iter().any(Problem::is_error), "{url}");
            let told = format!("{problems:?}");
            assert!(!told.contains("u:hush"), "{told}");
        }
        assert_eq!(read("url = \"\"", &[]), (None, vec![]));
    }

    #[test]
    fn the_local_copy_stays_as_long_as_is_said() {
        let kept = |value: &str| {
            let (store, problems) = read(&format!("{KEYS}url = \"s3://b\"\nkeep_local = {value}"), &[]);
            store.filter(|_| problems.is_empty()).map(|s| s.keep_local)
        };
        assert_eq!(kept("true"), Some(KeepLocal::Always));
        assert_eq!(kept("false"), Some(KeepLocal::For(Duration::ZERO)));
        assert_eq!(kept("\"7d\""), Some(KeepLocal::For(Duration::from_secs(7 * 86_400))));
        assert_eq!(kept("\"sometimes\""), None);
        assert_eq!(kept("7"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let told = |toml: &str, env: &[&str]| {
            let (_, problems) = read(toml, env);
            problems.iter().map(|p| p.what.clone()).collect::<Vec<_>>().join("\n")
        };
        let env = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"];
        for (toml, env, said) in [
            ("url = \"s3://b\"", &env[..], ""),
            ("url = \"s3://b\"", &env[..2], "region of the bucket is missing"),
            ("url = \"s3://b\"\nregion = \"r\"", &[], "no credentials: write access_key_id"),
            ("url = \"gs://b\"", &[], "credentials_file"),
            ("url = \"az://b\"", &[], "AZURE_STORAGE_ACCOUNT_KEY"),
            ("url = \"s3://b\"\nregion = \"r\"\naccess_key_id = \"a\"", &[], "without secret_access_key"),
            ("url = \"s3://b\"\nregion = \"r\"\nsecret_access_key = \"a\"", &[], "without access_key_id"),
            ("region = \"r\"", &[], "region means nothing without url"),
            ("url = \"s3://b\"\nendpoint = \"http://h\"", &env[..], "allow_http = true"),
            ("url = \"s3://b\"\nendpoint = \"http://h\"\nallow_http = true", &env[..], ""),
            ("url = \"s3://b\"\nendpoint = \"https://u:p@h\"", &env[..], "it has a user"),
            ("url = \"s3://b\"\nendpoint = \"h\"", &env[..], "it is no URL"),
            ("url = \"gs://b\"\ncredentials_file = \"gone\"", &[], "cannot be read"),
        ] {
            let found = told(toml, env);
            assert!(found.contains(said) && found.is_empty() == said.is_empty(), "{toml}: {found}");
        }
    }

    #[test]
    fn secrets_are_read_and_not_shown() {
        let (store, problems) = read(&format!("{KEYS}url = \"s3://b\""), &[]);
        let store = store.expect("a store");
        assert_eq!(store.secret_access_key.as_ref().map(Secret::reveal), Some("hush"));
        assert!(!format!("{store:?}{problems:?}").contains("hush"));

        let of_file = |file: &str| {
            let keys = "url = \"s3://b\"\nregion = \"r\"\naccess_key_id = \"me\"\n";
            read(&format!("{keys}secret_access_key_file = \"{file}\""), &[])
        };
        let (store, problems) = of_file("secret");
        assert_eq!(store.and_then(|s| s.secret_access_key), Some(Secret::new("from-file")));
        assert_eq!(problems, []);
        for bad in ["empty", "gone", "."] {
            assert!(of_file(bad).1.iter().any(Problem::is_error), "{bad}");
        }
        let (_, problems) =
            read(&format!("{KEYS}url = \"s3://b\"\nsecret_access_key_file = \"secret\""), &[]);
        assert!(problems.iter().any(|p| p.what.contains("leave one of them out")), "{problems:?}");
        assert!(!format!("{problems:?}").contains("hush"));
        let (_, problems) = read("url = \"s3://b\"\nsecret_access_key = 12345", &[]);
        assert!(!format!("{problems:?}").contains("12345"), "{problems:?}");
    }
}
