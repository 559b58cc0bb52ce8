//! Untrusted JSON, kept verbatim.
//!
//! With the `raw_value` feature, `serde_json::Value` treats an object whose first key is `$serde_json::private::RawValue` as
//! the text of another document, and parses that (`serde_json::value::de`). A client could thus disguise one frame as
//! another. This module never does so, and no other code parses untrusted JSON into a `Value`.

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value, value::RawValue};

/// JSON text kept verbatim, so that forwarding changes no number and no key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// The text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// The value as a number; `None` if it is `null`.
    ///
    /// # Errors
    /// The value is neither.
    pub fn number(&self) -> Result<Option<serde_json::Number>, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    /// Serializes a value.
    ///
    /// # Errors
    /// A map has a key that is not a string.
    pub fn new(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self)
    }
}

impl From<&RawValue> for RawJson {
    fn from(raw: &RawValue) -> Self {
        Self(raw.to_owned())
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for RawJson {}

/// Deserializes a field of a frame into [`RawJson`]. serde buffers the fields of a tagged enum in parsed form and drops
/// their text, so this serializes the value again.
pub(crate) fn rewritten<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RawJson, D::Error> {
    let Plain(value) = Plain::deserialize(deserializer)?;
    RawJson::new(&value).map_err(de::Error::custom)
}

/// A value without the special key.
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> de::Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Plain(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(all.into())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, Plain(value))) = fields.next_entry()? {
            all.insert(name, value);
        }
        Ok(all.into())
    }
}
