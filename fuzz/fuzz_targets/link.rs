//! A link's decoder: no panic, bounded memory, and the same messages however the bytes are split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shellbridge_session::link::{Channel, FromHost, Message, Preface, ToHost};

const READ: usize = 32 * 1024;

/// What arrives when the bytes come in pieces of this size.
fn arrived<M: Message + std::fmt::Debug>(bytes: &[u8], piece: usize) -> (Option<Preface>, Vec<String>, bool) {
    let mut channel = Channel::new("".into());
    let mut messages = Vec::new();
    let mut broken = false;
    'all: for piece in bytes.chunks(piece) {
        let buffer = channel.room(piece.len());
        buffer.extend_from_slice(piece);
        assert!(buffer.capacity() <= 4 * (M::MAX + READ));
        loop {
            match channel.message::<M>() {
                Ok(Some(message)) => messages.push(format!("{message:?}")),
                Ok(None) => break,
                Err(_) => {
                    broken = true;
                    break 'all;
                }
            }
        }
    }
    (channel.other().cloned(), messages, broken)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let piece = usize::from(*first) + 1;
    assert_eq!(arrived::<FromHost>(bytes, piece), arrived::<FromHost>(bytes, READ));
    assert_eq!(arrived::<ToHost>(bytes, piece), arrived::<ToHost>(bytes, READ));
});
