//! Runs the table of attacks from a container.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Site, delete, done, engine, run, session};
use crate::{
    attacks::{ATTACKS, Attack},
    table::VICTIM,
};

/// What succeeds, because it reaches only the session's own container.
const OWN: [&str; 8] = [
    // A file in its own /tmp, which the first of these makes.
    "write to it",
    "truncate it",
    "rename it",
    "make it readable",
    "take it over",
    // Its own host, which ignores it.
    "signal process 1",
    // The limit of memory is the container's.
    "raise the memory",
    // There is no other user.
    "make a file for others",
];
/// Programs that the image lacks, and a machine may lack.
const ABSENT: [&str; 4] =
    ["become root by sudo", "leave a job to cron", "leave a job to at", "become root by su"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attack_leaves_a_container() {
    let site = Site::new().await;
    tokio::task::block_in_place(|| site.engine.import(engine::tools(), &["tools"]));
    let backend = site.settings().set("SHELL_IMAGE", "tools").start().await;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let limits = json!({"memoryMb": 100, "pids": 40, "diskMb": 10});
    let more = json!({"env": {"V_ID": id, "SECRET": "secret"}, "limits": limits, "shell": "/bin/dash"});
    session(&backend, "victim", more).await;
    let said = run(&backend, &site.gateway, "victim", VICTIM).await;
    let said = said.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
    let mut known: BTreeMap<_, _> = said.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert!(known.len() == 7 && !known.values().any(String::is_empty), "{known:?}");
    // The attacker has learnt the machine's view: the container's own would name things of the attacker's container, too.
    let root = format!("/proc/{}/root", site.outer("victim", &known["V_HOST"]));
    for name in ["V_JOB", "V_HOST", "V_SHELL"] {
        let pid = site.outer("victim", &known[name]);
        known.insert(name.to_owned(), pid.to_string());
    }
    for name in ["V_HOME", "V_TMP", "V_TTY"] {
        let path = format!("{root}{}", known[name]);
        known.insert(name.to_owned(), path);
    }
    let run_dir = site.run_dir.path().join("run");
    let programs = std::path::Path::new(crate::support::BACKEND).parent().unwrap();
    for (name, value) in [
        ("V_ID", id.as_str()),
        ("BACKEND", &backend.pid().to_string()),
        ("RUN_DIR", run_dir.to_str().unwrap()),
        ("PROGRAMS", programs.to_str().unwrap()),
    ] {
        known.insert(name.to_owned(), value.to_owned());
    }
    session(&backend, "attacker", json!({"env": known, "limits": limits, "shell": "/bin/dash"})).await;
    let mut escaped = Vec::new();
    for Attack { name, command, .. } in ATTACKS {
        let done = done(&backend, &site.gateway, "attacker", command).await;
        let code = done["exitCode"].as_i64().unwrap_or_else(|| panic!("{name}: {done}"));
        let missing = done["result"].as_str().is_some_and(|result| result.contains(": not found"));
        let absent = ABSENT.contains(name) || command.contains("$PROGRAMS");
        assert!(!missing || absent, "the image lacks a program: {name}: {done}");
        if code == 0 {
            eprintln!("container: {name}: {done}");
            escaped.push(*name);
        }
    }
    assert_eq!(escaped, OWN);
    // The victim goes on.
    let notes = run(
        &backend,
        &site.gateway,
        "victim",
        "kill -0 $(pgrep -o sleep) && cat ~/notes /tmp/v-$V_ID /dev/shm/v-$V_ID",
    )
    .await;
    assert_eq!(notes, "secret\nsecret\nsecret");
    for name in ["victim", "attacker"] {
        delete(&backend, name).await;
    }
    site.empties().await;
}
