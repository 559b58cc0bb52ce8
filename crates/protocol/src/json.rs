//! JSON that comes from outside, kept or read for what it is.
//!
//! With its `raw_value` feature, `serde_json::Value` takes an object whose first key is
//! `$serde_json::private::RawValue` for the text of another document and parses that (`serde_json::value::de`), so a
//! client could have one frame read as another. Nothing here does, and nothing else here reads a stranger's JSON into
//! a `Value`.

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value, value::RawValue};

/// JSON text kept as it was written, so that a client's numbers and keys survive the way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// The text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// The value as a number; none if it is `null`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn number(&self) -> Result<Option<serde_json::Number>, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    /// Writes a value down.
    ///
    /// # Errors
    /// When it has maps whose keys are not text.
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

/// Reads a field of a frame into [`RawJson`]. Frames are told apart by a tag, so serde hands over their fields parsed,
/// and their text is gone: it is written anew.
pub(crate) fn rewritten<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RawJson, D::Error> {
    let Plain(value) = Plain::deserialize(deserializer)?;
    RawJson::new(&value).map_err(de::Error::custom)
}

/// A value in which no key means more than itself.
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
