//! The parts of `reeld.toml` that say where news and files go to: `[delivery]` and `[limits] allow_delivery`.

use super::daemon::at;
use super::reach::DeliveryRules;
use super::toml_keys::{Settings, count, duration, list, text};
use super::{quoted, read_file};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;
use toml::de::DeValue;
use url::Url;

pub(super) const DELIVERY_KEYS: &[&str] = &[
    "webhooks",
    "webhook_secret",
    "webhook_secret_file",
    "webhook_timeout",
    "webhook_concurrency",
    "upload_concurrency",
    "give_up_after",
];

const SECRET_PREFIX: &str = "whsec_";
/// Bytes of a key (Standard Webhooks, "Signature scheme").
const SECRET_BYTES: RangeInclusive<usize> = 24..=64;
/// Each adds a signature to a header.
const MAX_SECRETS: usize = 8;
/// Each gets every event.
const MAX_WEBHOOKS: usize = 16;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// `[delivery]`. `Debug` shows no secret, and of a webhook its host.
#[derive(Clone, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// Told every event, whatever a start call names besides.
    pub webhooks: Vec<Url>,
    /// Every one of them signs, so that receivers can go over from an old one to a new one. Empty: nothing is signed.
    pub webhook_secrets: Vec<WebhookSecret>,
    /// Longest wait for the answer of a webhook.
    pub webhook_timeout: Duration,
    /// Calls to webhooks at the same time.
    pub webhook_concurrency: usize,
    /// Files that are uploaded at the same time.
    pub upload_concurrency: usize,
    /// Hooks, webhooks and uploads that fail are tried again for so long.
    pub give_up_after: Duration,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            webhooks: Vec::new(),
            webhook_secrets: Vec::new(),
            webhook_timeout: 15 * SECOND,
            webhook_concurrency: 8,
            upload_concurrency: 2,
            give_up_after: 72 * HOUR,
        }
    }
}

impl fmt::Debug for DeliveryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            webhooks,
            webhook_secrets,
            webhook_timeout,
            webhook_concurrency,
            upload_concurrency,
            give_up_after,
        } = self;
        let hosts: Vec<_> = webhooks.iter().map(|url| url.host_str().unwrap_or_default()).collect();
        f.debug_struct("DeliveryConfig")
            .field("webhooks", &hosts)
            .field("webhook_secrets", webhook_secrets)
            .field("webhook_timeout", webhook_timeout)
            .field("webhook_concurrency", webhook_concurrency)
            .field("upload_concurrency", upload_concurrency)
            .field("give_up_after", give_up_after)
            .finish()
    }
}

/// The key that webhooks are signed with. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Vec<u8>);

impl WebhookSecret {
    /// `whsec_` and 24 to 64 bytes in Base64. The error does not repeat it.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WRITE: &str =
            "write \"whsec_\" and 24 to 64 random bytes in Base64, as of: openssl rand -base64 32";
        let coded =
            text.strip_prefix(SECRET_PREFIX).ok_or_else(|| format!("it begins with whsec_; {WRITE}"))?;
        let key = BASE64_STANDARD.decode(coded).map_err(|_| format!("not Base64; {WRITE}"))?;
        match SECRET_BYTES.contains(&key.len()) {
            true => Ok(Self(key)),
            false => Err(format!("{} bytes are no key; {WRITE}", key.len())),
        }
    }

    pub fn key(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

pub(super) fn allow_delivery(settings: &mut Settings) -> DeliveryRules {
    let allow = settings.get("limits", "allow_delivery", Vec::new(), |v| {
        list(v, "10.0.0.0/8", |item| text(item, "10.0.0.0/8")?.parse())
    });
    DeliveryRules { allow }
}

pub(super) fn delivery(settings: &mut Settings, base: &Path, rules: &DeliveryRules) -> DeliveryConfig {
    let default = DeliveryConfig::default();
    let webhooks = settings.get("delivery", "webhooks", Vec::new(), |v| {
        let webhooks = list(v, "https://example.org/reeld", |item| webhook(item, rules))?;
        match webhooks.len() <= MAX_WEBHOOKS {
            true => Ok(webhooks),
            false => Err(format!("more than {MAX_WEBHOOKS}; let one of them hand the events on")),
        }
    });
    let mut time = |key, default, range| settings.get("delivery", key, default, |v| duration(v, range));
    let webhook_timeout = time("webhook_timeout", default.webhook_timeout, SECOND..=600 * SECOND);
    let give_up_after = time("give_up_after", default.give_up_after, SECOND..=90 * 24 * HOUR);
    let mut number = |key, default, range| settings.get("delivery", key, default, |v| count(v, range));
    let config = DeliveryConfig {
        webhook_concurrency: number("webhook_concurrency", default.webhook_concurrency, 1..=256),
        upload_concurrency: number("upload_concurrency", default.upload_concurrency, 1..=64),
        webhook_secrets: secrets(settings, base),
        webhooks,
        webhook_timeout,
        give_up_after,
    };
    let line = settings.line_of("delivery", "webhooks");
    if config.webhook_secrets.is_empty() && !config.webhooks.is_empty() {
        settings.warn(
            line,
            "webhooks are not signed, so receivers cannot tell who calls; write webhook_secret = \"whsec_…\" \
             with 24 to 64 random bytes in Base64, as of: openssl rand -base64 32"
                .into(),
        );
    }
    config
}

/// It may hold a password, so messages do not repeat it.
fn webhook(value: &DeValue, rules: &DeliveryRules) -> Result<Url, String> {
    rules.check(&text(value, "https://example.org/reeld")?).map_err(|e| e.to_string())
}

fn secrets(settings: &mut Settings, base: &Path) -> Vec<WebhookSecret> {
    let given = settings.get("delivery", "webhook_secret", Vec::new(), |v| {
        let secret = |v: &DeValue| WebhookSecret::parse(v.as_str().ok_or("expected a text")?.trim());
        match v.as_array() {
            Some(_) => bounded(list(v, "whsec_…", secret)?),
            None => Ok(vec![secret(v)?]),
        }
    });
    let of_file = settings.get("delivery", "webhook_secret_file", Vec::new(), |v| {
        let name = text(v, "/etc/reeld/webhook_secret")?;
        read_secrets(&at(base, &name)).map_err(|e| format!("{}: {e}", quoted(&name)))
    });
    let (one, other) = ("webhook_secret", "webhook_secret_file");
    match (settings.line_of("delivery", one), settings.line_of("delivery", other)) {
        (1.., line @ 1..) => {
            settings.error(line, format!("{one} and {other} say the same; remove one of them"));
            Vec::new()
        }
        _ if of_file.is_empty() => given,
        _ => of_file,
    }
}

/// One secret on each line; empty lines and those that begin with `#` are left out.
fn read_secrets(file: &Path) -> Result<Vec<WebhookSecret>, String> {
    let bytes = read_file(file).map_err(|problem| problem.what)?;
    let text = str::from_utf8(&bytes).map_err(|_| "not UTF-8; it holds one whsec_… on each line")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let secrets = bounded(lines.map(WebhookSecret::parse).collect::<Result<Vec<_>, _>>()?)?;
    match secrets.is_empty() {
        true => Err("it holds no secret; write one whsec_… on each line".into()),
        false => Ok(secrets),
    }
}

fn bounded(secrets: Vec<WebhookSecret>) -> Result<Vec<WebhookSecret>, String> {
    match secrets.len() <= MAX_SECRETS {
        true => Ok(secrets),
        false => {
            Err(format!("more than {MAX_SECRETS} secrets; remove those that no receiver knows any more"))
        }
    }
}

#[cfg(test)]
mod tests;
