//! The protocol between a session's host and the backend over one duplex stream. The crate's README specifies it, under
//! "The link".

mod codec;
mod message;
mod peer;
#[cfg(test)]
mod tests;

pub use self::{
    codec::{Broken, Channel, Decoder, MAJOR, MAX_MESSAGE, MAX_TO_HOST, MINOR, Message, Preface, encode},
    message::*,
};
