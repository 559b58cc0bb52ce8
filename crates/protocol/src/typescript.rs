//! Keeps `crates/web/src/protocol.gen.ts` equal to the types of this crate.

use std::fmt::Write as _;

use crate::{
    ErrorCode,
    frame::{ClientFrame, ErrorFrame, Exit, HistoryEntry, NoticeCode, ServerFrame},
    ids::{ClientId, ConnectionId, SessionId},
    limits,
    payload::Payload,
    times::{Epoch, UnixMs},
};
use ts_rs::{Config, TS};

fn typescript() -> String {
    let config = Config::new().with_large_int("number");
    let mut out = String::from(
        "// Generated from crates/protocol by `make types`. Do not edit: `make test` fails when it differs.\n\n",
    );
    let mut declare = |docs: Option<String>, decl: String| {
        out.push_str(docs.as_deref().unwrap_or_default());
        write!(out, "export {decl}\n\n").unwrap();
    };
    declare(ErrorCode::docs(), ErrorCode::decl(&config));
    declare(NoticeCode::docs(), NoticeCode::decl(&config));
    declare(ConnectionId::docs(), ConnectionId::decl(&config));
    declare(SessionId::docs(), SessionId::decl(&config));
    declare(ClientId::docs(), ClientId::decl(&config));
    declare(Epoch::docs(), Epoch::decl(&config));
    declare(UnixMs::docs(), UnixMs::decl(&config));
    declare(Payload::docs(), Payload::decl(&config));
    declare(Exit::docs(), Exit::decl(&config));
    declare(HistoryEntry::docs(), HistoryEntry::decl(&config));
    declare(ErrorFrame::docs(), ErrorFrame::decl(&config));
    declare(ClientFrame::docs(), ClientFrame::decl(&config));
    declare(ServerFrame::docs(), ServerFrame::decl(&config));
    let number = |value: usize| value.to_string();
    let millis = |value: std::time::Duration| value.as_millis().to_string();
    for (name, docs, value) in [
        ("PROTOCOL_VERSION", "Version of the protocol.", limits::PROTOCOL_VERSION.to_string()),
        ("SUBPROTOCOL", "WebSocket subprotocol.", format!("{:?}", limits::SUBPROTOCOL)),
        ("MAX_FRAME", "Largest client frame, bytes of JSON.", number(limits::MAX_FRAME)),
        ("INPUT_WINDOW", "Input bytes accepted beyond `inputOffset`.", number(limits::INPUT_WINDOW)),
        ("INPUT_RETRY_MS", "First wait before input is resent.", millis(limits::INPUT_RETRY)),
        ("OUTPUT_WINDOW", "Output bytes sent past an acknowledgement.", number(limits::OUTPUT_WINDOW)),
        (
            "OUTPUT_ACK_EVERY",
            "Unacknowledged output bytes that cause an acknowledgement.",
            number(limits::OUTPUT_ACK_EVERY),
        ),
        ("OUTPUT_ACK_WITHIN_MS", "Longest delay of an acknowledgement.", millis(limits::OUTPUT_ACK_WITHIN)),
        ("PING_EVERY_MS", "Interval of pings.", millis(limits::PING_EVERY)),
        ("PING_EVERY_QUIET_MS", "Interval of pings on a quiet connection.", millis(limits::PING_EVERY_QUIET)),
        (
            "PING_QUIET_AFTER_MS",
            "A connection is quiet after this long without other frames.",
            millis(limits::PING_QUIET_AFTER),
        ),
        ("RESUME_GRACE_MS", "How long the shell waits for a lost client.", millis(limits::RESUME_GRACE)),
        ("COMMAND_TIMEOUT_MS", "Default `timeoutMs`.", millis(limits::COMMAND_TIMEOUT)),
    ] {
        writeln!(out, "/** {docs} */\nexport const {name} = {value};").unwrap();
    }
    out
}

#[test]
fn the_generated_typescript_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../web/src/protocol.gen.ts");
    let want = typescript();
    if std::env::var_os("UPDATE_TYPES").is_some() {
        std::fs::write(path, &want).unwrap();
    }
    let have = std::fs::read_to_string(path).unwrap_or_default();
    assert!(have == want, "{path} differs from the Rust types: run `make types`");
}
