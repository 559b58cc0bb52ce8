//! All limits of a session bind, whatever it does.

use serde_json::json;

use super::{Site, delete, done, run, session};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_processes_disk_and_processors_are_limited() {
    let (site, backend) = Site::started().await;
    let limits = json!({"limits": {"memoryMb": 64, "pids": 32, "diskMb": 32, "cpus": 0.5}});
    session(&backend, "s", limits).await;
    session(&backend, "other", json!({})).await;
    let says = async |command: &str| run(&backend, &site.gateway, "s", command).await;
    // The engine's view.
    let container = site.engine.containers();
    let id = container.iter().find(|one| one["Labels"]["shellbridge.session"] == "s").unwrap()["Id"]
        .as_str()
        .unwrap();
    let shown = site.engine.run(&[
        "inspect",
        "--format",
        "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}",
        id,
    ]);
    assert_eq!(shown, format!("{0} {0} 32 500000000", (64 + 32) << 20));
    // Disk: the whole of what can be written is bounded by the limit.
    let fill = "for place in ~ /tmp /var/tmp /dev/shm; do dd if=/dev/zero of=$place/fill bs=64k 2>/dev/null; done; \
        cat ~/fill /tmp/fill /var/tmp/fill /dev/shm/fill | wc -c; rm -f ~/fill /tmp/fill /var/tmp/fill /dev/shm/fill";
    let written: u64 = says(fill).await.parse().unwrap();
    assert!((20 << 20..=32 << 20).contains(&written), "{written} bytes");
    // Memory: a process that takes more is killed, and its session lives.
    let hog = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let hogged = done(&backend, &site.gateway, "s", hog).await;
    assert_ne!(hogged["exitCode"], 0, "{hogged}");
    // Processes: a fork bomb stops at the limit, and others do not notice.
    let bomb = "(for n in $(seq 100); do sleep 1000 >/dev/null 2>&1 & done) 2>/dev/null";
    done(&backend, &site.gateway, "s", bomb).await;
    let processes = site.processes().len();
    assert!(processes < 32 + 16, "{processes} in two containers");
    assert_eq!(run(&backend, &site.gateway, "other", "echo here").await, "here");
    delete(&backend, "s").await;
    delete(&backend, "other").await;
    site.empties().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_above_the_maximum_are_refused() {
    let site = Site::new().await;
    let backend =
        site.settings().set("SHELL_LIMITS_MAX", "memoryMb=512,cpus=1,pids=256,diskMb=512").start().await;
    for limits in
        [json!({"memoryMb": 513}), json!({"pids": 257}), json!({"diskMb": 513}), json!({"cpus": 1.1})]
    {
        let (status, body) = super::create(&backend, "s", json!({"limits": limits})).await;
        assert_eq!(status, 400, "{body}");
    }
}
