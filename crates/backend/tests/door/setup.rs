//! What a platform sets up for a session: files, `init` and limits; and what it learns of it.

use std::fs;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    hosts::{attach, run, says},
    support::{ADMIN_TOKEN, Backend, Gateway, PATIENCE, Settings, started},
};

/// Creates session "s" of alice in this home. Returns status and body.
async fn create(backend: &Backend, home: &TempDir, more: Value) -> (u16, Value) {
    let mut body = json!({
        "userId": "alice", "sessionId": "s", "shell": "/bin/sh", "cwd": home.path(), "env": {"HOME": home.path()},
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let response = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn show(backend: &Backend, token: &str) -> Value {
    backend.get("/api/sessions/s").bearer_auth(token).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn files_are_laid_and_init_is_shown_before_the_prompt() {
    let (gateway, backend) = started().await;
    let home = TempDir::new().unwrap();
    let setup = json!({
        "files": [
            {"path": ".profile", "content": "PS1='pro''mpt> '"},
            {"path": "lab/ü '\"\\ x", "content": "tä''xt\n", "mode": "0600"},
            {"path": "lab/run", "b64": "IyEvYmluL3NoCnByaW50ZiAncnVuJwo=", "mode": "0755"},
        ],
        "init": "cat lab/ü*; lab/run; printf \" it's %s\" \"$((1 + 1))\"; exit 9",
    });
    assert_eq!(create(&backend, &home, setup).await.0, 201);
    backend.connect("s", "alice", "s").await;
    attach(&backend, &gateway, 0, 1).await;
    assert_eq!(says(&gateway, "tä''xt\r\n", "prompt> ").await, "run it's 2");
    assert_eq!(run(&backend, &gateway, "s", "modes", "stat -c %a lab/*").await, "755\n600");
}

#[tokio::test]
async fn files_at_the_limits_are_laid() {
    let (gateway, backend) = started().await;
    let home = TempDir::new().unwrap();
    // In JSON, each of these characters takes six bytes.
    let content = "\u{1}".repeat(1024);
    let file = |n: usize| json!({"path": format!("{}/{}", "d".repeat(255), n), "content": content});
    let files: Vec<_> = (0..256).map(file).collect();
    let init = format!("echo largest >done #{}", "x".repeat(64 * 1024 - 21));
    let (status, answer) = create(&backend, &home, json!({"files": files, "init": init})).await;
    assert_eq!(status, 201, "{answer}");
    backend.connect("s", "alice", "s").await;
    let count = "until test -s done; do sleep 0.1; done; cat d*/* | wc -c";
    assert_eq!(run(&backend, &gateway, "s", "count", count).await, (256 * 1024).to_string());
}

#[tokio::test]
async fn a_file_is_never_laid_through_a_link() {
    let (_gateway, backend) = started().await;
    let (home, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::os::unix::fs::symlink(other.path(), home.path().join("link")).unwrap();
    let (status, answer) =
        create(&backend, &home, json!({"files": [{"path": "link/x", "content": ""}]})).await;
    let message = answer["message"].as_str().unwrap();
    assert_eq!((status, &answer["code"]), (422, &json!("BAD_FRAME")));
    assert!(message.starts_with("files: link/x: "), "{message}");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    assert_eq!(create(&backend, &home, json!({})).await.0, 201, "the id is free");
}

#[tokio::test]
async fn the_owner_sees_sandbox_and_usage_and_a_viewer_does_not() {
    let (gateway, backend) = started().await;
    let home = TempDir::new().unwrap();
    let (_, made) = create(&backend, &home, json!({"sandbox": "none"})).await;
    let owner = made["token"].as_str().unwrap();
    backend.connect("s", "alice", "s").await;
    run(&backend, &gateway, "s", "leave", "for n in 1 2 3 4 5; do sleep 1000 >/dev/null 2>&1 & done").await;
    let burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
    run(&backend, &gateway, "s", "burn", burn).await;
    let grown = async {
        loop {
            let shown = show(&backend, owner).await;
            assert_eq!((&shown["sandbox"], &shown["userId"]), (&json!("none"), &json!("alice")));
            let number = |name: &str| shown["usage"][name].as_f64().unwrap_or_default();
            if number("processes") >= 6.0 && number("memoryBytes") > 0.0 && number("cpuSeconds") > 0.0 {
                break shown;
            }
        }
    };
    let shown = timeout(PATIENCE, grown).await.expect("its usage grows");
    assert_eq!(shown["usage"].get("diskBytes"), None, "the home may be shared");
    assert_eq!((shown.get("limits"), shown.get("image")), (None, None), "nothing enforces any");
    assert_eq!(show(&backend, ADMIN_TOKEN).await["sandbox"], "none");
    let share = backend.post("/api/sessions/s/share").bearer_auth(owner).json(&json!({}));
    let share: Value = share.send().await.unwrap().json().await.unwrap();
    let seen = show(&backend, share["token"].as_str().unwrap()).await;
    assert_eq!(seen["sessionId"], "s");
    for hidden in ["userId", "sandbox", "usage"] {
        assert_eq!(seen.get(hidden), None, "{hidden}");
    }
}

#[tokio::test]
async fn concurrent_requests_do_not_exceed_a_users_quota_and_a_next_backend_counts_on() {
    let run_dir = TempDir::new().unwrap();
    let gateway = Gateway::start().await;
    let run_path = run_dir.path().join("run");
    let settings = || {
        let settings = Settings::new().pushing_to(&gateway).set("RUN_DIR", run_path.to_str().unwrap());
        settings.set("MAX_SESSIONS_PER_USER", "3")
    };
    let backend = settings().start().await;
    let make = async |backend: &Backend, user: &str| {
        let body = json!({"userId": user, "shell": "/bin/sh"});
        let request = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let answers = join_all((0..9).map(|_| make(&backend, "alice"))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(status, _)| *status == 201);
    assert_eq!((made.len(), refused.len()), (3, 6));
    for (status, answer) in refused {
        assert_eq!((status, &answer["code"]), (429, &json!("RATE_LIMITED")));
        assert!(answer["message"].as_str().unwrap().contains("3 sessions"), "{answer}");
    }
    assert_eq!(make(&backend, "bob").await.0, 201, "another user is not limited");
    backend.counts("shellbridge_sessions_over_quota_total 6").await;
    backend.counts("shellbridge_sessions{sandbox=\"none\"} 4").await;
    backend.crash().await;

    let backend = settings().start().await;
    backend.counts("shellbridge_sessions{sandbox=\"none\"} 4").await;
    assert_eq!(make(&backend, "alice").await.0, 429);
    let path = format!("/api/sessions/{}", made[0].1["sessionId"].as_str().unwrap());
    let shown = backend.get(&path).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(shown.json::<Value>().await.unwrap()["sandbox"], "none", "it was noted");
    assert_eq!(backend.delete(&path).bearer_auth(ADMIN_TOKEN).send().await.unwrap().status(), 204);
    assert_eq!(make(&backend, "alice").await.0, 201, "an ended session does not count");
    backend.terminate();
    backend.ended().await;
}
