use crate::config::{DaemonConfig, Loaded};
use std::time::Duration;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLDER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn load(text: &str, secret_file: &str) -> Loaded<DaemonConfig> {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("secrets"), secret_file).expect("written");
    let file = dir.path().join("reeld.toml");
    std::fs::write(&file, text).expect("written");
    DaemonConfig::load(&file)
}

#[test]
fn delivery_is_read() {
    let text = format!(
        r#"
        [delivery]
        webhooks = ["https://user:hunter2@example.org/hunter2", "http://10.0.0.7:8080/"]
        webhook_secret = ["{SECRET}", "{OLDER}"]
        webhook_timeout = "5s"
        webhook_concurrency = 3
        upload_concurrency = 4
        give_up_after = "1h"
        [limits]
        allow_delivery = ["10.0.0.0/8", "localhost"]
        "#
    );
    let (config, warnings) = load(&text, "").expect("loads");
    assert_eq!(warnings, []);
    let delivery = &config.delivery;
    assert_eq!(delivery.webhooks[1].as_str(), "http://10.0.0.7:8080/");
    assert_eq!(delivery.webhook_secrets.iter().map(|s| s.key().len()).collect::<Vec<_>>(), [24, 24]);
    assert_eq!(
        (delivery.webhook_timeout, delivery.give_up_after),
        (Duration::from_secs(5), Duration::from_secs(3600))
    );
    assert_eq!((delivery.webhook_concurrency, delivery.upload_concurrency), (3, 4));
    assert_eq!(config.allow_delivery.allow.len(), 2);
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("MfKQ"), "{shown}");
}

#[test]
fn secrets_come_from_a_file_too() {
    let text = "[delivery]\nwebhook_secret_file = \"secrets\"";
    let (config, warnings) = load(text, &format!("# in use\n{SECRET}\n\n{OLDER}\n")).expect("loads");
    assert_eq!((config.delivery.webhook_secrets.len(), warnings), (2, vec![]));
}

#[test]
fn unsigned_webhooks_are_a_warning() {
    let (_, warnings) = load("[delivery]\nwebhooks = [\"https://example.org/\"]", "").expect("loads");
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].line == 2 && warnings[0].what.contains("webhook_secret = "), "{}", warnings[0]);
}

#[test]
fn a_mistake_says_what_to_write_and_repeats_no_secret() {
    let both = format!("[delivery]\nwebhook_secret = \"{SECRET}\"\nwebhook_secret_file = \"secrets\"");
    for (text, file, line, told) in [
        (
            "webhooks = [\"http://hunter2:x@2130706433/\"]",
            "",
            2,
            "127.0.0.1 is a loopback address, which [limits] allow_delivery does not list",
        ),
        ("webhooks = [\"ftp://hunter2:x@example.org/\"]", "", 2, "nothing but http and https is spoken"),
        ("webhooks = \"https://example.org/\"", "", 2, "expected a list"),
        ("webhook_secret = \"hunter2\"", "", 2, "it begins with whsec_"),
        ("webhook_secret = \"whsec_hunter2\"", "", 2, "not Base64"),
        ("webhook_secret = \"whsec_aHVudGVyMg==\"", "", 2, "7 bytes are no key"),
        ("webhook_secret_file = \"secrets\"", "hunter2", 2, "\"secrets\": it begins with whsec_"),
        ("webhook_secret_file = \"secrets\"", "# none", 2, "it holds no secret"),
        ("webhook_secret_file = \"gone\"", "", 2, "cannot read it"),
        (both.trim_start_matches("[delivery]\n"), SECRET, 3, "say the same"),
        ("webhook_timeout = \"0s\"", "", 2, "out of range"),
        ("webhook_concurrency = 0", "", 2, "whole number from 1 to 256"),
        ("upload_concurrency = 65", "", 2, "whole number from 1 to 64"),
        ("give_up_after = \"1000days\"", "", 2, "out of range"),
        ("[limits]\nallow_delivery = [\"a/b\"]", "", 3, "no address, block or host"),
    ] {
        let problems = load(&format!("[delivery]\n{text}"), file).expect_err(text);
        let all: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.line, p.what)).collect();
        assert!(
            all.iter().any(|p| p.starts_with(&format!("{line}: ")) && p.contains(told)),
            "{text}: {all:?}"
        );
        assert!(!all.concat().contains("hunter2") && !all.concat().contains("aHVudGVy"), "{all:?}");
    }
}
