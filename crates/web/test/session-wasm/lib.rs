//! Drives a [`Session`] for the browser library's tests: takes an event as JSON and returns the actions that follow.
//!
//! The module holds one session. JavaScript writes an [`Event`] into the module's memory at [`buffer`], calls [`handle`],
//! and reads the [`Step`] there. After a panic, the buffer holds its message, and the module is unusable.

mod messages;

use std::{cell::RefCell, collections::HashMap, time::Duration};

use shellbridge_protocol::{
    ErrorCode,
    frame::{ClientFrame, Exit, FrameHead, ServerFrame},
    ids::ConnectionId,
    limits::MAX_FRAME,
    payload::Payload,
    times::UnixMs,
};
use shellbridge_session::{
    ConnectionInfo, Effect, Limits, OutletLimits, PushKind, Reply, Request, Sent, Session, Settings,
};

use crate::messages::{Action, Event, EventKind, Peer, Step, Write};

/// Life of the session and its tokens; longer than any test.
const LIFE: Duration = Duration::from_hours(24);

struct Driver {
    session: Session,
    /// Pushes with an outstanding outcome.
    pushes: HashMap<u64, (ConnectionId, PushKind)>,
    count: u64,
}

impl Driver {
    fn start(started: UnixMs, limits: Limits) -> Self {
        let settings = Settings { limits, detached_ttl: LIFE, shell_restart: false };
        let session = Session::new("s1".into(), settings, started, started.saturating_add(LIFE));
        Self { session, pushes: HashMap::new(), count: 0 }
    }

    fn handle(&mut self, kind: EventKind, now: Duration, actions: &mut Vec<Action>) {
        match kind {
            EventKind::Start { .. } => panic!("the session has started"),
            EventKind::Connect(peer) => {
                self.session.handle_connect(peer.info(), now).expect("few connections");
            }
            EventKind::Frame { peer, text } => {
                assert!(text.len() <= MAX_FRAME, "a frame of {} bytes", text.len());
                let frame = ClientFrame::parse(text.as_bytes()).expect("clients send valid frames");
                let to = peer.id.clone();
                let reply = self.session.handle_frame(peer.info(), frame, Request::default(), now);
                if let Some(frame) = answer(reply, &text) {
                    actions.push(Action::Push { to, text: utf8(&frame.to_json()), push: None });
                }
            }
            EventKind::Gone { id } => self.session.handle_gone(&id, now),
            EventKind::Pushed { push, delivered } => {
                let (id, kind) = self.pushes.remove(&push).expect("each push is reported once");
                let sent = if delivered { Sent::Delivered } else { Sent::Gone };
                self.session.handle_pushed(&id, kind, sent, now);
            }
            EventKind::Checked { id, exists } => self.session.handle_checked(&id, exists, now),
            EventKind::Output { bytes } => {
                let bytes = bytes.decode().expect("a payload");
                assert!(bytes.len() <= self.session.read_allowance(now), "more than may be read");
                self.session.handle_output(&bytes);
            }
            EventKind::Written { client_id, count } => self.session.handle_written(&client_id, count, now),
            EventKind::Exit { exit_code } => {
                self.session.handle_exit(Exit { exit_code, signal: None }, now);
            }
            EventKind::Timeout => self.session.handle_timeout(now),
        }
    }

    fn perform(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while let Some(effect) = self.session.poll_effect(now) {
            actions.push(match effect {
                Effect::Push { to, frame, kind } => {
                    assert!(frame.len() <= MAX_FRAME, "a frame of {} bytes", frame.len());
                    self.count += 1;
                    self.pushes.insert(self.count, (to.clone(), kind));
                    Action::Push { to, text: utf8(&frame), push: Some(self.count) }
                }
                Effect::Close { connection: id, last, .. } => {
                    Action::Close { id, last: last.as_deref().map(utf8) }
                }
                Effect::Check(id) => Action::Check { id },
                Effect::End(why) => Action::End { why: format!("{why:?}") },
                Effect::Resize(_) => continue,
                Effect::Follow(mut work) => {
                    work.run();
                    self.session.handle_followed(work);
                    continue;
                }
                Effect::Answer { .. } | Effect::Run { .. } | Effect::StartShell => {
                    panic!("no client sends a command, and no shell is restarted: {effect:?}")
                }
            });
        }
    }
}

impl Peer {
    fn info(self) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            read_only: false,
            user: "alice".into(),
            token_id: None,
            connected_at: self.connected_at,
            token_lasts: LIFE,
            // The limits of `@connections`.
            limits: OutletLimits { max_frame: MAX_FRAME, in_flight: 4 },
        }
    }
}

/// The answer to a frame. As in the backend's bridge, an error refers to the frame.
fn answer(reply: Reply, text: &str) -> Option<ServerFrame> {
    match reply {
        Reply::Frame(ServerFrame::Error(error)) if error.reference.is_none() => {
            assert!(error.code != ErrorCode::BadFrame, "{}", error.message);
            let head = FrameHead::read(text.as_bytes()).expect("a frame");
            Some(error.answering(head.reference()).into())
        }
        Reply::Frame(frame) => Some(frame),
        Reply::Nothing => None,
        Reply::Later | Reply::Echo | Reply::Unknown => panic!("no test sends such a frame: {text}"),
    }
}

fn step(event: &[u8]) -> Step {
    let Event { now, kind } = serde_json::from_slice(event).expect("an event");
    let now = Duration::from_millis(now);
    let mut actions = Vec::new();
    DRIVER.with_borrow_mut(|driver| {
        if let EventKind::Start { started, output_buffer, output_window, resume_grace } = kind {
            let resume_grace = Duration::from_millis(resume_grace);
            *driver = Some(Driver::start(started, Limits { output_buffer, output_window, resume_grace }));
        } else {
            driver.as_mut().expect("a start").handle(kind, now, &mut actions);
        }
        let driver = driver.as_mut().expect("a start");
        driver.perform(now, &mut actions);
        let session = &driver.session;
        let write = session.poll_write();
        Step {
            actions,
            write: write.map(|(client_id, bytes)| Write { client_id, bytes: Payload::new(&bytes) }),
            allowance: session.read_allowance(now),
            timeout: session.poll_timeout().map(whole_ms),
        }
    })
}

/// Rounds up, because a timer that fires early would fire again at once, repeatedly.
fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).expect("within the session's life")
}

fn utf8(json: &[u8]) -> String {
    str::from_utf8(json).expect("JSON is text").to_owned()
}

thread_local! {
    static DRIVER: RefCell<Option<Driver>> = const { RefCell::new(None) };
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Resizes the buffer to `length` bytes. Returns its address, which is valid until the next call.
#[expect(unsafe_code, reason = "the export's name; unique in the module")]
#[unsafe(no_mangle)]
pub extern "C" fn buffer(length: usize) -> *mut u8 {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(length, 0);
        buffer.as_mut_ptr()
    })
}

/// Length of the buffer in bytes.
#[expect(unsafe_code, reason = "the export's name; unique in the module")]
#[unsafe(no_mangle)]
pub extern "C" fn length() -> usize {
    BUFFER.with_borrow(Vec::len)
}

/// Handles the event in the buffer and replaces it with the step.
///
/// # Panics
/// If the client or the session breaks the contract; this fails the test.
#[expect(unsafe_code, reason = "the export's name; unique in the module")]
#[unsafe(no_mangle)]
pub extern "C" fn handle() {
    std::panic::set_hook(Box::new(|panic| BUFFER.set(panic.to_string().into_bytes())));
    let step = step(&BUFFER.take());
    BUFFER.set(serde_json::to_vec(&step).expect("a step is JSON"));
}
