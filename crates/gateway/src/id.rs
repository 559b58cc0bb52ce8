//! Ids: API Gateway's (11 random bytes in padded base64url: 16 characters, the last `=`), Lambda's and X-Ray's.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use rand::RngExt as _;
use uuid::{Builder, Uuid};

use crate::clock;

/// Bytes of an id. The captures show 16 characters, the last of which is padding.
const BYTES: usize = 11;
const CHARACTERS: usize = 16;

/// A new id of a connection, message or request.
pub fn random_id() -> String {
    URL_SAFE.encode(rand::rng().random::<[u8; BYTES]>())
}

/// A version 4 UUID, the form of Lambda's request ids.
pub fn random_uuid() -> Uuid {
    // Not `Uuid::new_v4`, which makes a system call for each.
    Builder::from_random_bytes(rand::rng().random()).into_uuid()
}

/// The root of a new X-Ray trace: `Root=1-TIME-RANDOM`.
pub fn trace_root() -> String {
    let random = rand::rng().random::<u128>() >> 32;
    format!("Root=1-{:08x}-{random:024x}", clock::unix_ms().secs().0)
}

/// Whether a text has the form of an id. If not, `@connections` responds with 400; for an unknown id, with 410
/// (localstack#4694).
pub fn is_well_formed(text: &str) -> bool {
    text.len() == CHARACTERS && URL_SAFE.decode(text).is_ok_and(|bytes| bytes.len() == BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_the_captures() {
        for _ in 0..100 {
            let id = random_id();
            assert!(is_well_formed(&id), "{id}");
            assert!(id.ends_with('='));
        }
        assert!(is_well_formed("PJqB0fHsqRcCHlw="));
        for bad in
            ["", "nope", "PJqB0fHsqRcCHlw", "PJqB0fHsqRcCHl!=", "PJqB0fHsqRcCHlwA", "PJqB0fHsqRcCHlw=="]
        {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }

    #[test]
    fn traces_have_x_rays_form() {
        let parts: Vec<String> = trace_root().split('-').map(str::to_owned).collect();
        assert_eq!((parts[0].as_str(), parts[1].len(), parts[2].len(), parts.len()), ("Root=1", 8, 24, 3));
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        let id = random_uuid().to_string();
        let parts: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }
}
