//! The log line of an invocation.

use serde_json::{Value, json};

use crate::{bed::*, fake::Fake};

#[tokio::test]
async fn each_invocation_writes_one_line_with_ids_outcome_and_metrics() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.send(r#"{"type":"ping"}"#).await;
    bed.handle(disconnect_event()).await;
    bed.handle(connect_event("bad")).await;
    let lines = bed.log.lines();
    let outcomes: Vec<_> = lines.iter().map(|line| (&line["Route"], &line["Outcome"])).collect();
    assert_eq!(
        outcomes,
        [
            (&json!("$connect"), &json!("ok")),
            (&json!("$default"), &json!("ok")),
            (&json!("$disconnect"), &json!("ok")),
            (&json!("$connect"), &json!("token_malformed")),
        ]
    );
    for line in &lines {
        assert_eq!((&line["request_id"], &line["connection_id"]), (&"request-1".into(), &CONNECTION.into()));
        assert!(line["DurationMs"].as_f64().unwrap() > 0.0);
    }
    assert_eq!((&lines[1]["session_id"], &lines[3]["session_id"]), (&"session-1".into(), &Value::Null));
    assert_eq!((&lines[0]["ColdStarts"], &lines[1]["ColdStarts"]), (&1.into(), &Value::Null));
    assert_eq!((&lines[0]["Connects"], &lines[3]["Refusals"]), (&1.into(), &1.into()));
    let frame = &lines[1];
    assert_eq!(
        (&frame["Frames"], &frame["BytesIn"], &frame["BytesOut"]),
        (&1.into(), &15.into(), &29.into())
    );
    assert!(frame["BackendMs"].is_f64() && frame["PushMs"].is_f64());
    assert_eq!(frame["Retries"], Value::Null);
}

#[tokio::test]
async fn retries_of_backend_and_push_are_counted() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.log.lines();
    bed.backend.next([(503, "")]);
    bed.connections.next([(500, ""), (429, "")]);
    bed.send(r#"{"type":"ping"}"#).await;
    assert_eq!(bed.log.lines()[0]["Retries"], 3);
}

#[tokio::test]
async fn the_load_balancers_cookies_come_back_until_a_hop_which_is_counted() {
    let bed = Bed::new().await;
    bed.connected().await;
    let instance = async |hop: &str, cookie: &str| {
        let cookies = [format!("AWSALB={cookie}; Path=/"), format!("AWSALBCORS={cookie}; Path=/; Secure")];
        bed.backend.headers(&[
            ("x-shellbridge-hop", hop),
            ("set-cookie", &cookies[0]),
            ("set-cookie", &cookies[1]),
            ("set-cookie", "other=1"),
        ]);
        bed.backend.taken();
        bed.log.lines();
        bed.send(r#"{"type":"ping"}"#).await;
        let sent = bed.backend.taken()[0].header("cookie").to_owned();
        (sent, bed.log.lines()[0]["Hops"].clone())
    };
    assert_eq!(instance("1", "a").await, (String::new(), 1.into()));
    assert_eq!(instance("0", "b").await, (String::new(), Value::Null));
    assert_eq!(instance("0", "c").await, ("AWSALB=b; AWSALBCORS=b".to_owned(), Value::Null));
    assert_eq!(instance("1", "d").await, ("AWSALB=c; AWSALBCORS=c".to_owned(), 1.into()));
    assert_eq!(instance("0", "e").await, (String::new(), Value::Null));
    bed.handle(disconnect_event()).await;
    assert_eq!(bed.backend.taken()[0].header("cookie"), "AWSALB=e; AWSALBCORS=e");
}

#[tokio::test]
async fn retries_of_the_aws_sdk_count_for_their_invocation() {
    let parameter = json!({"Parameter":{"Value":JWT_SECRET}}).to_string();
    let store = Fake::start(move |_| (200, parameter.clone())).await;
    let dynamo = Fake::start(|_| (200, "{}".to_owned())).await;
    let endpoints = Endpoints([("DynamoDB", dynamo.url.clone()), ("SSM", store.url.clone())].into());
    let bed = Bed::over(endpoints, |config| {
        config.jwt_secret = None;
        config.jwt_secret_arn = Some("/jwt".to_owned());
    })
    .await;
    store.next([(500, "{}")]);
    dynamo.next([(500, "{}"), (503, "{}")]);
    bed.connected().await;
    bed.send(r#"{"type":"ping"}"#).await;
    let lines = bed.log.lines();
    assert_eq!((&lines[0]["Retries"], &lines[1]["Retries"]), (&3.into(), &Value::Null));
}

/// The embedded metric format's rules (`CloudWatch` User Guide, "Specification: Embedded metric format").
#[tokio::test]
async fn metrics_follow_the_embedded_metric_format() {
    let bed = Bed::with(|config| config.metrics_namespace = "Shellbridge/one-stack".into()).await;
    bed.connected().await;
    bed.send(r#"{"type":"ping"}"#).await;
    bed.handle(json!({})).await;
    for line in bed.log.lines() {
        assert!(line["_aws"]["Timestamp"].as_i64().unwrap() / 1_000 - now() <= 1);
        let directives = line["_aws"]["CloudWatchMetrics"].as_array().unwrap();
        assert_eq!(directives.len(), 2);
        for directive in directives {
            assert_eq!(directive["Namespace"], "Shellbridge/one-stack");
            for dimension in
                directive["Dimensions"].as_array().unwrap().iter().flat_map(|set| set.as_array().unwrap())
            {
                assert!(line[dimension.as_str().unwrap()].is_string(), "{dimension} in {line}");
            }
            for metric in directive["Metrics"].as_array().unwrap() {
                assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{metric} in {line}");
                assert!(["Count", "Milliseconds", "Bytes"].contains(&metric["Unit"].as_str().unwrap()));
            }
        }
    }
}
