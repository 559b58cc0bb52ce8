//! `smoke`, as run after a deployment.
#![expect(clippy::unwrap_used, reason = "a test program: tests fail by panicking")]

use std::process::{Command, Output};

fn smoke(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smoke"));
    for name in ["TOKEN", "SESSION", "SESSIONS_URL", "ADMIN_TOKEN"] {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_stack_with_tls_passes_every_step() {
    let output = smoke(&[]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains(" ok")).count(), 9, "{text}");
    for step in ["ping", "command", "echo", "reconnect"] {
        assert!(text.lines().any(|line| line.starts_with(step) && line.contains(" ok")), "{step}: {text}");
    }
}

#[test]
fn an_unreachable_stack_fails_with_advice() {
    let output = smoke(&["--url", "ws://127.0.0.1:1/prod", "--token", "x"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAILED") && text.contains("handshake: check "), "{text}");
    assert!(text.contains("not tried"), "{text}");
}

#[test]
fn a_deployed_stack_without_credentials_fails_with_the_variables_to_set() {
    let output = smoke(&["--url", "wss://example.org/prod"]);
    let text = text(&output);
    assert!(!output.status.success() && text.contains("TOKEN") && text.contains("ADMIN_TOKEN"), "{text}");
}
