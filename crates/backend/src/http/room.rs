//! How a session of `POST /api/sessions` is kept apart, and what `GET` says of it.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use shellbridge_session::link::Measured;

use crate::{
    config::Config,
    error::ApiError,
    launcher::{BadLimits, Limits, Room, Sandbox, Space},
};

/// Options of `POST /api/sessions`.
#[derive(Default, Deserialize)]
pub(crate) struct RoomRequest {
    /// The sandbox that the platform relies on: it must be the server's.
    #[serde(default)]
    sandbox: Option<Sandbox>,
    /// Image of the container.
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    limits: Limits,
}

impl RoomRequest {
    /// What the launcher gives the session, and what is kept of it.
    ///
    /// # Errors
    /// 400 for what this server does not offer.
    pub(crate) fn check(self, config: &Config) -> Result<(Space, Room), ApiError> {
        let Self { sandbox: wanted, image, limits } = self;
        let sandbox = config.shell_sandbox;
        if wanted.is_some_and(|wanted| wanted != sandbox) {
            let message = format!("sandbox: this server has SHELL_SANDBOX={}", sandbox.name());
            return Err(ApiError::bad_request(message));
        }
        if image.as_deref().is_some_and(|image| sandbox != Sandbox::Container || !allows(config, image)) {
            return Err(ApiError::bad_request("image: not among the images of this server"));
        }
        let bad = |bad: BadLimits| ApiError::bad_request(bad.to_string());
        if sandbox == Sandbox::None && limits != Limits::default() {
            return Err(bad(BadLimits::Unenforced));
        }
        let (default, max) = config.shell_limits();
        let limits = limits.within(default, max).map_err(bad)?;
        let named = image.clone().or_else(|| config.shell_image.clone());
        let room = Room {
            sandbox,
            image: named.filter(|_| sandbox == Sandbox::Container),
            limits: (sandbox != Sandbox::None).then_some(limits),
        };
        Ok((Space { limits, image }, room))
    }
}

/// Whether a session may name this image.
fn allows(config: &Config, image: &str) -> bool {
    let more = config.shell_images.as_deref().unwrap_or_default().split(',').map(str::trim);
    more.chain(config.shell_image.as_deref()).any(|allowed| !allowed.is_empty() && allowed == image)
}

/// Adds the room and the usage to an answer. What is not known is left out.
pub(crate) fn describe(answer: &mut Map<String, Value>, room: &Room, usage: Option<Measured>) {
    if let Ok(Value::Object(room)) = serde_json::to_value(room) {
        answer.extend(room);
    }
    if let Some(Measured { processes, memory, cpu_ms, disk, .. }) = usage {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        let cpu = cpu_ms as f64 / 1000.0;
        let mut usage = json!({ "processes": processes, "memoryBytes": memory, "cpuSeconds": cpu });
        if let (Value::Object(usage), Some(disk)) = (&mut usage, disk) {
            usage.insert("diskBytes".to_owned(), disk.into());
        }
        answer.insert("usage".to_owned(), usage);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn check(arguments: &[&str], request: Value) -> Result<(Space, Room), String> {
        let config = Config::parse_from(["backend", "--bridge-secret", "b"].iter().chain(arguments));
        let request: RoomRequest = serde_json::from_value(request).unwrap();
        request.check(&config).map_err(|refused| refused.to_string())
    }

    #[test]
    fn without_a_sandbox_neither_limits_nor_images_are_taken() {
        let (_, room) = check(&[], json!({"sandbox": "none", "limits": {}})).unwrap();
        assert_eq!(room, Room::default());
        for (request, says) in [
            (json!({"sandbox": "user"}), "SHELL_SANDBOX=none"),
            (json!({"image": "x"}), "image: "),
            (json!({"limits": {"pids": 64}}), "not enforced"),
        ] {
            let refused = check(&["--shell-image", "x"], request).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn a_session_may_name_the_images_of_the_server_and_limits_within_its_maxima() {
        let server = ["--shell-sandbox", "container", "--shell-image", "a", "--shell-images", "b:1, c,"];
        let image = |request: Value| check(&server, request).map(|(space, room)| (space.image, room.image));
        assert_eq!(image(json!({})), Ok((None, Some("a".to_owned()))));
        for named in ["a", "b:1", "c"] {
            let both = Some(named.to_owned());
            assert_eq!(image(json!({"image": named})), Ok((both.clone(), both)));
        }
        for named in ["", "b", "b:1, c", "d"] {
            assert!(image(json!({"image": named})).is_err(), "{named}");
        }
        let (space, room) = check(&server, json!({"limits": {"pids": 64}})).unwrap();
        assert_eq!((space.limits.pids, room.limits), (Some(64), Some(space.limits)));
        assert!(check(&server, json!({"limits": {"pids": 100_000}})).unwrap_err().contains("pids"));
    }

    #[test]
    fn unknown_numbers_are_left_out() {
        let measured = Measured { request: 1, processes: 2, memory: 3, cpu_ms: 1500, disk: None };
        let mut answer = Map::new();
        describe(&mut answer, &Room::default(), Some(measured));
        let usage = json!({"processes": 2, "memoryBytes": 3, "cpuSeconds": 1.5});
        assert_eq!(Value::Object(answer), json!({"sandbox": "none", "usage": usage}));
        let mut answer = Map::new();
        describe(&mut answer, &Room::default(), None);
        assert_eq!(Value::Object(answer), json!({"sandbox": "none"}));
    }
}
