//! What precedes a session's shell: signals, files and `init`; and what it uses.

use shellbridge_session::link::{File, Measure, Measured};

use super::*;

const PROMPT: &str = "PROMPT> ";

/// A session whose home is `home`.
fn at(home: &TempDir) -> Start {
    let mut start = start();
    let path = home.path().to_str().unwrap().to_owned();
    start.shell.env.insert("HOME".to_owned(), path.clone());
    // Read by a login shell only.
    start.files = vec![file(".profile", &format!("PS1='{PROMPT}'"), 0o600)];
    start.shell.cwd = path;
    start
}

fn file(path: &str, content: &str, mode: u32) -> File {
    File { path: path.to_owned(), content: content.as_bytes().to_vec().into(), mode }
}

impl Backend {
    async fn types(&mut self, offset: usize, data: &str) {
        let frame = json!({"type": "input", "clientId": "client-0123456789", "offset": offset, "data": data});
        self.asks(frame).await;
    }

    /// Reads output until it contains `text`, and reports all pushes as delivered.
    async fn shows(&mut self, text: &str) {
        let mut shown = String::new();
        while !shown.contains(text) {
            let push = self.until(text, |said| matches!(said, FromHost::Push(_))).await;
            let FromHost::Push(push) = push else { unreachable!() };
            let frame: Value = serde_json::from_slice(&push.frame).unwrap();
            shown.push_str(frame["data"].as_str().unwrap_or_default());
            self.say(Pushed { push: push.push, sent: Sent::Delivered }).await;
        }
    }

    async fn measures(&mut self, disk: bool) -> Measured {
        self.requests += 1;
        let request = self.requests;
        self.say(Measure { request, disk }).await;
        let mine = |said: &FromHost| matches!(said, FromHost::Measured(it) if it.request == request);
        let FromHost::Measured(measured) = self.until("Measured", mine).await else { unreachable!() };
        measured
    }

    /// Measures until `wanted`.
    async fn measured(&mut self, what: &str, wanted: impl Fn(&Measured) -> bool) -> Measured {
        let found = async {
            loop {
                let measured = self.measures(true).await;
                if wanted(&measured) {
                    return measured;
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("not measured: {what}"))
    }
}

#[tokio::test]
async fn files_are_laid_and_init_runs_in_the_terminal_before_the_shell() {
    let home = TempDir::new().unwrap();
    let mut start = at(&home);
    start.files.push(file("text", "it's laid", 0o600));
    start.files.push(file("bin/run", "#!/bin/sh\ntty <&1\n", 0o755));
    // Text that quoting could change, as long as the API allows.
    let odd = r#"printf '%s\n' "a'b \"c\" $((1+1)) \\ `echo x`"; "#;
    let init = format!("{odd} cat text; bin/run; env | grep -c __sb; A=lost; exit 7 # ");
    start.init = Some(format!("{init}{}", "#".repeat(65_536 - init.len())));
    let (_host, mut backend) = Host::with(start).await;
    backend.connect("c").await;
    backend.attach().await;
    let (push, shown) = backend.output(PROMPT).await;
    let (before, _) = shown.split_once(PROMPT).unwrap();
    assert!(before.starts_with("a'b \"c\" 2 \\ x\r\nit's laid/dev/pts/"), "{before:?}");
    assert!(before.ends_with("\r\n0\r\n"), "{before:?}");
    backend.say(Pushed { push, sent: Sent::Delivered }).await;
    let own =
        backend.runs("tr '\\0' '\\n' </proc/$(pgrep -P $PPID -n -x sh)/environ | grep -c __sb_init").await;
    assert_eq!(own, "0", "the shell does not inherit it");
}

#[tokio::test]
async fn ctrl_c_ends_init_and_the_shell_starts() {
    let home = TempDir::new().unwrap();
    let mut start = at(&home);
    start.init = Some("echo wai''ting; sleep 1000; echo ne''ver".to_owned());
    let (_host, mut backend) = Host::with(start).await;
    backend.connect("c").await;
    backend.attach().await;
    backend.shows("waiting").await;
    backend.types(0, "\u{3}").await;
    backend.shows(PROMPT).await;
    backend.types(1, "echo sh''ell $0\n").await;
    backend.shows("shell /bin/sh").await;
}

#[tokio::test]
async fn init_that_fails_to_parse_and_a_shell_that_is_no_posix_shell_still_start_the_shell() {
    let home = TempDir::new().unwrap();
    for (shell, init, wanted) in [
        ("/bin/sh", "if then (", PROMPT),
        ("/bin/sh", "exec false", PROMPT),
        ("/bin/cat", "echo fi''rst", "first"),
    ] {
        let mut start = at(&home);
        start.shell.shell = shell.to_owned();
        start.init = Some(init.to_owned());
        let (_host, mut backend) = Host::with(start).await;
        backend.connect("c").await;
        backend.attach().await;
        let (push, _) = backend.output(wanted).await;
        backend.say(Pushed { push, sent: Sent::Delivered }).await;
        backend.types(0, "echo on''ward\n").await;
        let answer = if shell == "/bin/cat" { "on''ward\r\necho on''ward" } else { "onward" };
        backend.shows(answer).await;
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_laid_ends_the_session_with_the_reason() {
    let home = TempDir::new().unwrap();
    std::fs::write(home.path().join("file"), "").unwrap();
    let mut start = at(&home);
    start.files = vec![file("file/below", "x", 0o644)];
    let host = Host::start();
    let mut backend = host.connect().await;
    backend.say(Hello { start: Some(start) }).await;
    let FromHost::Ending(ending) = backend.hears().await.unwrap() else { panic!("no Ending") };
    assert!(ending.why.starts_with("files: file/below: Not a directory"), "{}", ending.why);
    host.ended().await;
}

#[tokio::test]
async fn usage_grows_with_what_the_session_does() {
    let home = TempDir::new().unwrap();
    let (_host, mut backend) = Host::with(at(&home)).await;
    backend.connect("c").await;
    let before = backend.measured("disk", |measured| measured.disk.is_some()).await;
    assert!(before.processes >= 1 && before.memory > 0, "{before:?}");
    assert_eq!(backend.measures(false).await.disk, None);
    backend
        .runs("for n in 1 2 3 4 5; do sleep 1000 >/dev/null 2>&1 & done; head -c 1000000 /dev/zero >large")
        .await;
    // With the shell.
    let more = |now: &Measured| now.processes >= 6 && now.disk.is_some_and(|bytes| bytes >= 1_000_000);
    backend.measured("processes and file", more).await;
    // The time of an ended process counts.
    backend.runs("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done").await;
    backend.measured("processor time", |now| now.cpu_ms > before.cpu_ms).await;
}

/// Started by `nohup` or a script's `&`, a host inherited ignored signals, and Ctrl-C did not work in its shells.
#[tokio::test]
async fn regression_shells_do_not_inherit_ignored_signals() {
    let ignoring = ["-c", "trap '' HUP INT QUIT; exec \"$0\"", env!("CARGO_BIN_EXE_session-host")];
    let host = Host::start_by("/bin/sh", &ignoring);
    let mut backend = host.connect().await;
    backend.say(Hello { start: Some(start()) }).await;
    backend.until("Here", |said| matches!(said, FromHost::Here(_))).await;
    backend.connect("c").await;
    let ignored = backend.runs("grep SigIgn /proc/self/status").await;
    let mask = u64::from_str_radix(ignored.split_ascii_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(mask & 0b111, 0, "{ignored}");
    backend.attach().await;
    // Printed by the job itself: a shell gets a signal that arrives before the terminal is the job's.
    let line = "sh -c \"echo rea''dy; exec sleep 1000\"; echo ne''ver\n";
    backend.types(0, line).await;
    backend.shows("ready").await;
    backend.types(line.len(), "\u{3}").await;
    backend.types(line.len() + 1, "echo interr''upted\n").await;
    backend.shows("interrupted").await;
}
