//! How sessions start: what is in their containers, and what is refused.

use serde_json::json;
use tokio::net::TcpListener;

use super::{Engine, IMAGE, Site, Typist, create, delete, done, run, session};
use crate::support::{BRIDGE_SECRET, JWT_SECRET};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_a_container_without_privileges_secrets_and_network() {
    let (site, backend) = Site::started().await;
    session(&backend, "s", json!({"env": {"COURSE": "iam"}})).await;
    let says = async |command: &str| run(&backend, &site.gateway, "s", command).await;
    assert_eq!(
        says("id -u; echo $HOME; pwd; cat welcome").await,
        "1000\n/home/session\n/home/session\nread me"
    );
    assert_eq!(says("echo $COURSE $SHELL $USER").await, "iam /bin/sh student");
    let capabilities = says("grep -E 'Cap|NoNewPrivs' /proc/self/status | tr -s '\\t\\n' ' '").await;
    let none = "0000000000000000";
    assert_eq!(
        capabilities,
        format!("CapInh: {none} CapPrm: {none} CapEff: {none} CapBnd: {none} CapAmb: {none} NoNewPrivs: 1")
    );
    // It may write to its home and to what is for temporary files, and nowhere else.
    let places = "for place in / /bin /etc /usr /var /.shellbridge /root /run /dev /dev/shm /tmp /var/tmp ~; do \
        touch $place/x 2>/dev/null && echo $place; done";
    assert_eq!(says(places).await, "/dev/shm\n/tmp\n/var/tmp\n/home/session");
    // The host is the first process: its shell can neither read, signal nor replace it.
    let host = "kill -9 1; kill -STOP 1; cat /proc/1/environ || cat /proc/1/mem || ls /proc/1/fd || \
        cat /.shellbridge/session-host || rm -f /.shellbridge/session-host || chmod 777 /.shellbridge";
    assert_ne!(done(&backend, &site.gateway, "s", host).await["exitCode"], 0);
    // None of the backend's settings, nor a name of it, is anywhere.
    let seen = says("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; mount").await;
    for secret in [BRIDGE_SECRET, JWT_SECRET, "the-platform-s-own-token", "AWS_", "RUN_DIR"] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
    // Only the loopback interface, and on it nobody.
    let here = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let port = backend.url.rsplit_once(':').unwrap().1.to_owned();
    for port in [port, here.to_string()] {
        let reach = format!("nc -w 2 127.0.0.1 {port} </dev/null");
        assert_ne!(done(&backend, &site.gateway, "s", &reach).await["exitCode"], 0);
    }
    assert_eq!(says("ls /sys/class/net").await, "lo");
    // The host accepts only the container's root.
    let connect = "nc local:/x 2>/dev/null; grep -c @shellbridge /proc/net/unix";
    assert_ne!(says(connect).await, "0", "an abstract socket of this network namespace");
    delete(&backend, "s").await;
    site.empties().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_image_lacks_is_refused_with_the_reason() {
    let (site, backend) = Site::started().await;
    for (more, why) in [
        (json!({"shell": "/bin/zsh"}), "shell: not the absolute path of a file in the image"),
        (json!({"shell": "sh"}), "shell: not the absolute path of a file"),
        (json!({"cwd": "/nowhere"}), "cwd: not the absolute path of a directory in the image"),
    ] {
        let (status, body) = create(&backend, "s", more.clone()).await;
        assert_eq!((status.as_u16(), body["message"].as_str()), (400, Some(why)), "{more}");
    }
    site.empties().await;
    session(&backend, "s", json!({"shell": "/bin/ash", "cwd": "/etc", "env": {"HOME": "/tmp"}})).await;
    assert_eq!(run(&backend, &site.gateway, "s", "echo $SHELL $HOME; pwd").await, "/bin/ash /tmp\n/etc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_gone_is_reported_and_its_sessions_go_on_when_it_is_back() {
    let (mut site, backend) = Site::started().await;
    session(&backend, "s", json!({})).await;
    let gateway = crate::support::Gateway::start().await;
    drop(gateway);
    site.engine.kill();
    let (status, body) = create(&backend, "t", json!({})).await;
    assert_eq!(status, 503, "{body}");
    assert!(body["message"].as_str().unwrap().contains("engine"), "{body}");
    let ready = async || {
        let ready = backend.get("/ready").send().await.unwrap();
        (ready.status().as_u16(), ready.text().await.unwrap())
    };
    while ready().await.0 == 200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(ready().await.1.contains("container engine"));
    let (code, said) =
        site.settings().set("RUN_DIR", site.run_dir.path().join("other").to_str().unwrap()).fails().await;
    assert_eq!(code, 1);
    assert!(said.contains("DOCKER_HOST"), "{said}");
    tokio::task::block_in_place(|| site.engine.serve());
    while ready().await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // The stream was cut, but the container lives.
    let mut typist = Typist::new(&site.gateway, "s");
    typist.attach(&backend).await;
    typist.types(&backend, "echo back a''gain\n").await;
    typist.reads(&backend, "back again").await;
    delete(&backend, "s").await;
    site.empties().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_may_name_an_allowed_image_and_no_other() {
    let site = Site::new().await;
    let archive = Engine::archive();
    site.engine.import(archive, &["--change", "USER root", "--change", "ENV LAB=two", "second"]);
    site.engine.import(archive, &["--change", "VOLUME /data", "third"]);
    let backend = site.settings().set("SHELL_IMAGES", "second, third").start().await;
    for (image, why) in [("unknown", "image: "), ("third", "VOLUME"), ("", "image: ")] {
        let (status, body) = create(&backend, "s", json!({"image": image})).await;
        assert_eq!(status, 400, "{body}");
        assert!(body["message"].as_str().unwrap().contains(why), "{body}");
    }
    session(&backend, "s", json!({"image": "second"})).await;
    assert_eq!(run(&backend, &site.gateway, "s", "echo $LAB; id -u").await, "two\n1000", "never root");
    session(&backend, "t", json!({"image": IMAGE})).await;
    for name in ["s", "t"] {
        delete(&backend, name).await;
    }
    site.empties().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_pulled_is_reported() {
    let site = Site::new().await;
    let backend = site.settings().set("SHELL_IMAGE", "127.0.0.1:1/none/such").start().await;
    let (status, body) = create(&backend, "s", json!({})).await;
    assert_eq!(status, 503, "{body}");
    assert!(body["message"].as_str().unwrap().contains("pull"), "{body}");
    assert_eq!(body["retryable"], true);
}
