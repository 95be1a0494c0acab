//! Webhooks of the configuration that want to be told no more (they answered 410), until they are subscribed again.

use super::{
    Library, LibraryError,
    catalog::{get, time},
    sql,
};
use chrono::{DateTime, Utc};

impl Library {
    /// Notes that `url` wants to be told no more.
    pub async fn webhook_gone(&self, url: &str, at: DateTime<Utc>) -> Result<(), LibraryError> {
        const WHAT: &str = "end a subscription";
        let mut tx = self.write(WHAT).await?;
        sqlx::query("INSERT INTO webhook_gone (url, at_ms) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(url)
            .bind(at.timestamp_millis())
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// The webhooks that want to be told no more, and since when. Those that are not among `known` are forgotten, so that
    /// one that is taken out of the configuration and put in again is told again.
    pub async fn webhooks_gone(
        &self,
        known: &[String],
    ) -> Result<Vec<(String, DateTime<Utc>)>, LibraryError> {
        const WHAT: &str = "read ended subscriptions";
        let rows = sqlx::query("SELECT url, at_ms FROM webhook_gone").fetch_all(self.readers()).await;
        let mut gone = Vec::new();
        let mut unknown = Vec::new();
        for row in rows.map_err(sql(WHAT))? {
            let url: String = get(&row, "url")?;
            match known.contains(&url) {
                true => gone.push((url, time(get(&row, "at_ms")?, "at_ms")?)),
                false => unknown.push(url),
            }
        }
        self.webhooks_back(&unknown).await?;
        Ok(gone)
    }

    /// They are told again.
    pub async fn webhooks_back(&self, urls: &[String]) -> Result<(), LibraryError> {
        const WHAT: &str = "begin a subscription";
        if urls.is_empty() {
            return Ok(());
        }
        let mut tx = self.write(WHAT).await?;
        for url in urls {
            let delete = sqlx::query("DELETE FROM webhook_gone WHERE url = ?").bind(url);
            delete.execute(&mut *tx).await.map_err(sql(WHAT))?;
        }
        tx.commit().await.map_err(sql(WHAT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::testing;

    #[tokio::test]
    async fn a_webhook_is_gone_until_it_is_subscribed_again_or_leaves_the_configuration() {
        let (_dir, library) = testing::library().await;
        let (a, b) = ("https://a.org/".to_owned(), "https://b.org/".to_owned());
        let both = [a.clone(), b.clone()];
        let first = testing::recording(0).started_at;
        for url in &both {
            library.webhook_gone(url, first).await.expect("noted");
            library.webhook_gone(url, Utc::now()).await.expect("known already");
        }
        let gone = library.webhooks_gone(&both).await.expect("read");
        assert_eq!(gone, [(a.clone(), first), (b.clone(), first)]);
        assert_eq!(library.webhooks_gone(&both[..1]).await.expect("read").len(), 1);
        assert_eq!(library.webhooks_gone(&both).await.expect("read").len(), 1, "b was forgotten");
        library.webhooks_back(&both).await.expect("noted");
        assert_eq!(library.webhooks_gone(&both).await.expect("read"), []);
    }
}
