//! `JWT_SECRET` and `ADMIN_TOKEN` while they are replaced: both values are good the whole way, the new one mints.

use serde_json::{Value, json};

use super::{
    support::{Client, Stack, http},
    wrong::{frame, now, token},
};

const JWT: (&str, &str) = ("new-new-new-new-new-new-new-new-new", "old-old-old-old-old-old-old-old-old");
const ADMIN: (&str, &str) = ("admin-new-admin-new-admin-new-admin", "admin-old-admin-old-admin-old-admin");

#[tokio::test]
async fn regression_tokens_of_both_secrets_open_a_living_session() {
    let stack = Stack::whole()
        .env("JWT_SECRET", &format!("{}, {}", JWT.0, JWT.1))
        .env("ADMIN_TOKEN", &format!("{},{}", ADMIN.0, ADMIN.1))
        .start()
        .await;
    let page = stack.page.clone().unwrap();
    for (n, admin) in [ADMIN.0, ADMIN.1].into_iter().enumerate() {
        let id = format!("session-{n}");
        let header = format!("Bearer {admin}");
        let body = json!({"userId": "ann", "sessionId": id, "shell": "/bin/sh"}).to_string();
        let url = format!("{page}api/sessions");
        let made = http("POST", &url, &[("authorization", &header)], body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let minted = made.json()["token"].as_str().unwrap().to_owned();
        let claims = json!({"sub": "ann", "exp": now() + 600});
        let by = |secret: &str| token(jsonwebtoken::Algorithm::HS256, secret, &claims);
        let mut clients = Vec::new();
        for token in [minted, by(JWT.0), by(JWT.1)] {
            let mut client = stack.connect_with(&format!("sessionId={id}&token={token}")).await;
            assert_eq!(frame(&mut client, "connected").await["sessionId"], Value::from(id.clone()));
            clients.push(client);
        }
        for client in &mut clients {
            client.send(r#"{"type":"ping"}"#).await;
            frame(client, "pong").await;
        }
    }
    let both = token(
        jsonwebtoken::Algorithm::HS256,
        &format!("{}, {}", JWT.0, JWT.1),
        &json!({"sub": "ann", "exp": now() + 600}),
    );
    let url = format!("{}?sessionId=session-0&token={both}", stack.websocket);
    assert_eq!(Client::try_connect(&url, &[]).await.unwrap_err().status, 401, "together they are no key");
}
