use crate::{
    config::{AudioRule, NameTemplate, Policy, Problem, Rotation},
    gst::Templates,
};
use chrono::{DateTime, Utc};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// What the operator's files say about recording: the policy and the pipelines. Reloaded together.
#[derive(Clone)]
pub struct Rules {
    pub file: PathBuf,
    pub policy: Arc<Policy>,
    pub templates: Arc<Templates>,
    pub loaded_at: DateTime<Utc>,
    /// Why the files as they are now are not in force.
    pub error: Option<String>,
}

impl Rules {
    /// Loads both. Blocks on the disk. `Ok` holds warnings, `Err` at least one error; each is `file:line: what`.
    pub fn load(policy_file: &Path, pipelines: &Path) -> Result<(Self, Vec<String>), Vec<String>> {
        let texts = |problems: &[Problem]| problems.iter().map(Problem::to_string).collect::<Vec<_>>();
        let policy = Policy::load(policy_file);
        let templates = Templates::load(pipelines);
        match (policy, templates) {
            (Ok((policy, warnings)), Ok(templates)) => {
                let rules = Self {
                    file: policy_file.to_owned(),
                    policy: Arc::new(policy),
                    templates: Arc::new(templates),
                    loaded_at: Utc::now(),
                    error: None,
                };
                Ok((rules, texts(&warnings)))
            }
            (policy, templates) => {
                let mut problems = policy.err().map(|p| texts(&p)).unwrap_or_default();
                problems.extend(templates.err().into_iter().flatten().map(|p| p.to_string()));
                Err(problems)
            }
        }
    }

    /// The same with sound as it comes wherever a container can carry it.
    pub(super) fn with_audio_as_is(&self) -> Self {
        let policy = Policy { audio: AudioRule::Passthrough, ..(*self.policy).clone() };
        Self { policy: Arc::new(policy), ..self.clone() }
    }

    /// The same with another file name template, or another rotation.
    pub(super) fn with(&self, template: Option<NameTemplate>, rotation: Option<Rotation>) -> Self {
        let mut policy = (*self.policy).clone();
        if let Some(template) = template {
            policy.name.template = template;
        }
        if let Some(rotation) = rotation {
            policy.rotation = rotation;
        }
        Self { policy: Arc::new(policy), ..self.clone() }
    }
}
