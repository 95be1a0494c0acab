//! An object store: S3, Google Cloud Storage or Azure Blob Storage, behind what reeld does with it.

use super::guarded::Guarded;
use crate::{
    config::{Secret, StoreConfig, StoreKind},
    deliver::outgoing::{Outgoing, OutgoingError},
    library::Remote,
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    Attribute, AttributeValue, Attributes, BackoffConfig, Error, GetOptions, GetRange, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, RetryConfig,
    aws::{AmazonS3Builder, Checksum},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    multipart::{MultipartStore, PartId},
    path::Path,
    signer::{SignedUrlOptions, Signer},
};
use std::{fmt, io, ops::RangeInclusive, sync::Arc, time::Duration};
use url::Url;

/// Longest wait for an answer without a body of ours.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest wait for a store to put an object of many parts together.
const COMPLETE: Duration = Duration::from_secs(600);
/// A slower way to the store is as good as none, bytes a second.
pub(super) const SLOWEST: u64 = 64 * 1024;
/// Whose object it is: `RECORDING/PART`.
const OWNER: &str = "reeldpart";
const SHA256: &str = "sha256";
/// Longest text of an error, characters.
const MAX_TEXT: usize = 300;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("[storage] cannot be used: {0}")]
    Config(String),
    #[error("the object is not in the store")]
    NotFound,
    #[error("an object of this name is there")]
    Exists,
    #[error("{0} is in another store than [storage] url says now")]
    Elsewhere(String),
    #[error("the store did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("the store: {0}")]
    Failed(String),
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { .. } => Self::NotFound,
            Error::AlreadyExists { .. } | Error::Precondition { .. } => Self::Exists,
            e => Self::Failed(told(&e)),
        }
    }
}

/// What an error comes to, without the URLs of the guard's own errors.
fn told(error: &Error) -> String {
    let text = match (outgoing_cause(error), error) {
        (Some(outgoing), _) => outgoing.to_string(),
        (None, Error::PermissionDenied { .. }) => "it refuses: the credentials may not do this".into(),
        (None, Error::Unauthenticated { .. }) => "it does not know the credentials".into(),
        (None, error) => error.to_string(),
    };
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.chars().take(MAX_TEXT).collect()
}

fn outgoing_cause(error: &Error) -> Option<&OutgoingError> {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    loop {
        match cause.downcast_ref() {
            Some(outgoing) => return Some(outgoing),
            None => cause = cause.source()?,
        }
    }
}

/// What the store says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Bytes.
    pub size: u64,
    pub etag: Option<String>,
    /// `RECORDING/PART`, as its upload told.
    pub owner: Option<String>,
    /// Of its file, as its upload told.
    pub sha256: Option<String>,
}

/// What an object is, told with it.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub content_type: &'static str,
    pub owner: String,
    pub sha256: Option<String>,
}

impl About {
    fn attributes(&self) -> Attributes {
        let own = |name: &'static str| Attribute::Metadata(name.into());
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, self.content_type.into());
        attributes.insert(own(OWNER), AttributeValue::from(self.owner.clone()));
        if let Some(sha256) = &self.sha256 {
            attributes.insert(own(SHA256), AttributeValue::from(sha256.clone()));
        }
        attributes
    }
}

/// `[storage] url`. A cheap clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    kind: StoreKind,
    /// `s3://bucket`.
    root: String,
    prefix: String,
    origin: String,
    objects: Arc<dyn ObjectStore>,
    multipart: Arc<dyn MultipartStore>,
    signer: Arc<dyn Signer>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

impl Store {
    /// Reads credentials from files and the environment where the configuration has none; asks nobody.
    pub fn new(config: &StoreConfig, outgoing: Outgoing) -> Result<Self, StoreError> {
        let guard = Guarded(outgoing);
        let (objects, multipart, signer) = match config.kind {
            StoreKind::S3 => of(s3(config, guard)?),
            StoreKind::Gs => of(gs(config, guard)?),
            StoreKind::Az => of(az(config, guard)?),
        };
        let root = format!("{}://{}", config.kind.scheme(), config.bucket);
        let (kind, prefix) = (config.kind, config.prefix.clone());
        // The providers' own hosts depend on more than is written here.
        let origin = config.endpoint.as_ref().map(|url| url.origin().ascii_serialization());
        let origin = origin.unwrap_or_else(|| "https:".into());
        Ok(Self { inner: Arc::new(Inner { kind, root, prefix, origin, objects, multipart, signer }) })
    }

    /// Where its signed URLs are: `https://HOST:PORT`, or `https:` where that is the provider's business.
    pub fn origin(&self) -> &str {
        &self.inner.origin
    }

    /// Where a file of this name goes: below the prefix, whatever the name.
    pub(super) fn place_of(&self, name: &str) -> Path {
        let in_prefix = match self.inner.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        };
        let is_plain = !name.contains('/');
        // What is no name there as it is, is written with percent signs.
        Path::parse(&in_prefix).ok().filter(|_| is_plain).unwrap_or_else(|| {
            let prefix = Path::from(self.inner.prefix.as_str());
            prefix.join(name)
        })
    }

    pub(super) fn url_of(&self, place: &Path) -> String {
        format!("{}/{place}", self.inner.root)
    }

    pub(super) fn at(&self, url: &str) -> Result<Path, StoreError> {
        let place = url.strip_prefix(&self.inner.root).and_then(|rest| rest.strip_prefix('/'));
        let place = place.and_then(|place| Path::parse(place).ok());
        place.ok_or_else(|| StoreError::Elsewhere(url.to_owned()))
    }

    /// Whether objects of many parts tell whose they are: Azure's client cannot say it of those.
    pub(super) fn names_owners(&self) -> bool {
        self.inner.kind != StoreKind::Az
    }

    /// `None`: there is no such object.
    pub(super) async fn head(&self, place: &Path) -> Result<Option<Found>, StoreError> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = match within(ANSWER, self.inner.objects.get_opts(place, options)).await {
            Err(StoreError::NotFound) => return Ok(None),
            found => found?,
        };
        let own = |name: &'static str| {
            let value = found.attributes.get(&Attribute::Metadata(name.into()));
            value.map(|value| value.as_ref().to_owned())
        };
        let (owner, sha256) = (own(OWNER), own(SHA256));
        Ok(Some(Found { size: found.meta.size, etag: found.meta.e_tag, owner, sha256 }))
    }

    /// [`Exists`](StoreError::Exists) where an object has the name; `over` takes its place.
    pub(super) async fn put(
        &self,
        place: &Path,
        bytes: Bytes,
        about: &About,
        over: bool,
    ) -> Result<(), StoreError> {
        let limit = time_for(bytes.len() as u64);
        let mode = if over { PutMode::Overwrite } else { PutMode::Create };
        let options = |mode| PutOptions { mode, attributes: about.attributes(), ..PutOptions::default() };
        let payload = PutPayload::from_bytes(bytes);
        let put = self.inner.objects.put_opts(place, payload.clone(), options(mode));
        match tokio::time::timeout(limit, put).await {
            Ok(Ok(_)) => Ok(()),
            // One that knows no conditions: it is looked whether the name is free, right before.
            Ok(Err(Error::NotImplemented { .. } | Error::NotSupported { .. })) if !over => {
                if self.head(place).await?.is_some() {
                    return Err(StoreError::Exists);
                }
                let put = self.inner.objects.put_opts(place, payload, options(PutMode::Overwrite));
                within(limit, put).await.map(drop)
            }
            Ok(Err(e)) => Err(e.into()),
            Err(_) => Err(StoreError::TimedOut(limit)),
        }
    }

    pub(super) async fn begin_parts(&self, place: &Path, about: &About) -> Result<String, StoreError> {
        let multipart = &self.inner.multipart;
        if !self.names_owners() {
            return within(ANSWER, multipart.create_multipart(place)).await;
        }
        let attributes = about.attributes();
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        within(ANSWER, multipart.create_multipart_opts(place, options)).await
    }

    /// `index` counts from 0. The answer is what [`end_parts`](Self::end_parts) wants. Hashes the bytes: not for an async thread.
    pub(super) async fn put_part(
        &self,
        place: &Path,
        upload: &String,
        index: usize,
        bytes: Bytes,
    ) -> Result<String, StoreError> {
        let limit = time_for(bytes.len() as u64);
        let put = self.inner.multipart.put_part(place, upload, index, PutPayload::from_bytes(bytes));
        Ok(within(limit, put).await?.content_id)
    }

    pub(super) async fn end_parts(
        &self,
        place: &Path,
        upload: &String,
        parts: Vec<String>,
    ) -> Result<(), StoreError> {
        let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
        within(COMPLETE, self.inner.multipart.complete_multipart(place, upload, parts)).await.map(drop)
    }

    /// One that is not there is no error.
    pub(super) async fn abort_parts(&self, place: &Path, upload: &String) -> Result<(), StoreError> {
        match within(ANSWER, self.inner.multipart.abort_multipart(place, upload)).await {
            Err(StoreError::NotFound) => Ok(()),
            other => other,
        }
    }

    /// One that is not there is no error.
    pub(super) async fn delete(&self, place: &Path) -> Result<(), StoreError> {
        match within(ANSWER, self.inner.objects.delete(place)).await {
            Err(StoreError::NotFound) => Ok(()),
            other => other,
        }
    }

    /// A whole object of at most `limit` bytes; `None`: there is none.
    pub(super) async fn get_small(&self, place: &Path, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let found = match within(ANSWER, self.inner.objects.get(place)).await {
            Err(StoreError::NotFound) => return Ok(None),
            found => found?,
        };
        if found.meta.size > limit {
            return Err(StoreError::Failed(format!("{place} has {} bytes", found.meta.size)));
        }
        within(ANSWER, found.bytes()).await.map(Some)
    }

    /// Whether `object` is there as it was uploaded: its size, and its SHA-256 or the store's own word for its content.
    pub async fn has(&self, object: &Remote, size: u64, sha256: &str) -> Result<bool, StoreError> {
        let found = self.head(&self.at(&object.url)?).await?;
        Ok(found.is_some_and(|found| is_same(&found, object.etag.as_deref(), size, sha256)))
    }

    /// A URL that gives the object to whoever has it, for `valid`. `None`: this store cannot sign, or not as it is asked.
    pub async fn presigned(
        &self,
        url: &str,
        valid: Duration,
        disposition: Option<&str>,
    ) -> Result<Option<Url>, StoreError> {
        let place = self.at(url)?;
        let mut options = SignedUrlOptions::default();
        match (self.inner.kind, disposition) {
            (StoreKind::Az, Some(_)) => return Ok(None),
            (_, Some(value)) => options = options.with_query([("response-content-disposition", value)]),
            (_, None) => {}
        }
        let signed = self.inner.signer.signed_url_opts(reqwest::Method::GET, &place, valid, &options);
        match within(ANSWER, signed).await {
            Ok(url) => Ok(Some(url)),
            Err(error) => {
                tracing::debug!(%error, "the store signs no URL; the daemon reads for its clients");
                Ok(None)
            }
        }
    }

    /// The bytes of a range of an object, as they come.
    pub async fn read(
        &self,
        url: &str,
        range: RangeInclusive<u64>,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, StoreError> {
        let place = self.at(url)?;
        let range = Some(GetRange::Bounded(*range.start()..range.end().saturating_add(1)));
        let options = GetOptions { range, ..GetOptions::default() };
        let found = within(ANSWER, self.inner.objects.get_opts(&place, options)).await?;
        // A store that stands still ends it.
        let next = |mut bytes: BoxStream<'static, object_store::Result<Bytes>>| async {
            let piece = match tokio::time::timeout(ANSWER, bytes.next()).await {
                Ok(piece) => piece?.map_err(|e| io::Error::other(StoreError::from(e))),
                Err(_) => Err(io::Error::other(StoreError::TimedOut(ANSWER))),
            };
            let rest = if piece.is_ok() { bytes } else { stream::empty().boxed() };
            Some((piece, rest))
        };
        Ok(stream::unfold(found.into_stream(), next).boxed())
    }
}

/// Whether what the store has is a part's file.
pub(super) fn is_same(found: &Found, etag: Option<&str>, size: u64, sha256: &str) -> bool {
    let by_hash = found.sha256.as_deref().map(|theirs| theirs == sha256);
    let by_etag = etag.is_some() && found.etag.as_deref() == etag;
    found.size == size && by_hash.unwrap_or(by_etag)
}

fn time_for(bytes: u64) -> Duration {
    ANSWER + Duration::from_secs(bytes / SLOWEST)
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
    let answered = tokio::time::timeout(limit, asked).await.map_err(|_| StoreError::TimedOut(limit))?;
    Ok(answered?)
}

type Clients = (Arc<dyn ObjectStore>, Arc<dyn MultipartStore>, Arc<dyn Signer>);

fn of(client: impl ObjectStore + MultipartStore + Signer) -> Clients {
    let client = Arc::new(client);
    (client.clone(), client.clone(), client)
}

/// One short try more; the outbox has patience.
fn retry() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: 1, retry_timeout: Duration::from_secs(10) }
}

fn unusable(error: Error) -> StoreError {
    StoreError::Config(told(&error))
}

fn s3(config: &StoreConfig, guard: Guarded) -> Result<object_store::aws::AmazonS3, StoreError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&config.bucket)
        .with_allow_http(config.allow_http)
        .with_checksum_algorithm(Checksum::SHA256)
        // They go one by one, and not every store has the other way.
        .with_disable_bulk_delete(true)
        .with_retry(retry())
        .with_http_connector(guard);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some((id, secret)) = keys(config) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret.reveal());
    }
    builder.build().map_err(unusable)
}

fn gs(config: &StoreConfig, guard: Guarded) -> Result<object_store::gcp::GoogleCloudStorage, StoreError> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&config.bucket)
        .with_retry(retry())
        .with_http_connector(guard);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint.as_str().trim_end_matches('/'));
    }
    if let Some(file) = &config.credentials_file {
        builder = builder.with_service_account_path(file.to_string_lossy());
    }
    builder.build().map_err(unusable)
}

fn az(config: &StoreConfig, guard: Guarded) -> Result<object_store::azure::MicrosoftAzure, StoreError> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&config.bucket)
        .with_allow_http(config.allow_http)
        .with_retry(retry())
        .with_http_connector(guard);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/').to_owned());
    }
    if let Some((account, key)) = keys(config) {
        builder = builder.with_account(account).with_access_key(key.reveal());
    }
    builder.build().map_err(unusable)
}

fn keys(config: &StoreConfig) -> Option<(&String, &Secret)> {
    config.access_key_id.as_ref().zip(config.secret_access_key.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;
    use object_store::memory::InMemory;

    #[derive(Debug)]
    struct SignsNothing;

    impl Signer for SignsNothing {
        fn signed_url<'life, 'path, 'answer>(
            &'life self,
            _: reqwest::Method,
            _: &'path Path,
            _: Duration,
        ) -> std::pin::Pin<Box<dyn Future<Output = object_store::Result<Url>> + Send + 'answer>>
        where
            'life: 'answer,
            'path: 'answer,
            Self: 'answer,
        {
            Box::pin(async { Err(Error::NotSupported { source: "no key".into() }) })
        }
    }

    /// As one whose credentials cannot sign URLs.
    fn store(prefix: &str) -> Store {
        let objects = Arc::new(InMemory::new());
        let inner = Inner {
            kind: StoreKind::S3,
            root: "s3://bucket".into(),
            prefix: prefix.into(),
            origin: "https:".into(),
            multipart: objects.clone(),
            objects,
            signer: Arc::new(SignsNothing),
        };
        Store { inner: Arc::new(inner) }
    }

    #[test]
    fn a_name_never_leaves_the_prefix() {
        for (prefix, name, wanted) in [
            ("", "cam.mp4", "s3://bucket/cam.mp4"),
            ("a/b", "cam 1 #2 100%.mp4", "s3://bucket/a/b/cam 1 #2 100%.mp4"),
            ("a", "Größe.mp4", "s3://bucket/a/Größe.mp4"),
            ("a", "..", "s3://bucket/a/%2E%2E"),
            ("a", "../x.mp4", "s3://bucket/a/..%2Fx.mp4"),
        ] {
            let store = store(prefix);
            let place = store.place_of(name);
            assert_eq!(store.url_of(&place), wanted);
            assert_eq!(store.at(wanted).expect("a place"), place);
        }
        for other in ["s3://other/cam.mp4", "gs://bucket/cam.mp4", "s3://bucket", "s3://bucket2/cam.mp4"] {
            assert!(matches!(store("").at(other), Err(StoreError::Elsewhere(_))), "{other}");
        }
    }

    #[tokio::test]
    async fn an_object_is_read_in_ranges_where_no_url_can_be_signed() {
        let store = store("a");
        let place = store.place_of("cam.mp4");
        let about = About { content_type: "video/mp4", owner: "id/1".into(), sha256: Some("ab".repeat(32)) };
        store.put(&place, "0123456789".into(), &about, false).await.expect("put");
        let again = store.put(&place, "another".into(), &about, false).await;
        assert!(matches!(again, Err(StoreError::Exists)), "{again:?}");
        let found = store.head(&place).await.expect("an answer").expect("an object");
        assert_eq!((found.size, found.owner.as_deref()), (10, Some("id/1")));
        assert!(is_same(&found, None, 10, &"ab".repeat(32)));
        assert!(!is_same(&found, None, 9, &"ab".repeat(32)) && !is_same(&found, None, 10, "cd"));

        let url = store.url_of(&place);
        assert_eq!(store.presigned(&url, ANSWER, None).await.expect("an answer"), None);
        for (range, wanted) in [(0..=9, "0123456789"), (3..=3, "3"), (8..=9, "89")] {
            let pieces: Vec<Bytes> =
                store.read(&url, range).await.expect("bytes").try_collect().await.expect("all");
            assert_eq!(pieces.concat(), wanted.as_bytes());
        }
        store.delete(&place).await.expect("deleted");
        assert_eq!(store.head(&place).await.expect("an answer"), None);
        assert!(matches!(store.read(&url, 0..=1).await.map(drop), Err(StoreError::NotFound)));
    }
}
