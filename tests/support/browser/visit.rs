//! The browser as somebody uses it: pages in tabs, clicks, keys.

use super::{Browser, DEADLINE};
use crate::{daemon::SOON, wait::wait_until};
use fantoccini::{Client, Locator, error::CmdError, wd::WindowHandle};
use serde_json::Value;
use tokio::time::timeout;

/// A tab with a page.
#[derive(Debug, Clone)]
pub struct Tab(WindowHandle);

impl Browser {
    /// Opens a page in a new tab, which is the one in use from then on.
    pub fn open_tab(&self, url: &str) -> Tab {
        let tab = self.wait_for(url, async |client| {
            let tab = client.new_window(true).await?.handle;
            client.switch_to_window(tab.clone()).await?;
            let mut limits = client.get_timeouts().await?;
            limits.set_script(Some(DEADLINE));
            client.update_timeouts(limits).await?;
            client.goto(url).await?;
            Ok(tab)
        });
        Tab(tab)
    }

    pub fn switch_to(&self, tab: &Tab) {
        self.wait_for("its tab", async |client| client.switch_to_window(tab.0.clone()).await);
    }

    /// Clicks where an element is, which has to be there and not hidden by another.
    pub fn click(&self, css: &str) {
        self.wait_for(css, async |client| client.find(Locator::Css(css)).await?.click().await);
    }

    /// Types into a field, behind what is in it. `\u{e007}` is the Enter key.
    pub fn type_into(&self, css: &str, text: &str) {
        self.wait_for(css, async |client| client.find(Locator::Css(css)).await?.send_keys(text).await);
    }

    /// Chooses an option by its value.
    pub fn choose(&self, css: &str, value: &str) {
        self.wait_for(css, async |client| {
            client.find(Locator::Css(css)).await?.select_by_value(value).await.map(drop)
        });
    }

    /// Runs the body of an async function in the page; what it returns.
    pub fn run(&self, body: &str) -> Value {
        let script = format!(
            "const done = arguments[0]; (async () => {{ {body} }})().then((value) => done({{ value }}), \
             (error) => done({{ error: String(error) }}));"
        );
        let mut told = self.wait_for(body, async |client| client.execute_async(&script, Vec::new()).await);
        assert!(told["error"].is_null(), "{body}: {told}");
        told["value"].take()
    }

    /// Waits until an expression is true in the page.
    pub fn wait(&self, expression: &str) {
        wait_until(expression, SOON, || self.run(&format!("return {expression};")) == true);
    }

    fn wait_for<T>(&self, what: &str, work: impl AsyncFnOnce(&Client) -> Result<T, CmdError>) -> T {
        let client = self.client.as_ref().expect("a client until it is dropped");
        let done = self.runtime.block_on(async { timeout(DEADLINE, work(client)).await });
        done.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
            .unwrap_or_else(|e| panic!("{what}: {e}"))
    }
}
