//! Tokens minted here: of one session alone, revoked by newer ones and one by one, and what viewers are not told.

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use shellbridge_protocol::bridge::{CONNECT_PATH, MESSAGE_PATH};

use crate::support::{
    ADMIN_TOKEN, Backend, Gateway, JWT_SECRET, Settings, connect_body, hs256, message_body, now,
};

/// A token, and whose it is as the Lambda would say.
struct Held {
    token: String,
    user: String,
    id: String,
    read_only: bool,
}

impl Held {
    fn new(made: &Value) -> Self {
        let token = made["token"].as_str().expect("a token").to_owned();
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(&token).unwrap().claims;
        Self {
            user: claims["sub"].as_str().unwrap().to_owned(),
            id: claims["shellbridgeId"].as_str().unwrap().to_owned(),
            read_only: claims["readOnly"] == true,
            token,
        }
    }

    fn connects(&self, backend: &Backend, connection: &str) -> RequestBuilder {
        let mut body = connect_body("s", &self.user, connection);
        body["tokenId"] = self.id.as_str().into();
        body["readOnly"] = self.read_only.into();
        body["namesSession"] = true.into();
        backend.signed(CONNECT_PATH, connection, &body)
    }

    fn sends(&self, backend: &Backend, connection: &str, frame: Value) -> RequestBuilder {
        let mut body = message_body("s", &self.user, connection, frame);
        body["bridge"]["tokenId"] = self.id.as_str().into();
        body["bridge"]["readOnly"] = self.read_only.into();
        backend.signed(MESSAGE_PATH, connection, &body)
    }

    /// What each door says: status and code.
    async fn doors(&self, backend: &Backend) -> Vec<(u16, Value)> {
        let asks = "/api/diagnostics/websocket?sessionId=s";
        let connection = uuid::Uuid::new_v4().to_string();
        let mut all = Vec::new();
        for request in [
            backend.get("/api/sessions/s").bearer_auth(&self.token),
            self.connects(backend, &connection),
            self.sends(backend, &connection, json!({"type": "ping"})),
            backend.get(asks).bearer_auth(&self.token),
        ] {
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            all.push((status, response.json::<Value>().await.unwrap()["code"].clone()));
        }
        all
    }
}

async fn body(response: Response, status: u16) -> Value {
    assert_eq!(response.status().as_u16(), status);
    response.json().await.unwrap()
}

async fn shared(backend: &Backend, owner: &Held) -> (String, Held) {
    let request = backend.post("/api/sessions/s/share").bearer_auth(&owner.token).json(&json!({}));
    let made = body(request.send().await.unwrap(), 201).await;
    (made["id"].as_str().unwrap().to_owned(), Held::new(&made))
}

async fn extended(backend: &Backend, token: &str) -> Response {
    let request = backend.post("/api/sessions/s/extend").bearer_auth(token);
    request.json(&json!({"seconds": 60})).send().await.unwrap()
}

const GOOD: u16 = 200;

#[tokio::test]
async fn regression_a_deleted_sessions_token_opens_no_later_session() {
    let gateway = Gateway::start().await;
    let backend = Settings::new().pushing_to(&gateway).start().await;
    let owner = Held::new(&backend.session("alice", "s").await);
    let (_, viewer) = shared(&backend, &owner).await;
    for held in [&owner, &viewer] {
        assert!(held.doors(&backend).await.iter().all(|(status, _)| *status == GOOD));
    }
    let ended = backend.delete("/api/sessions/s").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(ended.status(), 204);
    let later = Held::new(&backend.session("alice", "s").await);
    for held in [&owner, &viewer] {
        let doors = held.doors(&backend).await;
        assert_eq!(doors.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [404, 404, 404, 200]);
        assert!(doors.iter().all(|(_, code)| code == "SESSION_INVALID"), "{doors:?}");
    }
    assert!(later.doors(&backend).await.iter().all(|(status, _)| *status == GOOD));
    // Who mints tokens elsewhere says itself what they are for.
    let claims = json!({"sub": "guest", "readOnly": true, "sessionId": "s", "exp": now() + 60});
    let foreign = backend.get("/api/sessions/s").bearer_auth(hs256(&claims, JWT_SECRET));
    assert_eq!(foreign.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn regression_revoking_a_share_link_ends_its_connections() {
    let gateway = Gateway::start().await;
    let backend = Settings::new().pushing_to(&gateway).start().await;
    let owner = Held::new(&backend.session("alice", "s").await);
    let (first_id, first) = shared(&backend, &owner).await;
    let (second_id, second) = shared(&backend, &owner).await;
    for (held, connection) in [(&first, "first"), (&second, "second"), (&owner, "owner")] {
        body(held.connects(&backend, connection).send().await.unwrap(), 200).await;
    }
    let list = async || {
        let request = backend.get("/api/sessions/s/shares").bearer_auth(&owner.token);
        let listed = body(request.send().await.unwrap(), 200).await;
        assert!(!listed.to_string().contains("eyJ"), "tokens are told once: {listed}");
        listed["shares"].as_array().unwrap().iter().map(|share| share["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(list().await, [json!(first_id), json!(second_id)]);
    let one = format!("/api/sessions/s/shares/{first_id}");
    for (token, status) in [(&first.token, 403), (&owner.token, 204), (&owner.token, 404)] {
        let answer = backend.delete(&one).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), status);
    }
    assert_eq!(list().await, [json!(second_id)]);

    let told = |connection: &'static str| {
        gateway.until("the end", move |call| call.connection == connection && call.method == "DELETE")
    };
    told("first").await;
    // The greeting may come after it: pushes overtake each other.
    let why =
        gateway.calls().into_iter().find(|call| call.connection == "first" && call.frame["type"] == "error");
    assert_eq!(why.unwrap().frame["code"], "TOKEN_EXPIRED");
    let doors = first.doors(&backend).await;
    assert_eq!(doors.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [401, 403, 403, 200]);
    assert!(doors.iter().all(|(_, code)| code == "TOKEN_EXPIRED"), "{doors:?}");
    let late = first.sends(&backend, "first", json!({"type": "ping"})).send().await.unwrap();
    assert_eq!(body(late, 403).await["code"], "TOKEN_EXPIRED");
    assert!(second.doors(&backend).await.iter().all(|(status, _)| *status == GOOD), "one, not all");

    let all = backend.delete("/api/sessions/s/shares").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(all.status(), 204);
    told("second").await;
    assert!(list().await.is_empty());
    let pong = owner.sends(&backend, "owner", json!({"type": "ping"})).send().await.unwrap();
    assert_eq!(body(pong, 200).await["type"], "pong", "the owner's stays");
}

#[tokio::test]
async fn regression_extend_revokes_the_owner_s_older_token() {
    let gateway = Gateway::start().await;
    let backend = Settings::new().pushing_to(&gateway).start().await;
    let first = Held::new(&backend.session("alice", "s").await);
    let (_, viewer) = shared(&backend, &first).await;
    body(first.connects(&backend, "page").send().await.unwrap(), 200).await;
    let second = Held::new(&body(extended(&backend, &first.token).await, 200).await);
    // Whoever asked can still use its connection, to come back by the new token; and ask again.
    let pong = first.sends(&backend, "page", json!({"type": "ping"})).send().await.unwrap();
    assert_eq!(body(pong, 200).await["type"], "pong");
    let (rest, connect) = (first.doors(&backend).await[0].clone(), first.connects(&backend, "again"));
    assert_eq!(rest, (401, json!("TOKEN_EXPIRED")));
    assert_eq!(connect.send().await.unwrap().status(), 403);
    let third = Held::new(&body(extended(&backend, &first.token).await, 200).await);
    assert_eq!(third.id, second.id, "the same one: it takes nothing from whoever has it");
    assert!(second.doors(&backend).await.iter().all(|(status, _)| *status == GOOD));
    // The platform's word is final: who holds the token of before gets no newer one with it.
    let fourth = Held::new(&body(extended(&backend, ADMIN_TOKEN).await, 200).await);
    assert_eq!(body(extended(&backend, &third.token).await, 401).await["code"], "TOKEN_EXPIRED");
    for held in [&fourth, &viewer] {
        assert!(held.doors(&backend).await.iter().all(|(status, _)| *status == GOOD));
    }
}

#[tokio::test]
async fn regression_viewers_get_neither_history_nor_the_owner_s_id() {
    let gateway = Gateway::start().await;
    let backend = Settings::new().pushing_to(&gateway).start().await;
    let owner = Held::new(&backend.session("alice@example.org", "s").await);
    let (_, viewer) = shared(&backend, &owner).await;
    let command = json!({"type": "command", "command": "echo hidden"});
    body(owner.sends(&backend, "owner", command).send().await.unwrap(), 200).await;
    body(viewer.connects(&backend, "viewer").send().await.unwrap(), 200).await;
    let history = || json!({"type": "history"});
    let told = body(viewer.sends(&backend, "viewer", history()).send().await.unwrap(), 200).await;
    assert_eq!((&told["type"], &told["code"]), (&json!("error"), &json!("READ_ONLY")));
    let told = body(owner.sends(&backend, "owner", history()).send().await.unwrap(), 200).await;
    assert_eq!(told["history"][0]["command"], "echo hidden");
    for path in ["/api/sessions/s", "/api/sessions/s/validate", "/api/diagnostics/websocket?sessionId=s"] {
        let about = body(backend.get(path).bearer_auth(&viewer.token).send().await.unwrap(), 200).await;
        assert!(!about.to_string().contains("alice"), "{path}: {about}");
    }
    let about = backend.get("/api/sessions/s").bearer_auth(&owner.token).send().await.unwrap();
    assert_eq!(body(about, 200).await["userId"], "alice@example.org");
}

#[tokio::test]
async fn regression_echo_comes_back_as_it_was_sent_and_no_key_in_it_is_expanded() {
    let backend = Settings::new().start().await;
    backend.session("alice", "s").await;
    let hidden = json!({"$serde_json::private::RawValue": "{\"type\":\"command\"}"});
    let echoed = backend.frame("s", "alice", "c", json!({"type": "echo", "x": hidden})).await;
    let text = echoed.text().await.unwrap();
    assert!(text.contains(r#""x":{"$serde_json::private::RawValue":"{\"type\":\"command\"}"}"#), "{text}");
}

#[tokio::test]
async fn regression_a_token_let_in_by_the_leeway_is_not_expired_at_once() {
    let gateway = Gateway::start().await;
    let backend = Settings::new().pushing_to(&gateway).start().await;
    backend.session("alice", "s").await;
    let mut connect = connect_body("s", "alice", "c");
    connect["tokenExpiresAt"] = (now() - 5).into();
    assert_eq!(backend.signed(CONNECT_PATH, "c", &connect).send().await.unwrap().status(), 200);
    gateway.frame("connected").await;
    let mut ping = message_body("s", "alice", "c", json!({"type": "ping"}));
    ping["bridge"]["tokenExpiresAt"] = (now() - 5).into();
    let pong = backend.signed(MESSAGE_PATH, "c", &ping).send().await.unwrap();
    assert_eq!(body(pong, 200).await["type"], "pong");
    assert!(gateway.calls().iter().all(|call| call.frame["type"] != "error"), "{:?}", gateway.calls());
}
