//! The rules of the session, one by one.

use shellbridge_protocol::limits::MAX_FRAME;

use super::*;
use crate::session::Size;

mod ends;
mod input;
mod model;
mod output;
mod size;
mod weather;

const MS: Duration = Duration::from_millis(1);
const LIMITS: Limits =
    Limits { output_buffer: 64 * 1024, output_window: 16 * 1024, resume_grace: Duration::from_mins(1) };

fn info(id: &str, connected_at: i64, read_only: bool) -> ConnectionInfo {
    ConnectionInfo { id: id.into(), read_only, connected_at, token_lasts: Duration::from_hours(7) }
}

fn core() -> Core {
    Core::new(LIMITS, 7)
}

fn attach(client_id: &str, offset: u64) -> ClientFrame {
    let client_id = format!("client-{client_id:->16}");
    ClientFrame::Attach { client_id, cols: 80, rows: 24, output_offset: Some(offset), epoch: None, seq: None }
}

fn input(client_id: &str, offset: u64, data: &str) -> ClientFrame {
    let client_id = format!("client-{client_id:->16}");
    let payload = shellbridge_protocol::payload::Payload::new(data.as_bytes());
    ClientFrame::Input { client_id, offset, payload, epoch: None, output_offset: None }
}

fn ack(output_offset: u64) -> ClientFrame {
    ClientFrame::Ack { output_offset, epoch: None }
}

/// A connection that has attached as a client of the same name.
fn joined(core: &mut Core, name: &str, now: Duration) -> ConnectionId {
    let id: ConnectionId = name.into();
    core.connect(info(name, 1, false), now);
    let answer = core.frame(&id, attach(name, 0), now);
    assert!(matches!(answer, Some(ServerFrame::Attached { .. })), "{answer:?}");
    id
}

fn code(answer: Option<ServerFrame>) -> Option<ErrorCode> {
    match answer {
        Some(ServerFrame::Error(error)) => Some(error.code),
        _ => None,
    }
}

/// The model of the screen follows what it has to, as its thread would.
fn follow(core: &mut Core, now: Duration) {
    loop {
        core.tick(now);
        let mut turns = Vec::new();
        for effect in std::mem::take(&mut core.effects) {
            match effect {
                Effect::Follow(work) => turns.push(work),
                effect => core.effects.push_back(effect),
            }
        }
        if turns.is_empty() {
            return;
        }
        for mut work in turns {
            work.run();
            core.followed(work);
        }
    }
}

/// Frames pushed so far, all of them delivered.
fn pushed(core: &mut Core, now: Duration) -> Vec<(ConnectionId, ServerFrame)> {
    let mut all = Vec::new();
    loop {
        follow(core, now);
        let effects: Vec<_> = core.effects.drain(..).collect();
        if effects.is_empty() {
            return all;
        }
        for effect in effects {
            if let Effect::Push { to, frame, kind } = effect {
                assert!(frame.len() <= MAX_FRAME, "a frame of {} bytes", frame.len());
                core.pushed(&to, kind, Sent::Delivered, now);
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
