//! The Autobahn fuzzing client against the gateway: sections 1 to 7 and 10, which are all of RFC 6455 but
//! compression (12, 13: not offered, as on AWS) and performance (9: messages beyond API Gateway's limits).
//!
//! The gateway echoes, because the route has a route response. [`EXCEPTIONS`] omits cases that conflict with API
//! Gateway's own rules, each with its reason; the `limits` tests of `conformance` show that they fail as on AWS.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use support::{Stack, http};

/// Cases that API Gateway's own rules reject, with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("1.2.*", "binary messages: API Gateway closes with 1003"),
    ("1.1.6", "a frame of 65,535 bytes: beyond 32 KiB API Gateway closes with 1009"),
    ("1.1.7", "a frame of 65,536 bytes: beyond 32 KiB API Gateway closes with 1009"),
    ("1.1.8", "a frame of 65,536 bytes in many TCP segments: beyond 32 KiB API Gateway closes with 1009"),
];

/// Cases run with larger limits, so that the framing itself is tested anyway.
const WITH_LARGER_LIMITS: &[&str] = &["1.1.6", "1.1.7", "1.1.8"];

const OURS: &str = "tests/autobahn/setup.sh";

fn wstest() -> PathBuf {
    if let Some(path) = std::env::var_os("WSTEST") {
        return path.into();
    }
    let target = Path::new(env!("CARGO_BIN_EXE_gateway")).ancestors().nth(2).unwrap();
    let path = target.join("autobahn/bin/wstest");
    assert!(
        path.is_file(),
        "the Autobahn fuzzing client is missing: run crates/gateway/{OURS} {} (it needs Python 2.7), or set WSTEST",
        target.join("autobahn").display()
    );
    path
}

/// Runs cases and returns the behaviour and closing behaviour of each.
fn fuzz(stack: &Stack, cases: &[&str], exclude: &[&str]) -> BTreeMap<String, (String, String)> {
    let directory = stack.directory();
    let reports = directory.join("reports");
    let spec = json!({
        "outdir": reports,
        "servers": [{ "agent": "gateway", "url": stack.websocket }],
        "cases": cases,
        "exclude-cases": exclude,
        "exclude-agent-cases": {},
    });
    std::fs::write(directory.join("spec.json"), spec.to_string()).unwrap();
    let output = Command::new(wstest())
        .args(["-m", "fuzzingclient", "-s", "spec.json"])
        .current_dir(directory)
        .output()
        .expect("wstest starts");
    let index = std::fs::read_to_string(reports.join("index.json"));
    let index = index.unwrap_or_else(|_| panic!("no report: {}", String::from_utf8_lossy(&output.stderr)));
    let index: Value = serde_json::from_str(&index).unwrap();
    let results = index["gateway"].as_object().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    results
        .iter()
        .map(|(case, result)| (case.clone(), (text(&result["behavior"]), text(&result["behaviorClose"]))))
        .collect()
}

fn assert_passed(results: &BTreeMap<String, (String, String)>) {
    // NON-STRICT: invalid UTF-8 was detected at the end of a frame, or the connection failed before the echo of an
    // earlier message. The RFC allows both. INFORMATIONAL: the RFC does not specify it.
    let good = |behaviour: &str| matches!(behaviour, "OK" | "NON-STRICT" | "INFORMATIONAL");
    let failed: Vec<_> = results.iter().filter(|(_, (case, close))| !good(case) || !good(close)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

fn quick() -> support::StackBuilder {
    Stack::scripted().flag("--connect-rate", "0").flag("--request-rate", "0").env("RUST_LOG", "error")
}

#[tokio::test(flavor = "multi_thread")]
async fn sections_1_to_7_and_10_pass_under_api_gateways_limits() {
    let stack = quick().start().await;
    let exclude: Vec<&str> = EXCEPTIONS.iter().map(|(case, _)| *case).collect();
    let cases = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];
    let results = tokio::task::block_in_place(|| fuzz(&stack, &cases, &exclude));
    assert!(results.len() > 200, "only {} cases ran", results.len());
    assert_passed(&results);
    assert_eq!(stack.state().await["connections"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_frames_pass_under_larger_limits() {
    let stack = quick().flag("--max-frame", "131072").start().await;
    let results = tokio::task::block_in_place(|| fuzz(&stack, WITH_LARGER_LIMITS, &[]));
    assert_eq!(results.len(), WITH_LARGER_LIMITS.len());
    assert_passed(&results);
    assert_eq!(http("GET", &format!("{}__state", stack.control), &[], "").await.status, 200);
}
