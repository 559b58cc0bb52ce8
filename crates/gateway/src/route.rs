//! Selects a message's route.
//!
//! Expressions are `$request.body.action`, `${request.body.a}/${request.body.b}` and constants such as `\$default`. A
//! missing value is empty; arrays and objects are stringified. The exact route matches first, then `$default`; a
//! message that is not JSON goes to `$default`. Source: Developer Guide, *websocket-api-develop-routes*.

use std::{collections::HashSet, sync::Arc};

use serde_json::Value;

/// The route for messages that match no other route.
pub const DEFAULT: &str = "$default";

/// The routes of an API.
#[derive(Debug)]
pub struct Routes {
    parts: Vec<Part>,
    keys: HashSet<Arc<str>>,
    default: Option<Arc<str>>,
    /// Whether there is a message route besides `$default`, so that bodies must be parsed.
    selective: bool,
    responses: HashSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// Keys that lead to a value in the body.
    Path(Vec<String>),
}

impl Routes {
    /// Routes with an integration, and those among them with a route response.
    pub fn new(expression: &str, keys: &[String], responses: &[String]) -> Result<Self, String> {
        let parts = parse(expression)?;
        let keys: HashSet<Arc<str>> = keys.iter().map(|key| Arc::from(key.as_str())).collect();
        let selective = keys.iter().any(|key| !matches!(&**key, "$connect" | "$disconnect" | DEFAULT));
        Ok(Self {
            parts,
            default: keys.get(DEFAULT).cloned(),
            keys,
            selective,
            responses: responses.iter().cloned().collect(),
        })
    }

    /// The route of a message. `None`: the client gets `Forbidden`.
    pub fn select(&self, body: &str) -> Option<Arc<str>> {
        let chosen = if self.selective {
            self.evaluate(body).and_then(|key| self.keys.get(key.as_str()))
        } else {
            None
        };
        chosen.filter(|key| !matches!(&***key, "$connect" | "$disconnect")).or(self.default.as_ref()).cloned()
    }

    /// Whether `$connect` or `$disconnect` has an integration.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Whether the route has a route response.
    pub fn responds(&self, key: &str) -> bool {
        self.responses.contains(key)
    }

    fn evaluate(&self, body: &str) -> Option<String> {
        let body: Value = serde_json::from_str(body).ok()?;
        Some(self.parts.iter().map(|part| part.evaluate(&body)).collect())
    }
}

impl Part {
    fn evaluate(&self, body: &Value) -> String {
        match self {
            Self::Literal(text) => text.clone(),
            Self::Path(path) => match path.iter().try_fold(body, |value, key| value.get(key)) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            },
        }
    }
}

fn parse(expression: &str) -> Result<Vec<Part>, String> {
    let wrong = || format!("route selection expression `{expression}` is invalid");
    if let Some(path) = expression.strip_prefix("$request.body.") {
        return Ok(vec![body_path(path).ok_or_else(wrong)?]);
    }
    let mut parts = Vec::new();
    let mut rest = expression;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("${") {
            let (path, after) = after.split_once('}').ok_or_else(wrong)?;
            parts.push(path.strip_prefix("request.body.").and_then(body_path).ok_or_else(wrong)?);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("\\$") {
            parts.push(Part::Literal("$".to_owned()));
            rest = after;
        } else {
            let end = rest.find(['$', '\\']).unwrap_or(rest.len());
            let (text, after) = rest.split_at(end);
            if text.is_empty() {
                return Err(wrong());
            }
            parts.push(Part::Literal(text.to_owned()));
            rest = after;
        }
    }
    if parts.is_empty() { Err(wrong()) } else { Ok(parts) }
}

fn body_path(path: &str) -> Option<Part> {
    let keys: Vec<String> = path.split('.').map(str::to_owned).collect();
    keys.iter().all(|key| !key.is_empty()).then_some(Part::Path(keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(expression: &str, keys: &[&str]) -> Routes {
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        Routes::new(expression, &keys, &[]).unwrap()
    }

    fn select(expression: &str, keys: &[&str], body: &str) -> Option<String> {
        routes(expression, keys).select(body).map(|key| key.to_string())
    }

    #[test]
    fn exact_match_then_default_then_none() {
        let expression = "$request.body.action";
        assert_eq!(
            select(expression, &["join", "$default"], r#"{"action":"join"}"#).as_deref(),
            Some("join")
        );
        assert_eq!(
            select(expression, &["join", "$default"], r#"{"action":"part"}"#).as_deref(),
            Some("$default")
        );
        assert_eq!(select(expression, &["join", "$default"], "not json").as_deref(), Some("$default"));
        assert_eq!(select(expression, &["join"], r#"{"action":"part"}"#), None);
        assert_eq!(select(expression, &["join"], "not json"), None);
        assert_eq!(
            select(expression, &["$default", "$connect"], r#"{"action":"$connect"}"#).as_deref(),
            Some("$default")
        );
    }

    #[test]
    fn all_forms_of_expressions_work() {
        let two = "${request.body.a}/${request.body.b.c}";
        assert_eq!(select(two, &["x/1", "/"], r#"{"a":"x","b":{"c":1}}"#).as_deref(), Some("x/1"));
        assert_eq!(select(two, &["x/1", "/"], "{}").as_deref(), Some("/"));
        assert_eq!(select("$request.body.a", &["[1,2]"], r#"{"a":[1, 2]}"#).as_deref(), Some("[1,2]"));
        assert_eq!(
            select("\\$default", &["x", "$default"], r#"{"action":"x"}"#).as_deref(),
            Some("$default")
        );
        for wrong in ["", "$request.body.", "${request.body.a", "$request.header.x", "${context.x}"] {
            assert!(Routes::new(wrong, &[], &[]).is_err(), "{wrong}");
        }
    }
}
