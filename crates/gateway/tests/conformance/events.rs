//! Proxy events: exactly the captured fields (section 1).

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest;
use serde_json::{Value, json};
use shellbridge_gateway::event::{self, Api, Origin, Pairs, Peer};
use shellbridge_protocol::{ids::ConnectionId, times::UnixMs};

use crate::support::{Client, Stack};

fn fixture(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Replaces the two times that are always the present.
fn at(event: &[u8], golden: &Value) -> Value {
    let mut event: Value = serde_json::from_slice(event).unwrap();
    for name in ["requestTime", "requestTimeEpoch"] {
        assert!(!event["requestContext"][name].is_null());
        event["requestContext"][name] = golden["requestContext"][name].clone();
    }
    event
}

fn captured(user_agent: Option<&str>) -> (Api, Peer, ConnectionId) {
    let api = Api { id: "abcd123".into(), stage: "production".into() };
    let peer = Peer {
        source_ip: "192.0.2.1".into(),
        user_agent: user_agent.map(str::to_owned),
        domain_name: "abcd123.execute-api.us-east-1.amazonaws.com".into(),
    };
    (api, peer, "PJqB0fHsqRcCHlw=".into())
}

fn origin((api, peer, connection_id): &(Api, Peer, ConnectionId)) -> Origin<'_> {
    Origin { api, peer, connection_id, connected_at: UnixMs(1_701_245_041_796) }
}

#[test]
fn connect_is_as_captured() {
    let golden = fixture(include_str!("events/connect.json"));
    let headers: Pairs = golden["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    let query = vec![("token".to_owned(), "t".to_owned())];
    let facts = captured(Some("Mozilla/5.0"));
    let event = event::connect(origin(&facts), "PJqB0E1tKRcF-Qw=", &headers, &query);
    assert_eq!(at(&event, &golden), golden);
    let parsed: ApiGatewayWebsocketProxyRequest = serde_json::from_slice(&event).unwrap();
    assert_eq!(parsed.request_context.connection_id.as_deref(), Some("PJqB0fHsqRcCHlw="));
    assert_eq!(parsed.headers["origin"], "https://app.example");
    assert_eq!(parsed.query_string_parameters.first("token"), Some("t"));
}

#[test]
fn message_is_as_captured() {
    let golden = fixture(include_str!("events/message.json"));
    let facts = captured(None);
    let event = event::message(origin(&facts), "PJqCFEqHqRcFd0w=", "$default", "PJqCFfHyKRcCHlw=", "hello");
    assert_eq!(at(&event, &golden), golden);
    let parsed: ApiGatewayWebsocketProxyRequest = serde_json::from_slice(&event).unwrap();
    assert_eq!(parsed.body.as_deref(), Some("hello"));
    assert_eq!(parsed.request_context.message_id.as_deref(), Some("PJqCFfHyKRcCHlw="));
    assert_eq!(parsed.request_context.connected_at, 1_701_245_041_796);
}

#[test]
fn disconnect_is_as_captured() {
    let golden = fixture(include_str!("events/disconnect.json"));
    let reason = "Client-side close frame status not set";
    let facts = captured(None);
    let event = event::disconnect(origin(&facts), "PJqCOG4zqRcFcPw=", 1005, reason);
    assert_eq!(at(&event, &golden), golden);
    let parsed: ApiGatewayWebsocketProxyRequest = serde_json::from_slice(&event).unwrap();
    assert_eq!(parsed.request_context.disconnect_status_code, Some(1005));
    assert_eq!(parsed.request_context.disconnect_reason.as_deref(), Some(reason));
}

/// Keys of an object and of its nested objects.
fn shape(value: &Value, path: &str, keys: &mut Vec<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        keys.push(format!("{path}{name}"));
        if !matches!(name.as_str(), "headers" | "multiValueHeaders") {
            shape(value, &format!("{path}{name}."), keys);
        }
    }
}

fn keys(value: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    shape(value, "", &mut keys);
    keys
}

#[tokio::test]
async fn events_of_a_real_connection_have_the_captured_fields() {
    let stack = Stack::scripted().start().await;
    let url = format!("{}?token=a%20b&token=t&empty=", stack.websocket);
    let headers = [
        ("User-Agent", "Mozilla/5.0"),
        ("Origin", "https://app.example"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("X-Forwarded-For", "198.51.100.7"),
    ];
    let mut client = Client::try_connect(&url, &headers).await.unwrap();
    assert!(!client.headers.contains_key("sec-websocket-extensions"), "no extension is negotiated");
    client.send_json(&json!({ "do": "event", "action": "none" })).await;
    let message = client.json().await;
    client.stream.close(None).await.unwrap();
    let connect =
        stack.until_event("CONNECT", |event| event["requestContext"]["eventType"] == "CONNECT").await;
    let id = connect["requestContext"]["connectionId"].as_str().unwrap();
    let disconnect = stack.disconnect_event(id).await;

    let mut golden = fixture(include_str!("events/connect.json"));
    golden["queryStringParameters"] = json!({ "empty": "", "token": "t" });
    golden["multiValueQueryStringParameters"] = json!({ "empty": [""], "token": ["a b", "t"] });
    assert_eq!(keys(&connect), keys(&golden));
    assert_eq!(connect["queryStringParameters"], golden["queryStringParameters"]);
    assert_eq!(connect["multiValueQueryStringParameters"], golden["multiValueQueryStringParameters"]);
    let names: Vec<&String> = connect["headers"].as_object().unwrap().keys().collect();
    for absent in ["connection", "upgrade", "content-length"] {
        assert!(!names.iter().any(|name| name.eq_ignore_ascii_case(absent)), "{names:?}");
    }
    assert_eq!(connect["multiValueHeaders"]["X-Forwarded-For"], json!(["198.51.100.7, 127.0.0.1"]));
    assert_eq!(connect["requestContext"]["identity"]["sourceIp"], "127.0.0.1");
    for (event, golden) in [
        (&message, include_str!("events/message.json")),
        (&disconnect, include_str!("events/disconnect.json")),
    ] {
        let mut golden = fixture(golden);
        golden["requestContext"]["identity"]["userAgent"] = json!("Mozilla/5.0");
        assert_eq!(keys(event), keys(&golden));
        assert_eq!(event["requestContext"]["connectionId"], id);
    }
    assert_eq!(
        disconnect["headers"],
        json!({
            "Host": connect["headers"]["Host"], "x-api-key": "", "X-Forwarded-For": "", "x-restapi": "",
        })
    );
    for event in [&connect, &message, &disconnect] {
        let context = &event["requestContext"];
        assert_eq!(context["requestId"], context["extendedRequestId"]);
        assert_eq!(context["connectedAt"], connect["requestContext"]["connectedAt"]);
        assert!(context["connectedAt"].as_u64() <= context["requestTimeEpoch"].as_u64());
        let _parses: ApiGatewayWebsocketProxyRequest = serde_json::from_value(event.clone()).unwrap();
    }
}

#[tokio::test]
async fn what_the_client_did_not_send_is_absent() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    client.send_json(&json!({ "do": "event" })).await;
    let message = client.json().await;
    assert_eq!(message["requestContext"]["identity"], json!({ "sourceIp": "127.0.0.1" }));
    let connect = &stack.events()[0];
    assert!(connect.get("queryStringParameters").is_none());
    assert!(connect.get("multiValueQueryStringParameters").is_none());
    assert!(connect.get("body").is_none() && connect.get("stageVariables").is_none());
}

#[tokio::test]
async fn header_names_keep_their_case() {
    let stack = Stack::scripted().start().await;
    let host = stack.websocket.trim_start_matches("ws://").trim_end_matches("/prod");
    let request = format!(
        "GET /prod HTTP/1.1\r\nhOsT: {host}\r\nUPGRADE: WebSocket\r\nConnection: keep-alive, Upgrade\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nX-Two: 1\r\nx-two: 2\r\n\r\n"
    );
    let answer = crate::wrong_use::exchange(host, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let connect =
        stack.until_event("CONNECT", |event| event["requestContext"]["eventType"] == "CONNECT").await;
    let headers = connect["headers"].as_object().unwrap();
    assert!(headers.contains_key("hOsT") && headers.contains_key("sec-websocket-key"), "{headers:?}");
    assert_eq!(headers["x-two"], "2", "the last value counts");
    assert_eq!(connect["multiValueHeaders"]["x-two"], json!(["1", "2"]));
}
