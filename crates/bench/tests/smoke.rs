//! `bench smoke`, as somebody who has just deployed a stack runs it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};

fn smoke(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    for name in ["TOKEN", "SESSION", "SESSIONS_URL", "ADMIN_TOKEN"] {
        command.env_remove(name);
    }
    command.arg("smoke").args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_stack_with_tls_passes_every_step() {
    let output = smoke(&[]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains(" ok")).count(), 9, "{said}");
    for step in ["ping", "command", "echo", "reconnect"] {
        assert!(said.lines().any(|line| line.starts_with(step) && line.contains(" ok")), "{step}: {said}");
    }
}

#[test]
fn a_stack_that_is_not_there_fails_with_what_to_look_at() {
    let output = smoke(&["--url", "ws://127.0.0.1:1/prod", "--token", "x"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("FAILED") && said.contains("handshake: look at "), "{said}");
    assert!(said.contains("not tried"), "{said}");
}

#[test]
fn a_deployed_stack_without_a_way_to_sessions_is_told_which_ones_there_are() {
    let output = smoke(&["--url", "wss://example.org/prod"]);
    let said = said(&output);
    assert!(!output.status.success() && said.contains("TOKEN") && said.contains("ADMIN_TOKEN"), "{said}");
}
