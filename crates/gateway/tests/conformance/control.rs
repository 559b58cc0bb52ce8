//! The control port (wire contract, section 8).

use serde_json::json;

use crate::support::{Stack, http};

#[tokio::test]
async fn faults_are_merged_and_checked() {
    let stack = Stack::scripted().start().await;
    let quiet = json!({
        "seed": 1, "delayMs": 0, "reorder": 0.0, "repeat": 0.0, "drop": 0.0, "pushFail": 0.0,
        "pushFailAfterDelivery": 0.0, "pushFailStatus": 0, "cutEveryMs": 0, "cutEveryFrames": 0,
        "cutAbruptly": false, "dropDisconnect": 0.0, "killFunctionEveryMs": 0, "killBackendEveryMs": 0,
        "killInstanceEveryMs": 0, "pauseInstanceEveryMs": 0, "pauseInstanceMs": 15000, "partition": [], "spreadRequests": false,
        "redisPauseMs": 0, "redisFlush": false,
    });
    assert_eq!(stack.faults(json!({})).await, quiet);
    let changed = stack.faults(json!({ "drop": 0.25, "seed": 9 })).await;
    assert_eq!(
        (&changed["drop"], &changed["seed"], &changed["reorder"]),
        (&json!(0.25), &json!(9), &json!(0.0))
    );
    assert_eq!(stack.faults(json!({})).await, changed);
    let url = format!("{}__faults", stack.control);
    for wrong in [
        "",
        "[]",
        "{\"drop\":2}",
        "{\"drop\":\"x\"}",
        "{\"unknown\":1}",
        "{\"pushFailStatus\":200}",
        "{\"partition\":[0]}",
        "{\"redisFlush\":true}",
    ] {
        let answer = http("POST", &url, &[], wrong).await;
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.json()["message"].is_string());
    }
    assert_eq!(stack.faults(json!({})).await, changed);
}

#[tokio::test]
async fn the_state_counts_and_meters() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    client.send("x".repeat(100)).await;
    client.text().await;
    let id = stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    http("POST", &stack.connection_url(&id), &[], "y".repeat(33_000)).await;
    client.text().await;
    let mut state = stack.until_state("four processes", |state| state["function"]["coldStarts"] == 4).await;
    let faults = state["faults"].take();
    assert_eq!(faults["seed"], 1);
    // `$connect` and `$default`, in whole milliseconds, rounded up.
    assert!(state["billedMs"].take().as_u64() >= Some(2), "{state}");
    assert_eq!(
        state,
        json!({
            "connections": 1,
            "invocations": { "$connect": 1, "$default": 1, "$disconnect": 0 },
            "messagesIn": 1, "messagesOut": 2, "meteredIn": 1, "meteredOut": 3,
            "pushes": { "200": 1 }, "dynamodb": {}, "billedMs": null, "cuts": 0, "backendKills": 0,
            "pauses": 0, "faults": null,
            "function": { "coldStarts": 4, "crashes": 0, "kills": 0 },
        })
    );
}

#[tokio::test]
async fn dynamodb_works_and_is_counted() {
    let stack = Stack::scripted().start().await;
    let call = |operation: &'static str, body: serde_json::Value| {
        let url = format!("{}/", stack.dynamodb);
        async move {
            let target = format!("DynamoDB_20120810.{operation}");
            let headers = [
                ("x-amz-target", target.as_str()),
                ("content-type", "application/x-amz-json-1.0"),
                (
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0",
                ),
                ("x-amz-date", "20260101T000000Z"),
            ];
            let answer = http("POST", &url, &headers, body.to_string()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()
        }
    };
    let item = json!({ "connectionId": { "S": "c=" }, "sessionId": { "S": "s" }, "expiresAt": { "N": "4102444800" } });
    call("PutItem", json!({ "TableName": "WebSocketConnections", "Item": item })).await;
    let key = json!({ "connectionId": { "S": "c=" } });
    let found =
        call("GetItem", json!({ "TableName": "WebSocketConnections", "Key": key, "ConsistentRead": true }))
            .await;
    assert_eq!(found["Item"], item);
    let queried = call(
        "Query",
        json!({
            "TableName": "WebSocketConnections", "IndexName": "SessionIdIndex",
            "KeyConditionExpression": "sessionId = :s", "ExpressionAttributeValues": { ":s": { "S": "s" } },
        }),
    )
    .await;
    assert_eq!(queried["Items"], json!([item]));
    let ttl = call("DescribeTimeToLive", json!({ "TableName": "WebSocketConnections" })).await;
    assert_eq!(ttl["TimeToLiveDescription"]["AttributeName"], "expiresAt");
    let counted = stack.state().await["dynamodb"].clone();
    assert_eq!(counted, json!({ "PutItem": 1, "GetItem": 1, "Query": 1, "DescribeTimeToLive": 1 }));
}

#[tokio::test]
async fn other_hosts_and_origins_are_refused() {
    let stack = Stack::scripted().start().await;
    let url = format!("{}__state", stack.control);
    assert_eq!(http("GET", &url, &[("Host", "rebound.example")], "").await.status, 403);
    assert_eq!(http("GET", &url, &[("Origin", "https://evil.example")], "").await.status, 403);
    assert_eq!(http("POST", &url, &[], "").await.status, 405);
    assert_eq!(http("GET", &format!("{}x", stack.control), &[], "").await.status, 404);
    let (status, said) = Stack::scripted().flag("--control", "0.0.0.0:0").fails();
    assert!(!status.success() && said.contains("(--control)"), "{said}");
}
