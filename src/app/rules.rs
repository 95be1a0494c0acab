//! The operator's record policy and pipelines: checked, loaded, followed while the daemon runs.

use super::{AppError, lines};
use crate::{
    config::{self, DaemonConfig, Watcher},
    control::{Control, Rules},
    gst,
    ingest::tls::Certificate,
};
use std::path::Path;
use tokio::{signal::unix::Signal, sync::mpsc};

/// `reeld check`: everything that is wrong with the configuration, the policy and the pipelines, one line each;
/// or a line that says what was checked.
pub fn check(given: Option<&Path>) -> Result<String, String> {
    let file = config::find(given).ok_or_else(|| AppError::NoConfig.to_string())?;
    gst::init().map_err(|e| e.to_string())?;
    let (config, mut warnings) = DaemonConfig::load(&file).map_err(|problems| lines(&problems))?;
    let rules = Rules::load(&config.policy_file, &config.paths.pipelines);
    let certificate = config.tls.as_ref().map_or(Ok(()), |files| Certificate::load(files).map(drop));
    let certificate = certificate.map_err(|e| format!("{}: {e}", file.display())).err();
    let (rules, more) = match (rules, certificate) {
        (Ok(rules), None) => rules,
        (rules, certificate) => {
            let problems = rules.err().unwrap_or_default();
            return Err(problems.into_iter().chain(certificate).collect::<Vec<_>>().join("\n"));
        }
    };
    let mut said: Vec<String> = warnings.drain(..).map(|w| w.to_string()).chain(more).collect();
    let containers = rules.templates.containers().collect::<Vec<_>>().join(", ");
    let (file, policy) = (file.display(), rules.file.display());
    said.push(format!("{file}, {policy} and the pipelines ({containers}) have no errors"));
    Ok(said.join("\n"))
}

/// Warnings go to the log.
pub(super) fn load(config: &DaemonConfig) -> Result<Rules, Vec<String>> {
    let (rules, warnings) = Rules::load(&config.policy_file, &config.paths.pipelines)?;
    warnings.iter().for_each(|w| tracing::warn!("{w}"));
    Ok(rules)
}

/// Watches the files from before they are first read. Without a watcher SIGHUP still reloads.
pub(super) fn watch(config: &DaemonConfig) -> (mpsc::Receiver<()>, Option<Watcher>) {
    let (changed, changes) = mpsc::channel(1);
    let files = vec![config.policy_file.clone(), config.paths.pipelines.clone()];
    let watcher = config::watch(files, changed).inspect_err(|e| {
        tracing::warn!("changes of the policy are not seen by themselves; reload with SIGHUP: {e}")
    });
    (changes, watcher.ok())
}

/// Reloads at each change and at each SIGHUP. Files with errors change nothing.
pub(super) async fn follow(
    control: &Control,
    config: &DaemonConfig,
    changes: &mut mpsc::Receiver<()>,
    hangup: &mut Signal,
) {
    loop {
        tokio::select! {
            Some(()) = changes.recv() => {}
            Some(()) = hangup.recv() => {}
            else => return,
        }
        let config = config.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || load(&config)).await else { continue };
        match loaded {
            Ok(rules) => {
                tracing::info!(policy = %rules.file.display(), "policy and pipelines are loaded again");
                control.set_rules(rules);
            }
            Err(problems) => {
                problems.iter().for_each(|p| tracing::error!("not loaded, the old one stays in force: {p}"));
                let error = Some(problems.join("\n"));
                control.set_rules(Rules { error, ..(*control.rules()).clone() });
            }
        }
    }
}
