//! The rules of the session, one by one.

use shellbridge_protocol::limits::MAX_FRAME;

use super::*;
use crate::{
    admit::{MAX_CONNECTIONS, MAX_DROPPED, MAX_VIEWERS, MAX_VIEWERS_PER_TOKEN},
    connection::OutletLimits,
};

mod ends;
mod input;
mod model;
mod output;
mod size;
mod unknown;
mod weather;

const MS: Duration = Duration::from_millis(1);
const LIMITS: Limits =
    Limits { output_buffer: 64 * 1024, output_window: 16 * 1024, resume_grace: Duration::from_mins(1) };
/// Longer than any test, in ms.
const LIFE: u64 = 24 * 60 * 60 * 1000;

fn info(id: &str, connected_at: u64, read_only: bool) -> ConnectionInfo {
    ConnectionInfo {
        id: id.into(),
        read_only,
        user: "alice".into(),
        token_id: None,
        connected_at: UnixMs(connected_at),
        token_lasts: Duration::from_hours(7),
        limits: OutletLimits { max_frame: MAX_FRAME, in_flight: 4 },
    }
}

fn session() -> Session {
    with_limits(LIMITS)
}

fn with_limits(limits: Limits) -> Session {
    let settings = Settings { limits, detached_ttl: Duration::from_hours(24), shell_restart: true };
    Session::new("s".into(), settings, UnixMs(7), UnixMs(7 + LIFE))
}

impl Session {
    /// Handles a frame of a known connection and returns the answer.
    fn frame(&mut self, id: &ConnectionId, frame: ClientFrame, now: Duration) -> Option<ServerFrame> {
        match self.decide(id, frame, Request::default(), now) {
            Reply::Frame(answer) => Some(answer),
            Reply::Nothing => None,
            other => panic!("{other:?}"),
        }
    }
}

fn attach(client_id: &str, offset: u64) -> ClientFrame {
    let client_id = format!("client-{client_id:->16}").into();
    ClientFrame::Attach { client_id, cols: 80, rows: 24, output_offset: Some(offset), epoch: None, seq: None }
}

fn input(client_id: &str, offset: u64, data: &str) -> ClientFrame {
    let client_id = format!("client-{client_id:->16}").into();
    let payload = shellbridge_protocol::payload::Payload::new(data.as_bytes());
    ClientFrame::Input { client_id, offset, payload, epoch: None, output_offset: None }
}

fn ack(output_offset: u64) -> ClientFrame {
    ClientFrame::Ack { output_offset, epoch: None }
}

/// A connection attached as a client with the same name.
fn joined(session: &mut Session, name: &str, now: Duration) -> ConnectionId {
    let id: ConnectionId = name.into();
    session.connect(info(name, 1, false), now).unwrap();
    let answer = session.frame(&id, attach(name, 0), now);
    assert!(matches!(answer, Some(ServerFrame::Attached { .. })), "{answer:?}");
    id
}

fn code(answer: Option<ServerFrame>) -> Option<ErrorCode> {
    match answer {
        Some(ServerFrame::Error(error)) => Some(error.code),
        _ => None,
    }
}

/// Runs the screen model, as its thread would.
fn follow(session: &mut Session, now: Duration) {
    loop {
        session.advance(now);
        let mut turns = Vec::new();
        for effect in std::mem::take(&mut session.effects) {
            match effect {
                Effect::Follow(work) => turns.push(work),
                effect => session.effects.push_back(effect),
            }
        }
        if turns.is_empty() {
            return;
        }
        for mut work in turns {
            work.run();
            session.handle_followed(work);
        }
    }
}

/// Delivers all pushes and returns their frames.
fn pushed(session: &mut Session, now: Duration) -> Vec<(ConnectionId, ServerFrame)> {
    let mut all = Vec::new();
    loop {
        follow(session, now);
        let effects: Vec<_> = session.effects.drain(..).collect();
        if effects.is_empty() {
            return all;
        }
        for effect in effects {
            if let Effect::Push { to, frame, kind } = effect {
                assert!(frame.len() <= MAX_FRAME, "a frame of {} bytes", frame.len());
                session.handle_pushed(&to, kind, Sent::Delivered, now);
                all.push((to, serde_json::from_slice(&frame).unwrap()));
            }
        }
    }
}

fn output_bytes(frames: &[(ConnectionId, ServerFrame)], to: &str) -> usize {
    let mine = frames.iter().filter(|(id, _)| &**id == to);
    mine.map(|(_, frame)| match frame {
        ServerFrame::Output { payload, .. } => payload.clone().decode().unwrap().len(),
        _ => 0,
    })
    .sum()
}
