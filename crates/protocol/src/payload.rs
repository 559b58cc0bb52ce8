//! Terminal bytes in JSON: `data` if they are UTF-8, otherwise `b64`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// Bytes whose sizes [`Payload::fit`] sums at a time; their sum fits into 16 bits.
const BLOCK: usize = 128;

/// Bytes in a frame: exactly one of the two fields.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Payload {
    /// The bytes, if they are valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(optional))]
    pub data: Option<String>,
    /// Otherwise the bytes in standard base64 with padding (RFC 4648, section 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(optional))]
    pub b64: Option<String>,
}

/// Why a payload could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Neither field, or both.
    #[error("exactly one of data and b64 is required")]
    NotOne,
    /// `b64` is not standard base64.
    #[error("b64 is not base64")]
    Base64,
}

impl Payload {
    /// Wraps bytes, as `data` if they are UTF-8.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { data: Some(text.to_owned()), b64: None },
            Err(_) => Self::base64(bytes),
        }
    }

    /// Wraps bytes as `b64`, for text that escapes would make longer.
    pub fn base64(bytes: &[u8]) -> Self {
        Self { data: None, b64: Some(STANDARD.encode(bytes)) }
    }

    /// The bytes.
    pub fn decode(self) -> Result<Vec<u8>, PayloadError> {
        match (self.data, self.b64) {
            (Some(text), None) => Ok(text.into_bytes()),
            (None, Some(b64)) => STANDARD.decode(b64).map_err(|_| PayloadError::Base64),
            _ => Err(PayloadError::NotOne),
        }
    }

    /// Number of leading `bytes` whose [`Payload::new`] fits into `budget` bytes of JSON.
    ///
    /// Never cuts inside a complete character, so text stays text. Bytes that are not UTF-8 count as base64.
    pub fn fit(bytes: &[u8], budget: usize) -> usize {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let base64 = bytes.len().min(budget / 4 * 3);
                // The text before the invalid byte, if no more would fit.
                let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let cut = Self::fit(valid, budget);
                return if cut < valid.len() { cut } else { base64 };
            }
        };
        // By blocks as long as they fit, because the compiler turns their sum into vector instructions.
        let (mut at, mut left) = (0, budget);
        for block in bytes.chunks(BLOCK) {
            let size: u16 = block.iter().map(|byte| escaped_len(*byte)).sum();
            let Some(less) = left.checked_sub(size.into()) else {
                at += block.iter().take_while(|byte| take(&mut left, escaped_len(**byte))).count();
                return text.floor_char_boundary(at);
            };
            left = less;
            at += block.len();
        }
        at
    }
}

/// Subtracts `size` if there is enough left.
fn take(left: &mut usize, size: u16) -> bool {
    let less = left.checked_sub(size.into());
    *left = less.unwrap_or(*left);
    less.is_some()
}

/// Size of a byte of UTF-8 in a JSON string as `serde_json` writes it (RFC 8259, section 7). Without branches.
const fn escaped_len(byte: u8) -> u16 {
    let short = byte == b'"' || byte == b'\\' || (byte >= 8 && byte <= 13 && byte != 11);
    let long = byte < 0x20 && !short;
    1 + short as u16 + 5 * long as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json_len(bytes: &[u8]) -> usize {
        let payload = Payload::new(bytes);
        let text = payload.data.or(payload.b64).unwrap();
        serde_json::to_string(&text).unwrap().len() - 2
    }

    #[test]
    fn an_incomplete_character_is_sent_at_once_as_base64() {
        let euro = "€".as_bytes();
        assert_eq!(Payload::fit(&euro[..2], 100), 2);
        assert_eq!(Payload::new(&euro[..2]).b64.as_deref(), Some("4oI="));
    }

    #[test]
    fn a_payload_with_both_fields_or_none_is_refused() {
        assert_eq!(Payload::default().decode(), Err(PayloadError::NotOne));
        let both = Payload { data: Some("a".into()), b64: Some("YQ==".into()) };
        assert_eq!(both.decode(), Err(PayloadError::NotOne));
        let bad = Payload { data: None, b64: Some("%".into()) };
        assert_eq!(bad.decode(), Err(PayloadError::Base64));
    }

    proptest! {
        #[test]
        fn the_fitting_prefix_is_within_budget_and_decodes_to_itself(bytes: Vec<u8>, budget in 8_usize..200) {
            let cut = Payload::fit(&bytes, budget);
            prop_assert!(cut > 0 || bytes.is_empty());
            prop_assert!(json_len(&bytes[..cut]) <= budget);
            prop_assert_eq!(Payload::new(&bytes[..cut]).decode().unwrap(), &bytes[..cut]);
        }

        #[test]
        fn text_is_cut_before_the_first_character_that_does_not_fit(
            text in "(?s)([a-z]{0,9}.){0,90}",
            budget in 8_usize..900,
        ) {
            let cut = Payload::fit(text.as_bytes(), budget);
            let more = text[cut..].chars().next().map(|next| cut + next.len_utf8());
            prop_assert!(json_len(&text.as_bytes()[..cut]) <= budget);
            prop_assert!(more.is_none_or(|more| json_len(&text.as_bytes()[..more]) > budget));
        }
    }
}
