//! Starting and stopping, on which `make run` and the end-to-end tests rely.

use std::{net::TcpListener, os::unix::fs::PermissionsExt as _, path::PathBuf};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Stack, example, until, without_capabilities, wrapped};

/// A backend as a shell script. Runs `tell` before it prints its address, and `then` after.
pub(super) fn backend(directory: &TempDir, tell: &str, then: &str) -> PathBuf {
    let path = directory.path().join("backend");
    let script = format!("#!/bin/bash\n{tell}\necho \"listening http://127.0.0.1:$PORT\"\n{then}\n");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub(super) const FOR_EVER: &str =
    "trap 'echo told to stop >&2; exit 0' TERM; while true; do sleep 0.05; done";

pub(super) fn alive(pid: &str) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_taken_port_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let directory = TempDir::new().unwrap();
    let backend = backend(&directory, "touch $(dirname $0)/started", FOR_EVER);
    for flag in ["--listen", "--control", "--dynamodb", "--runtime-api"] {
        let (status, said) =
            Stack::scripted().flag("--backend", &backend).flag(flag, address.to_string()).fails();
        assert_eq!(status.code(), Some(1));
        let said = said.lines().last().unwrap().to_owned();
        assert!(
            said.contains(&format!("cannot listen on {address} ({flag}): Address already in use")),
            "{said}"
        );
    }
    let (status, said) = Stack::scripted()
        .flag("--backend", &backend)
        .flag("--backend-port", address.port().to_string())
        .fails();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("(--backend-port)"), "{said}");
    assert!(!directory.path().join("started").exists(), "nothing is started in vain");
}

#[tokio::test]
async fn the_backend_gets_its_environment_and_shares_secrets_with_the_function() {
    let directory = TempDir::new().unwrap();
    let program = backend(&directory, "env > $(dirname $0)/env", FOR_EVER);
    let stack = Stack::scripted().flag("--backend", &program).env("ADMIN_TOKEN", "given").start().await;
    let text = std::fs::read_to_string(directory.path().join("env")).unwrap();
    let found = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    let page = stack.page.clone().unwrap();
    let port = found("PORT");
    assert_eq!(page, format!("http://127.0.0.1:{port}/"));
    assert_eq!(found("ALLOWED_ORIGINS"), format!("http://127.0.0.1:{port},http://localhost:{port}"));
    assert_eq!(found("WS_URL"), stack.websocket);
    assert_eq!(found("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI"), stack.management);
    assert_eq!(
        (found("DEV_SESSIONS"), found("BIND"), found("ADMIN_TOKEN")),
        ("true".into(), "127.0.0.1".into(), "given".into())
    );
    let mut client = stack.connect().await;
    for (name, value) in [
        ("JWT_SECRET", found("JWT_SECRET")),
        ("BRIDGE_SECRET", found("BRIDGE_SECRET")),
        ("ALLOWED_ORIGINS", found("ALLOWED_ORIGINS")),
        ("BACKEND_URL", page.trim_end_matches('/').to_owned()),
    ] {
        client.send_json(&json!({ "do": "env", "name": name })).await;
        assert_eq!(client.text().await, value, "{name}");
    }
    assert!(found("JWT_SECRET").len() >= 32 && found("JWT_SECRET") != found("BRIDGE_SECRET"));
    // The page may use the control port.
    let origin = [("Origin", page.trim_end_matches('/'))];
    assert_eq!(
        crate::support::http("GET", &format!("{}__state", stack.control), &origin, "").await.status,
        200
    );
}

#[tokio::test]
async fn a_signal_stops_everything_and_leaves_no_process() {
    for signal in [Signal::INT, Signal::TERM] {
        let directory = TempDir::new().unwrap();
        let program = backend(&directory, "echo $$ > $(dirname $0)/pid", FOR_EVER);
        let mut stack = Stack::scripted().flag("--backend", &program).start().await;
        let mut client = stack.connect().await;
        client.send_json(&json!({ "do": "pid" })).await;
        let function = client.text().await;
        let backend = std::fs::read_to_string(directory.path().join("pid")).unwrap().trim().to_owned();
        assert!(alive(&function) && alive(&backend));
        let (stack, status) = tokio::task::spawn_blocking(move || {
            let status = stack.stop(signal);
            (stack, status)
        })
        .await
        .unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(!alive(&function) && !alive(&backend));
        until("its last words", || async { stack.log().contains("told to stop").then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_backend_that_does_not_start_is_reported() {
    let directory = TempDir::new().unwrap();
    let program = backend(&directory, "echo no secret >&2; exit 4", "");
    let (status, said) = Stack::scripted().flag("--backend", &program).flag("--backend-port", "0").fails();
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("no secret") && said.contains("exited before it listened: exit status: 4"),
        "{said}"
    );
    let (status, said) = Stack::scripted().flag("--backend", "/nonexistent/backend").fails();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("cannot start the backend"), "{said}");
}

#[tokio::test]
async fn a_backend_that_exits_is_reported_and_started_again() {
    let directory = TempDir::new().unwrap();
    let program = backend(
        &directory,
        "echo start >> $(dirname $0)/starts",
        "until rm $(dirname $0)/end 2>/dev/null; do sleep 0.02; done",
    );
    let starts =
        || std::fs::read_to_string(directory.path().join("starts")).unwrap_or_default().lines().count();
    let stack = Stack::scripted().flag("--backend", &program).start().await;
    std::fs::write(directory.path().join("end"), "").unwrap();
    until("the message", || async { stack.log().contains("the backend exited").then_some(()) }).await;
    stack.connect().await.send("the gateway goes on").await;
    until("the next start", || async { (starts() == 2).then_some(()) }).await;
}

#[tokio::test]
async fn a_fault_kills_the_backend_below_its_init_once_per_start() {
    let directory = TempDir::new().unwrap();
    let init = "if [ $1 = --init ]; then
            trap 'kill $!; exit 0' TERM
            while true; do
                $0 below &
                wait
            done
        fi
        echo start >> $(dirname $0)/starts";
    let program = backend(&directory, init, FOR_EVER);
    let starts =
        || std::fs::read_to_string(directory.path().join("starts")).unwrap_or_default().lines().count();
    let stack = Stack::scripted().flag("--backend", &program).start().await;
    stack.faults(json!({ "killBackendEveryMs": 50 })).await;
    let state = stack.until_state("two kills", |state| state["backendKills"].as_u64() >= Some(2)).await;
    stack.faults(json!({ "killBackendEveryMs": 0 })).await;
    let kills = state["backendKills"].as_u64().unwrap();
    until("the next start", || async { (starts() as u64 > kills).then_some(()) }).await;
    assert!(!stack.log().contains("the backend exited"), "its init goes on");
}

#[tokio::test]
async fn the_functions_environment_can_be_written_for_others() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("function.env");
    std::fs::write(&file, "old").unwrap();
    let program = backend(&directory, "", FOR_EVER);
    let stack = Stack::empty()
        .flag("--lambda-url", "http://127.0.0.1:9000/2015-03-31/functions/websocket-handler/invocations")
        .flag("--backend", &program)
        .flag("--print-env", &file)
        .start()
        .await;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    let page = stack.page.as_deref().unwrap().trim_end_matches('/');
    for line in [
        "TABLE_NAME=WebSocketConnections".to_owned(),
        format!("BACKEND_URL={page}"),
        format!("AWS_ENDPOINT_URL_DYNAMODB={}", stack.dynamodb),
        format!("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI={}", stack.management),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    for name in ["JWT_SECRET", "BRIDGE_SECRET", "ALLOWED_ORIGINS", "AWS_REGION", "AWS_ACCESS_KEY_ID"] {
        assert!(text.contains(&format!("{name}=")), "{name}");
    }
    assert!(!text.contains("old") && !text.contains("ADMIN_TOKEN"));
}

#[tokio::test]
async fn too_few_descriptors_are_reported_and_survived() {
    let stack = Stack::scripted().descriptors(100).start().await;
    let warned =
        || async { stack.log().contains("cannot raise the limit on open descriptors").then_some(()) };
    until("the warning", warned).await;
    let host = stack.websocket.trim_start_matches("ws://").trim_end_matches("/prod");
    let mut sockets = Vec::new();
    for _ in 0..150 {
        sockets.push(tokio::net::TcpStream::connect(host).await.unwrap());
    }
    until("the message", || async { stack.log().contains("cannot accept a connection").then_some(()) }).await;
    drop(sockets);
    stack.connect().await;
}

#[tokio::test]
async fn a_gateway_stops_with_its_parent_if_configured() {
    let directory = TempDir::new().unwrap();
    let script = "\"$0\" --listen 127.0.0.1:0 --control 127.0.0.1:0 --function \"$1\" --stop-with-parent > out 2> log &
        echo $!
        until grep -q ready out; do sleep 0.02; done";
    let shell = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_gateway")])
        .arg(example("scripted_function"))
        .current_dir(directory.path())
        .output()
        .unwrap();
    let pid = String::from_utf8(shell.stdout).unwrap().trim().to_owned();
    pid.parse::<u32>().unwrap();
    until("its end", || async { (!alive(&pid)).then_some(()) }).await;
}

#[tokio::test]
async fn regression_other_processes_cannot_read_the_gateways_environment() {
    let secret = "gateway-needle-gateway-needle-gateway";
    let stack = Stack::scripted().without_capabilities().env("JWT_SECRET", secret).start().await;
    // The reader runs as the same user, as does a shell under `make run`.
    let read = |pid: &str| {
        let mut cat = wrapped(&without_capabilities(), "cat");
        let output = cat.arg(format!("/proc/{pid}/environ")).output().unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8(output.stderr).unwrap())
    };
    let mut client = stack.connect().await;
    client.send_json(&json!({ "do": "pid" })).await;
    let (found, _) = read(&client.text().await);
    assert!(found.contains(secret), "the scripted function hides nothing, so the reader works");
    let (found, error) = read(&stack.pid().to_string());
    assert!(found.is_empty(), "{found}");
    assert!(error.contains("Permission denied"), "{error}");
}
