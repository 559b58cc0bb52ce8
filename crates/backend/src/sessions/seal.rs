//! Seals what hosts keep for the next backend, so that a host can name no session and no connection but its own.

use std::sync::Arc;

use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use shellbridge_protocol::{
    ids::{SessionId, UserId},
    times::UnixMs,
};

/// Length of a seal: an HMAC-SHA256 in base64url.
const LENGTH: usize = 43;

/// Makes and checks seals. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Seal(Arc<(EncodingKey, DecodingKey)>);

impl Seal {
    /// The secret must outlive the hosts, and be unknown to them.
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(Arc::new((EncodingKey::from_secret(secret), DecodingKey::from_secret(secret))))
    }

    /// Seals the notes for a session.
    pub(super) fn put_notes(&self, id: &SessionId, owner: &UserId, created_at: UnixMs, notes: &str) -> Bytes {
        self.put(&[id, owner, &created_at.0.to_string()], notes).into()
    }

    /// The notes, if they were sealed for this session.
    pub(super) fn check_notes<'a>(
        &self,
        id: &SessionId,
        owner: &UserId,
        created_at: UnixMs,
        sealed: &'a [u8],
    ) -> Option<&'a str> {
        self.check(&[id, owner, &created_at.0.to_string()], std::str::from_utf8(sealed).ok()?)
    }

    /// Puts a seal before `text` that holds for this text and subject.
    pub(super) fn put(&self, subject: &[&str], text: &str) -> String {
        // Infallible: an HMAC takes any key and message. What has no seal is not restored.
        let seal = crypto::sign(&message(subject, text), &self.0.0, Algorithm::HS256).unwrap_or_default();
        seal + text
    }

    /// The text, if its seal holds for this subject.
    pub(super) fn check<'a>(&self, subject: &[&str], sealed: &'a str) -> Option<&'a str> {
        let (seal, text) = sealed.split_at_checked(LENGTH)?;
        let holds = crypto::verify(seal, &message(subject, text), &self.0.1, Algorithm::HS256);
        holds.is_ok_and(|holds| holds).then_some(text)
    }
}

/// Unambiguous, because JSON text says where each part ends.
fn message(subject: &[&str], text: &str) -> Vec<u8> {
    serde_json::to_vec(&(subject, text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_one_text_and_subject_under_one_secret() {
        let seal = Seal::new(b"secret");
        let sealed = seal.put(&["s", "c"], "https://api");
        assert_eq!(seal.check(&["s", "c"], &sealed), Some("https://api"));
        for subject in [&["s", "d"][..], &["sc"], &["s", "c", ""]] {
            assert_eq!(seal.check(subject, &sealed), None, "{subject:?}");
        }
        assert_eq!(seal.check(&["s", "c"], &sealed.replace("api", "apj")), None);
        assert_eq!(seal.check(&["s", "c"], "https://api"), None);
        assert_eq!(Seal::new(b"other").check(&["s", "c"], &sealed), None);
    }
}
