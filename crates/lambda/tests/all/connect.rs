//! `$connect`.

use serde_json::json;

use crate::bed::*;

#[tokio::test]
async fn a_valid_handshake_asks_the_backend_and_stores_the_record() {
    let bed = Bed::new().await;
    let token = token(&json!({"username":"Ann","exp":now() + 60}));
    let response = bed.handle(connect_event(&token)).await;
    assert_eq!(serde_json::to_value(&response).unwrap(), json!({"statusCode":200}));

    let requests = bed.backend.taken();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, "/api/ws/connect");
    assert_eq!(
        requests[0].json(),
        json!({"connectionId":CONNECTION,"sessionId":"session-1","userId":"ann","username":"Ann","readOnly":false,
            "namesSession":true,"connectedAt":1_701_245_041_796_i64,"tokenExpiresAt":now() + 60,
            "callbackUrl":bed.connections.url,"sourceIp":"192.0.2.1"})
    );
    assert_eq!(requests[0].header("content-type"), "application/json");
    assert_eq!(requests[0].header("x-connection-id"), CONNECTION);
    assert_eq!(requests[0].header("x-request-id"), "request-1");
    assert_eq!(requests[0].header("x-amzn-trace-id"), "Root=1-2-3");

    let items = bed.items().await;
    let [item] = items.as_slice() else { panic!("{items:?}") };
    let text = |name: &str| item[name].as_s().unwrap().as_str();
    let number = |name: &str| item[name].as_n().unwrap().parse::<i64>().unwrap();
    assert_eq!(
        (text("connectionId"), text("sessionId"), text("userId"), text("username"), text("callbackUrl")),
        (CONNECTION, "session-1", "ann", "Ann", bed.connections.url.as_str())
    );
    assert_eq!((number("connectedAt"), number("tokenExpiresAt")), (1_701_245_041_796, now() + 60));
    assert_eq!(item["readOnly"].as_bool(), Ok(&false));
    assert_eq!(item.len(), 9);
}

#[tokio::test]
async fn regression_ttl_in_milliseconds() {
    let bed = Bed::new().await;
    bed.connected().await;
    // DynamoDB never deletes an item with a TTL in milliseconds. Two hours of a connection and a margin, in seconds.
    assert_eq!(bed.items().await[0]["expiresAt"].as_n().unwrap(), &(1_701_245_041 + 7_800).to_string());
}

#[tokio::test]
async fn the_token_comes_by_subprotocol_then_header_then_query() {
    let (good, bad) = (token(&json!({})), "bad".to_owned());
    let bearer = format!("Bearer {good}");
    let offer = format!("shellbridge.v1, bearer.{good}");
    let bad_offer = "shellbridge.v1,bearer.bad".to_owned();
    for (protocol, authorization, query, status) in [
        (None, None, Some(&good), 200),
        (None, Some(&bearer), None, 200),
        (None, Some(&bearer), Some(&bad), 200),
        (Some(&offer), None, None, 200),
        (Some(&offer), Some(&bad), Some(&bad), 200),
        (Some(&bad_offer), Some(&bearer), Some(&good), 401),
        (None, Some(&"Bearer bad".to_owned()), Some(&good), 401),
        (None, None, None, 401),
    ] {
        let bed = Bed::new().await;
        let mut query: Vec<_> = query.map(|token| ("token", token.as_str())).into_iter().collect();
        query.push(("sessionId", "session-1"));
        let mut event = with_query(connect_event(""), &query);
        if let Some(protocol) = protocol {
            event = with_header(event, "sec-websocket-PROTOCOL", &[protocol]);
        }
        if let Some(authorization) = authorization {
            event = with_header(event, "authorization", &[authorization]);
        }
        let response = bed.handle(event).await;
        assert_eq!(response.status_code, status, "{protocol:?} {authorization:?} {query:?}");
        let chosen = response.headers.map(|headers| headers.subprotocol);
        assert_eq!(chosen.as_deref(), protocol.filter(|_| status == 200).map(|_| "shellbridge.v1"));
    }
}

#[tokio::test]
async fn a_subprotocol_is_accepted_only_if_offered() {
    for (offer, chosen) in [
        (vec!["shellbridge.v1"], Some("shellbridge.v1")),
        (vec!["chat", " shellbridge.v1 "], Some("shellbridge.v1")),
        (vec!["shellbridge.v10"], None),
        (vec!["Shellbridge.V1"], None),
        (vec![], None),
    ] {
        let bed = Bed::new().await;
        let event = with_header(connect_event(&token(&json!({}))), "Sec-WebSocket-Protocol", &offer);
        let response = bed.handle(event).await;
        assert_eq!(response.status_code, 200);
        let value = serde_json::to_value(&response).unwrap();
        assert_eq!(value.pointer("/headers/Sec-WebSocket-Protocol").and_then(|v| v.as_str()), chosen);
    }
}

#[tokio::test]
async fn a_client_without_origin_or_multi_value_headers_is_admitted() {
    let bed = Bed::new().await;
    let mut event = with_header(connect_event(&token(&json!({}))), "Origin", &[]);
    event.as_object_mut().unwrap().remove("multiValueHeaders");
    event.as_object_mut().unwrap().remove("multiValueQueryStringParameters");
    event["requestContext"]["identity"].as_object_mut().unwrap().remove("userAgent");
    assert_eq!(bed.handle(event).await.status_code, 200);
}

#[tokio::test]
async fn a_token_without_a_session_opens_any_that_the_backend_allows() {
    let bed = Bed::new().await;
    let event = connect_event(&token(&json!({"sessionId":null,"readOnly":true})));
    assert_eq!(bed.handle(event).await.status_code, 200);
    let requests = bed.backend.taken();
    assert_eq!(requests[0].json()["namesSession"], false);
    assert_eq!(requests[0].json()["readOnly"], true);
}

#[tokio::test]
async fn regression_domain_name_and_stage_undefined_in_connect() {
    // Settings override the event's fields. Without either, the event is rejected.
    for (domain, stage, in_event, callback) in [
        (None, None, true, Some("https://abcd123.execute-api.us-east-1.amazonaws.com/production")),
        (Some("ws.example.org"), None, true, Some("https://ws.example.org")),
        (
            Some("abcd123.execute-api.us-east-1.amazonaws.com"),
            Some("dev"),
            false,
            Some("https://abcd123.execute-api.us-east-1.amazonaws.com/dev"),
        ),
        (None, Some(""), true, Some("https://abcd123.execute-api.us-east-1.amazonaws.com")),
        (None, None, false, None),
    ] {
        let bed = Bed::with(|config| {
            config.callback_endpoint = None;
            config.domain_name = domain.map(str::to_owned);
            config.stage = stage.map(str::to_owned);
        })
        .await;
        let mut event = connect_event(&token(&json!({})));
        if !in_event {
            let context = event["requestContext"].as_object_mut().unwrap();
            context.remove("domainName");
            context.remove("stage");
        }
        let status = bed.handle(event).await.status_code;
        let sent = bed.backend.taken().first().map(|request| request.json()["callbackUrl"].clone());
        assert_eq!(sent.as_ref().and_then(|url| url.as_str()), callback);
        assert_eq!(status, if callback.is_some() { 200 } else { 400 });
    }
}

#[tokio::test]
async fn regression_post_to_connection_during_connect() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.handle(connect_event("bad")).await;
    assert!(bed.connections.taken().is_empty());
}

#[tokio::test]
async fn regression_a_token_for_any_session_opens_every_session() {
    let bed = Bed::new().await;
    let event = connect_event(&token(&json!({"sessionId":"session-2"})));
    assert_eq!(bed.handle(event).await.status_code, 403);
    assert!(bed.backend.taken().is_empty() && bed.items().await.is_empty());
}

#[tokio::test]
async fn backend_errors_map_to_statuses_and_nothing_is_stored() {
    for (status, body, rejected) in [
        (403, r#"{"type":"error","code":"FORBIDDEN","message":"","retryable":false}"#, 403),
        (404, r#"{"type":"error","code":"SESSION_INVALID","message":"","retryable":false}"#, 404),
        (403, r#"{"type":"error","code":"TOKEN_EXPIRED","message":"","retryable":false}"#, 401),
        (404, "<html>no such page</html>", 503),
        (500, r#"{"type":"error","code":"INTERNAL","message":"","retryable":false}"#, 503),
        (200, "<html>hello</html>", 503),
        (302, "", 503),
        (429, "", 503),
    ] {
        let bed = Bed::new().await;
        bed.backend.next([(status, body)]);
        let response = bed.handle(connect_event(&token(&json!({})))).await;
        assert_eq!(response.status_code, rejected, "{status} {body}");
        assert!(!response.body.unwrap().contains("html"));
        assert!(bed.items().await.is_empty());
        assert_eq!(bed.backend.taken().len(), 1);
    }
}

#[tokio::test]
async fn a_repeated_put_of_the_same_connection_succeeds() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.connected().await;
    assert_eq!(bed.items().await.len(), 1);
}

#[tokio::test]
async fn an_id_in_use_is_a_conflict_and_disconnects_at_the_backend() {
    let bed = Bed::new().await;
    bed.connected().await;
    let before = bed.items().await;
    let mut event = connect_event(&token(&json!({})));
    event["requestContext"]["connectedAt"] = 1_701_245_099_999_i64.into();
    assert_eq!(bed.handle(event).await.status_code, 409);
    assert_eq!(bed.items().await, before);
    let paths: Vec<_> = bed.backend.taken().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/api/ws/connect", "/api/ws/disconnect"]);
}

#[tokio::test]
async fn a_failing_put_disconnects_at_the_backend() {
    let bed = Bed::new().await;
    bed.dynamo.delete_table().table_name(TABLE).send().await.unwrap();
    assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 503);
    let requests = bed.backend.taken();
    assert_eq!(requests[1].path, "/api/ws/disconnect");
    assert_eq!(requests[1].json()["sessionId"], "session-1");
}
