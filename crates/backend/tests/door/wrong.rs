//! Unauthorised and malformed requests of every kind: each is refused, starts nothing and pushes nothing.

use jsonwebtoken::Algorithm;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use shellbridge_protocol::bridge::{CONNECT_PATH, DISCONNECT_PATH, MESSAGE_PATH};

use crate::support::{
    ADMIN_TOKEN, AUDIENCE, BRIDGE_SECRET, Backend, Gateway, ISSUER, JWT_SECRET, ORIGIN, Settings,
    bridge_claims, bridge_token, claims, connect_body, hs, hs256, message_body, now, rs256, unsigned,
};

/// A request and its expected refusal. An empty code: the response is not an error frame.
struct Row {
    way: String,
    request: RequestBuilder,
    status: u16,
    code: &'static str,
}

/// Builds rows.
struct Table<'a> {
    backend: &'a Backend,
    rows: Vec<Row>,
}

impl Table<'_> {
    fn row(&mut self, way: impl Into<String>, request: RequestBuilder, status: u16, code: &'static str) {
        self.rows.push(Row { way: way.into(), request, status, code });
    }

    /// A valid frame from Alice with an invalid token.
    fn token(&mut self, way: &str, token: &str) {
        let request = self.backend.bridge(MESSAGE_PATH, "c", token, frame().to_string());
        let code = if token.is_empty() { "MISSING_AUTH" } else { "UNAUTHORIZED" };
        self.row(way, request, 401, code);
    }

    /// The same, with altered claims.
    fn claims(&mut self, way: &str, change: impl FnOnce(&mut Value)) {
        let mut claims = bridge_claims(MESSAGE_PATH, "c", frame().to_string().as_bytes());
        change(&mut claims);
        self.token(way, &hs256(&claims, BRIDGE_SECRET));
    }

    /// A body with a valid signature.
    fn body(&mut self, way: &str, path: &str, body: impl Into<String>, status: u16, code: &'static str) {
        let body = body.into();
        let token = bridge_token(path, "c", body.as_bytes());
        self.row(way, self.backend.bridge(path, "c", &token, body), status, code);
    }
}

/// A valid message from Alice. All tests send it, so that one that is let in leaves a trace.
fn frame() -> Value {
    let frame = json!({"type": "attach", "clientId": "0123456789abcdef", "cols": 80, "rows": 24});
    message_body("s", "alice", "c", frame)
}

fn spoilt(mut value: Value, field: &str, with: Value) -> Value {
    value[field] = with;
    value
}

fn settings() -> Settings {
    Settings::new().set("JWT_ISSUER", ISSUER).set("JWT_AUDIENCE", AUDIENCE).set("DEV_SESSIONS", "true")
}

/// Checks that every request is refused as expected, and then that only Alice got through.
async fn all_refused(backend: &Backend, gateway: &Gateway, rows: Vec<Row>) {
    let shells = backend.shells();
    assert_eq!(shells.len(), 1, "Alice's");
    for Row { way, request, status, code } in rows {
        let response = request.send().await.unwrap();
        let answered = response.status();
        assert!(response.headers().contains_key("x-request-id"), "{way}");
        let text = response.text().await.unwrap();
        assert_eq!(answered, status, "{way}: {text}");
        if !code.is_empty() {
            let frame: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&frame["type"], &frame["code"]), (&"error".into(), &code.into()), "{way}: {text}");
            assert!(!text.contains("alice") && !text.contains(JWT_SECRET), "{way} leaks: {text}");
        }
        assert_eq!(backend.shells(), shells, "{way}");
        let ready: Value =
            backend.get("/ready").bearer_auth(ADMIN_TOKEN).send().await.unwrap().json().await.unwrap();
        assert_eq!(ready["sessions"], 1, "{way}");
    }
    // Pushes are sent in order: one for a refused request would arrive before this.
    backend.connect("s", "alice", "alices-own").await;
    gateway.frame("connected").await;
    let calls = gateway.calls();
    assert!(calls.iter().all(|call| call.connection == "alices-own"), "{calls:?}");
    let metrics = backend.metrics().await;
    assert!(metrics.contains("\nshellbridge_connections 1\n"), "{metrics}");
}

#[tokio::test]
async fn invalid_bridge_requests_are_refused() {
    let gateway = Gateway::start().await;
    let backend = settings().pushing_to(&gateway).start().await;
    let session = backend.session("alice", "s").await;
    let mut t = Table { backend: &backend, rows: Vec::new() };
    let text = frame().to_string();
    let good = || bridge_token(MESSAGE_PATH, "c", text.as_bytes());
    let good_claims = || bridge_claims(MESSAGE_PATH, "c", text.as_bytes());

    // Without a token, or with something that is not one.
    for path in [CONNECT_PATH, MESSAGE_PATH, DISCONNECT_PATH] {
        let request = backend.post(path).header("x-connection-id", "c").body(text.clone());
        t.row(format!("no token at {path}"), request, 401, "MISSING_AUTH");
    }
    let request = backend.post(MESSAGE_PATH).header("x-connection-id", "c").body(text.clone());
    t.row("a user and a password", request.basic_auth("lambda", Some(BRIDGE_SECRET)), 401, "MISSING_AUTH");
    let request = backend.post(&format!("{MESSAGE_PATH}?token={}", good())).header("x-connection-id", "c");
    t.row("the token in the query", request.body(text.clone()), 401, "MISSING_AUTH");
    t.token("an empty token", "");
    t.token("no JWT", "let-me-in");
    t.token("three empty parts", "..");
    t.token("the platform's token", ADMIN_TOKEN);
    t.token("the secret itself", BRIDGE_SECRET);
    t.token("the owner's own token", session["token"].as_str().unwrap());

    // Signed with another key or algorithm.
    t.token("another secret", &hs256(&good_claims(), "another secret, also of 32 bytes and more"));
    t.token("the secret of users' tokens", &hs256(&good_claims(), JWT_SECRET));
    t.token("unsigned", &unsigned(&good()));
    t.token("HS512", &hs(Algorithm::HS512, &good_claims(), BRIDGE_SECRET));
    t.token("HS384", &hs(Algorithm::HS384, &good_claims(), BRIDGE_SECRET));
    t.token("RS256", &rs256(&good_claims()));
    t.token("a signature cut short", good().get(..good().len() - 4).unwrap());

    // Claims.
    for claim in ["iss", "aud", "iat", "exp", "jti", "cid", "path", "sha256"] {
        t.claims(&format!("no {claim}"), |claims| {
            claims.as_object_mut().unwrap().remove(claim);
        });
    }
    t.claims("another issuer", |claims| claims["iss"] = "somebody".into());
    t.claims("another audience", |claims| claims["aud"] = "somewhere".into());
    t.claims("expired", |claims| {
        claims["iat"] = (now() - 120).into();
        claims["exp"] = (now() - 60).into();
    });
    t.claims("issued in the future", |claims| {
        claims["iat"] = (now() + 60).into();
        claims["exp"] = (now() + 120).into();
    });
    t.claims("valid for an hour", |claims| claims["exp"] = (now() + 3600).into());
    t.claims("ended before it began", |claims| claims["exp"] = (now() - 1).into());
    t.claims("times that overflow", |claims| {
        claims["iat"] = i64::MIN.into();
        claims["exp"] = i64::MAX.into();
    });
    t.claims("for another path", |claims| claims["path"] = CONNECT_PATH.into());
    t.claims("for another connection", |claims| claims["cid"] = "another".into());
    t.claims("over another body", |claims| claims["sha256"] = "x".into());
    let request = backend.bridge(MESSAGE_PATH, "another", &good(), text.clone());
    t.row("sent as another connection", request, 401, "UNAUTHORIZED");
    let request = backend.bridge(CONNECT_PATH, "c", &good(), text.clone());
    t.row("sent to another path", request, 401, "UNAUTHORIZED");
    let request = backend.bridge(MESSAGE_PATH, "c", &good(), text.replace("attach", "detach"));
    t.row("sent with another body", request, 401, "UNAUTHORIZED");
    let request = backend.post(MESSAGE_PATH).bearer_auth(good()).body(text.clone());
    t.row("no connection id", request, 401, "UNAUTHORIZED");
    let used = good_claims();
    let gone = json!({"connectionId": "c", "sessionId": "none", "userId": "alice"}).to_string();
    let token = bridge_token(DISCONNECT_PATH, "c", gone.as_bytes());
    let request = || backend.bridge(DISCONNECT_PATH, "c", &token, gone.clone());
    assert_eq!(request().send().await.unwrap().status(), 200);
    t.row("sent twice", request(), 401, "UNAUTHORIZED");
    let jti = jsonwebtoken::dangerous::insecure_decode::<Value>(&token).unwrap().claims["jti"].clone();
    t.token("another token with a used jti", &hs256(&spoilt(used, "jti", jti), BRIDGE_SECRET));

    // Methods and paths.
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let request = backend.http.request(method.clone(), format!("{}{MESSAGE_PATH}", backend.url));
        t.row(method.to_string(), request.bearer_auth(good()), 405, "");
    }
    for path in ["/api/ws/message/", "/api//ws/message", "/api/ws/other", "/API/WS/MESSAGE"] {
        t.row(path, backend.bridge(path, "c", &good(), text.clone()), 404, "");
    }

    // Bodies, all with valid signatures.
    t.body("41 KiB", MESSAGE_PATH, "x".repeat(41 * 1024), 413, "TOO_LARGE");
    t.body("nothing", MESSAGE_PATH, "", 400, "BAD_FRAME");
    t.body("no JSON", MESSAGE_PATH, "{", 400, "BAD_FRAME");
    t.body("a list", MESSAGE_PATH, "[]", 400, "BAD_FRAME");
    t.body("nested without end", MESSAGE_PATH, "[".repeat(30_000), 400, "BAD_FRAME");
    t.body("more behind it", MESSAGE_PATH, format!("{text}{{}}"), 400, "BAD_FRAME");
    let twice = text.replacen('{', "{\"sessionId\":\"other\",", 1);
    t.body("a key twice", MESSAGE_PATH, twice, 400, "BAD_FRAME");
    for field in ["connectionId", "sessionId", "userId", "bridge"] {
        let without = spoilt(frame(), field, Value::Null).to_string();
        t.body(&format!("no {field}"), MESSAGE_PATH, without, 400, "BAD_FRAME");
    }
    let about = spoilt(frame(), "connectionId", "another".into()).to_string();
    t.body("about another connection", MESSAGE_PATH, about, 400, "BAD_FRAME");
    let connect = || connect_body("s", "alice", "c");
    let about = spoilt(connect(), "connectionId", "another".into()).to_string();
    t.body("connecting another connection", CONNECT_PATH, about, 400, "BAD_FRAME");
    let gone = json!({"connectionId": "another", "sessionId": "s", "userId": "alice"}).to_string();
    t.body("disconnecting another connection", DISCONNECT_PATH, gone, 400, "BAD_FRAME");
    let text_time = spoilt(connect(), "connectedAt", "now".into()).to_string();
    t.body("a time in words", CONNECT_PATH, text_time, 400, "BAD_FRAME");

    // Other users' sessions, and missing ones.
    let body = spoilt(frame(), "sessionId", "none".into()).to_string();
    t.body("a frame for no session", MESSAGE_PATH, body, 404, "SESSION_INVALID");
    let body = spoilt(frame(), "userId", "mallory".into()).to_string();
    t.body("a frame from another user", MESSAGE_PATH, body, 404, "SESSION_INVALID");
    let mut old = frame();
    old["bridge"]["connectedAt"] = 1.into();
    let way = "a frame from a connection to an earlier session of that id";
    t.body(way, MESSAGE_PATH, old.to_string(), 404, "SESSION_INVALID");
    let body = spoilt(connect(), "sessionId", "none".into()).to_string();
    t.body("a connection to no session", CONNECT_PATH, body, 404, "SESSION_INVALID");
    let body = spoilt(connect(), "userId", "mallory".into());
    t.body("a connection of another user", CONNECT_PATH, body.to_string(), 403, "FORBIDDEN");
    let body = spoilt(body, "readOnly", true.into());
    t.body("to watch, with a token that names no session", CONNECT_PATH, body.to_string(), 403, "FORBIDDEN");

    let rows = t.rows;
    assert!(rows.len() >= 60, "{}", rows.len());
    all_refused(&backend, &gateway, rows).await;
}

#[tokio::test]
async fn invalid_sessions_api_requests_are_refused() {
    let gateway = Gateway::start().await;
    let backend = settings().pushing_to(&gateway).start().await;
    let session = backend.session("alice", "s").await;
    let token = session["token"].as_str().unwrap();
    let mut t = Table { backend: &backend, rows: Vec::new() };

    // Creating one.
    let new = json!({"userId": "mallory", "shell": "/bin/sh"});
    let make = || backend.post("/api/sessions").json(&new);
    t.row("making one without a token", make(), 401, "MISSING_AUTH");
    for (way, wrong) in [
        ("a wrong ADMIN_TOKEN", "wrong"),
        ("its first half", &ADMIN_TOKEN[..10]),
        ("more than it", &format!("{ADMIN_TOKEN}-")),
        ("nothing", ""),
        ("a user's token", token),
        ("BRIDGE_SECRET", BRIDGE_SECRET),
    ] {
        let code = if wrong.is_empty() { "MISSING_AUTH" } else { "UNAUTHORIZED" };
        t.row(format!("making one with {way}"), make().bearer_auth(wrong), 401, code);
    }
    t.row("ADMIN_TOKEN as password", make().basic_auth("admin", Some(ADMIN_TOKEN)), 401, "MISSING_AUTH");
    let query = format!("/api/sessions?token={ADMIN_TOKEN}");
    t.row("ADMIN_TOKEN in the query", backend.post(&query).json(&new), 401, "MISSING_AUTH");
    let request = backend.post("/api/sessions").body("x".repeat(60 * 1024));
    t.row("a large body without a token", request, 401, "MISSING_AUTH");
    let made = |body: Value| backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body);
    t.row(
        "a large body",
        made(json!({"userId": "u", "init": "x".repeat(2 * 1024 * 1024)})),
        413,
        "TOO_LARGE",
    );
    let request = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).body("{");
    t.row("no JSON", request, 400, "BAD_FRAME");
    for (way, body) in [
        ("no user", json!({})),
        ("an empty user", json!({"userId": ""})),
        ("a long user", json!({"userId": "u".repeat(257)})),
        ("a path as id", json!({"userId": "u", "sessionId": "../s"})),
        ("an id that URLs resolve", json!({"userId": "u", "sessionId": "."})),
        ("another", json!({"userId": "u", "sessionId": ".."})),
        ("a large environment", json!({"userId": "u", "env": {"A": "x".repeat(130 * 1024)}})),
        ("a sandbox that the server lacks", json!({"userId": "u", "sandbox": "user"})),
        ("no sandbox", json!({"userId": "u", "sandbox": "jail"})),
        ("an image without containers", json!({"userId": "u", "image": "alpine"})),
        ("limits that nothing enforces", json!({"userId": "u", "limits": {"pids": 64}})),
        ("a file outside", json!({"userId": "u", "files": [{"path": "../x", "content": ""}]})),
        ("a file without content", json!({"userId": "u", "files": [{"path": "x"}]})),
        ("a setuid file", json!({"userId": "u", "files": [{"path": "x", "content": "", "mode": "4755"}]})),
        (
            "large files",
            json!({"userId": "u", "files": [{"path": "x", "content": "x".repeat(256 * 1024 + 1)}]}),
        ),
        ("a NUL in init", json!({"userId": "u", "init": "a\0b"})),
        ("a large init", json!({"userId": "u", "init": "x".repeat(64 * 1024 + 1)})),
        ("a long id", json!({"userId": "u", "sessionId": "s".repeat(129)})),
        ("no time", json!({"userId": "u", "ttlSeconds": 0})),
        ("less than no time", json!({"userId": "u", "ttlSeconds": -1})),
        ("no shell", json!({"userId": "u", "shell": "/no/such/shell"})),
        ("no directory", json!({"userId": "u", "cwd": "relative"})),
        ("no variable's name", json!({"userId": "u", "env": {"A=B": "x"}})),
        ("a NUL", json!({"userId": "u", "env": {"A": "\0"}})),
    ] {
        t.row(way, made(body), 400, "BAD_FRAME");
    }
    t.row("an id that is taken", made(json!({"userId": "u", "sessionId": "s"})), 409, "SESSION_INVALID");

    // Reading one.
    let get = |token: &str| backend.get("/api/sessions/s").bearer_auth(token);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims("alice");
        change(&mut claims);
        hs256(&claims, JWT_SECRET)
    };
    t.row("no token", backend.get("/api/sessions/s"), 401, "MISSING_AUTH");
    t.row(
        "the token in the query",
        backend.get(&format!("/api/sessions/s?token={token}")),
        401,
        "MISSING_AUTH",
    );
    for (way, token) in [
        ("no JWT", "x".to_owned()),
        ("unsigned", unsigned(token)),
        ("HS512", hs(Algorithm::HS512, &claims("alice"), JWT_SECRET)),
        ("RS256", rs256(&claims("alice"))),
        ("another secret", hs256(&claims("alice"), "another secret, also of 32 bytes and more")),
        ("BRIDGE_SECRET", hs256(&claims("alice"), BRIDGE_SECRET)),
        ("another issuer", with(&|claims| claims["iss"] = "https://elsewhere.example".into())),
        ("another audience", with(&|claims| claims["aud"] = "elsewhere".into())),
        ("no audience", with(&|claims| claims["aud"] = Value::Null)),
        ("not valid yet", with(&|claims| claims["nbf"] = (now() + 120).into())),
        ("without an end", with(&|claims| claims["exp"] = Value::Null)),
        ("an end in words", with(&|claims| claims["exp"] = "never".into())),
        ("no subject", with(&|claims| claims["sub"] = Value::Null)),
    ] {
        t.row(way, get(&token), 401, "UNAUTHORIZED");
    }
    let expired = with(&|claims| claims["exp"] = (now() - 60).into());
    t.row("expired", get(&expired), 401, "TOKEN_EXPIRED");
    t.row("for another session", get(&with(&|claims| claims["sessionId"] = "z".into())), 403, "FORBIDDEN");
    t.row("another user's", get(&hs256(&claims("mallory"), JWT_SECRET)), 404, "SESSION_INVALID");
    let watching = with(&|claims| {
        claims["sub"] = "mallory".into();
        claims["readOnly"] = true.into();
    });
    t.row("to watch, but not named", get(&watching), 404, "SESSION_INVALID");
    t.row("no such session", backend.get("/api/sessions/z").bearer_auth(ADMIN_TOKEN), 404, "SESSION_INVALID");

    // Changing one.
    let share = backend.post("/api/sessions/s/share").bearer_auth(token).json(&json!({"ttlSeconds": 60}));
    let shared: Value = share.send().await.unwrap().json().await.unwrap();
    let viewer = shared["token"].as_str().unwrap();
    let own_viewer = with(&|claims| claims["readOnly"] = true.into());
    for (whose, viewer) in [("a guest", viewer), ("the owner", own_viewer.as_str())] {
        for (what, request) in [
            ("ends it", backend.delete("/api/sessions/s")),
            ("shares it", backend.post("/api/sessions/s/share").json(&json!({}))),
            ("extends it", backend.post("/api/sessions/s/extend").json(&json!({"seconds": 60}))),
        ] {
            t.row(format!("{whose} who may watch {what}"), request.bearer_auth(viewer), 403, "FORBIDDEN");
        }
    }
    for (what, request) in [
        ("ends it", backend.delete("/api/sessions/s")),
        ("shares it", backend.post("/api/sessions/s/share").json(&json!({}))),
        ("extends it", backend.post("/api/sessions/s/extend").json(&json!({"seconds": 60}))),
    ] {
        let mallory = hs256(&claims("mallory"), JWT_SECRET);
        t.row(format!("another user {what}"), request.bearer_auth(mallory), 404, "SESSION_INVALID");
    }
    let backwards = backend.post("/api/sessions/s/extend").bearer_auth(token).json(&json!({"seconds": -60}));
    t.row("back in time", backwards, 400, "BAD_FRAME");
    let share = backend.post("/api/sessions/s/share").bearer_auth(token).json(&json!({"ttlSeconds": 0}));
    t.row("a link that never opens", share, 400, "BAD_FRAME");

    // Development sessions, from other hosts and origins.
    let develop = || backend.post("/api/dev/sessions").json(&json!({"shell": "/bin/sh"}));
    for host in [
        "evil.example",
        "evil.example:3001",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "0.0.0.0",
    ] {
        t.row(format!("by way of {host}"), develop().header("host", host), 403, "FORBIDDEN");
    }
    for origin in
        ["https://evil.example", "null", "https://app.example.org.evil.example", "http://app.example.org"]
    {
        t.row(format!("from {origin}"), develop().header("origin", origin), 403, "FORBIDDEN");
    }
    t.row("by a link", backend.get("/api/dev/sessions"), 405, "");

    let rows = t.rows;
    assert!(rows.len() >= 60, "{}", rows.len());
    all_refused(&backend, &gateway, rows).await;
    let allowed = develop().header("origin", ORIGIN).send().await.unwrap();
    assert_eq!(allowed.status(), 201, "an allowed page may");
}

/// A backend that posted to any URL would sign requests to strangers, and to the metadata service.
#[tokio::test]
async fn pushes_go_only_to_api_gateway() {
    let gateway = Gateway::start().await;
    let backend = Settings::new().start().await;
    backend.session("alice", "s").await;
    for url in [
        gateway.url.as_str(),
        "http://169.254.169.254/latest",
        "https://evil.example/prod",
        "https://execute-api.eu-west-1.amazonaws.com.evil.example/prod",
        "https://api.execute-api.us-east-1.amazonaws.com/prod",
        "http://api.execute-api.eu-west-1.amazonaws.com/prod",
        "https://user@api.execute-api.eu-west-1.amazonaws.com/prod",
        "",
    ] {
        let body = spoilt(connect_body("s", "alice", "c"), "callbackUrl", url.into());
        let mut message = frame();
        message["bridge"]["callbackUrl"] = url.into();
        for (path, body) in [(CONNECT_PATH, body), (MESSAGE_PATH, message)] {
            let response = backend.signed(path, "c", &body).send().await.unwrap();
            assert_eq!(response.status(), 403, "{url} at {path}");
            assert_eq!(response.json::<Value>().await.unwrap()["code"], "FORBIDDEN");
        }
    }
    assert!(gateway.calls().is_empty());
    assert!(backend.metrics().await.contains("\nshellbridge_connections 0\n"));
    let refused = "shellbridge_connect_refusals_total{cause=\"callback_url\"} 8";
    backend.counts(refused).await;
}

/// The handler that this project replaces used endpoints that accepted commands without authentication.
#[tokio::test]
async fn regression_the_backend_s_endpoints_require_authentication() {
    let gateway = Gateway::start().await;
    // As deployed: no development settings, and without ADMIN_TOKEN no request is the platform's.
    let backend = Settings::new().without("ADMIN_TOKEN").pushing_to(&gateway).start().await;
    let bodies = [
        json!({}),
        frame(),
        connect_body("s", "alice", "c"),
        json!({"userId": "u"}),
        json!({"type": "command", "command": "id"}),
    ];
    let post = [
        CONNECT_PATH,
        MESSAGE_PATH,
        DISCONNECT_PATH,
        "/api/sessions",
        "/api/sessions/s/share",
        "/api/sessions/s/extend",
    ];
    // Headers that a proxy would add, or a client that poses as one.
    let guises = [
        vec![],
        vec![("x-connection-id", "c"), ("x-request-id", "r")],
        vec![("x-forwarded-for", "127.0.0.1"), ("host", "localhost")],
        vec![("authorization", "Bearer "), ("x-connection-id", "c")],
        vec![("authorization", "Bearer undefined"), ("x-connection-id", "c")],
    ];
    for guise in &guises {
        let as_guise = |request: RequestBuilder| {
            guise.iter().fold(request, |request, (name, value)| request.header(*name, *value))
        };
        for body in &bodies {
            for path in post {
                let response = as_guise(backend.post(path).json(body)).send().await.unwrap();
                assert_eq!(response.status(), 401, "{path} as {guise:?} with {body}");
            }
            let response = as_guise(backend.post("/api/dev/sessions").json(body)).send().await.unwrap();
            assert_eq!(response.status(), 404, "as {guise:?}");
        }
        for path in ["/api/sessions/s", "/api/sessions/s/validate"] {
            assert_eq!(
                as_guise(backend.get(path)).send().await.unwrap().status(),
                401,
                "{path} as {guise:?}"
            );
        }
        assert_eq!(as_guise(backend.delete("/api/sessions/s")).send().await.unwrap().status(), 401);
    }
    assert_eq!(backend.shells(), Vec::<u32>::new());
    assert!(gateway.calls().is_empty());
}
