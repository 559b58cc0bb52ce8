//! The real process behind a Lambda Runtime API, configured only by environment variables.

use std::{collections::HashMap, os::unix::fs::MetadataExt, process::Stdio, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertifiedKey, KeyPair};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer},
};

use crate::{bed::*, fake::Fake, runtime_api::RuntimeApi};

/// The executable under test: the one just built, or the one named by `WEBSOCKET_HANDLER`, such as a release build.
fn binary() -> String {
    std::env::var("WEBSOCKET_HANDLER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_websocket-handler").to_owned())
}

struct Function {
    process: Child,
    api: RuntimeApi,
    backend: Fake,
    connections: Fake,
    dynamo: aws_sdk_dynamodb::Client,
}

async fn start(log_level: &str) -> Function {
    let (api, backend, connections) = (RuntimeApi::start().await, backend().await, connections().await);
    let url = dynamo().await;
    let dynamo =
        aws_sdk_dynamodb::Client::new(&sdk_config(Endpoints(HashMap::from([("DynamoDB", url.clone())]))));
    make_table(&dynamo).await;
    let process = spawn(
        &api,
        &[
            ("AWS_ENDPOINT_URL_DYNAMODB", &url),
            ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", &connections.url),
            ("BACKEND_URL", &backend.url),
            ("LOG_LEVEL", log_level),
            // Templates set unused variables to the empty string.
            ("JWT_SECRET_ARN", ""),
            ("JWKS_URL", ""),
        ],
    );
    Function { process, api, backend, connections, dynamo }
}

fn spawn(api: &RuntimeApi, variables: &[(&str, &str)]) -> Child {
    Command::new(binary())
        .env_clear()
        .envs(runtime_environment(&api.address))
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn runtime_environment(api: &str) -> HashMap<&'static str, String> {
    HashMap::from([
        ("AWS_LAMBDA_RUNTIME_API", api.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", "f".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "a".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "the-aws-secret".to_owned()),
        ("AWS_SESSION_TOKEN", "the-aws-session-token".to_owned()),
        ("JWT_SECRET", JWT_SECRET.to_owned()),
        ("BRIDGE_SECRET", BRIDGE_SECRET.to_owned()),
        ("ALLOWED_ORIGINS", "https://app.example".to_owned()),
    ])
}

#[tokio::test]
async fn regression_tokens_and_commands_in_the_logs() {
    const TYPED: &str = "hunter2-typed";
    // The worst case: the most verbose log.
    let mut function = start("trace").await;
    let api = &function.api;
    let good = token(&json!({}));
    let bad = token(&json!({"exp":1}));
    let mut handshakes = Vec::new();
    for token in [&good, &bad] {
        let event = with_query(connect_event(""), &[("sessionId", "session-1")]);
        handshakes.push(with_header(event.clone(), "Authorization", &[&format!("Bearer {token}")]));
        handshakes.push(with_header(
            event,
            "Sec-WebSocket-Protocol",
            &["shellbridge.v1", &format!("bearer.{token}")],
        ));
        handshakes.push(with_header(connect_event(token), "X-A", &["a\r\nb"]));
        handshakes.push(connect_event(token));
    }
    let statuses = [200, 200, 400, 200, 401, 401, 400, 401];
    for (event, status) in handshakes.into_iter().zip(statuses) {
        assert_eq!(api.invoke(event).await["statusCode"], status);
    }
    let frame = json!({"type":"command","command":TYPED}).to_string();
    for (status, body) in [
        (200, "{\"raw\":\"backend-words\"}"),
        (204, ""),
        (200, "backend-words"),
        (401, "backend-words"),
        (404, "backend-words"),
        (500, "backend-words"),
        (503, "backend-words"),
        (429, "backend-words"),
    ] {
        function.backend.next([(status, body)]);
        assert_eq!(api.invoke(message_event(&frame)).await["statusCode"], 200);
    }
    for status in [400, 403, 413, 429, 500, 410] {
        function.connections.next([(status, "{\"message\":\"gateway-words\"}")]);
        api.invoke(message_event(&frame)).await;
    }
    api.invoke(message_event(TYPED)).await;
    let mut malformed = message_event(TYPED);
    malformed["requestContext"]["connectedAt"] = TYPED.into();
    assert_eq!(api.invoke(malformed).await["statusCode"], 400);
    function.dynamo.delete_table().table_name(TABLE).send().await.unwrap();
    assert_eq!(api.invoke(connect_event(&good)).await["statusCode"], 503);
    api.invoke(message_event(&frame)).await;
    assert_eq!(api.invoke(disconnect_event()).await["statusCode"], 200);

    function.process.start_kill().unwrap();
    let output = function.process.wait_with_output().await.unwrap();
    let log = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(log.lines().count() >= 30, "{log}");
    let signatures: Vec<String> = [function.backend.taken(), function.connections.taken()]
        .iter()
        .flatten()
        .map(|request| request.header("authorization").rsplit(['.', '=']).next().unwrap().to_owned())
        .collect();
    let secrets =
        [JWT_SECRET, BRIDGE_SECRET, TYPED, "the-aws-secret", "the-aws-session-token", "-words", "token="];
    let tokens = [&good, &bad].map(|token| token.rsplit('.').next().unwrap());
    for secret in secrets.into_iter().chain(tokens).chain(signatures.iter().map(String::as_str)) {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        let ids = if line["span"].is_object() { &line["span"] } else { &line };
        let known =
            ids["request_id"].is_string() && (ids["connection_id"].is_string() || line["Route"] == "none");
        // A line for a batch of frames has no ids.
        assert!(known || line["BytesIn"].is_array(), "{line}");
    }
}

/// Puts a TLS proxy in front of a plain server. Returns its URL.
async fn with_tls(server: &str, certified: &CertifiedKey<KeyPair>) -> String {
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = server.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                // A client that rejects the certificate hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut server = TcpStream::connect(server).await.unwrap();
                let _gone = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn tls_accepts_only_certificates_that_the_machine_trusts() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (backend, connections, dynamo) = (backend().await, connections().await, dynamo().await);
    let endpoints = Endpoints(HashMap::from([("DynamoDB", dynamo.clone())]));
    make_table(&aws_sdk_dynamodb::Client::new(&sdk_config(endpoints))).await;
    let (backend_url, connections_url) =
        (with_tls(&backend.url, &certified).await, with_tls(&connections.url, &certified).await);
    let roots = |certified: &CertifiedKey<KeyPair>| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let der = STANDARD.encode(certified.cert.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n");
        std::fs::write(file.path(), pem).unwrap();
        file
    };
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (roots, status) in [(roots(&other), 503), (roots(&certified), 200)] {
        let api = RuntimeApi::start().await;
        let _process = spawn(
            &api,
            &[
                ("AWS_ENDPOINT_URL_DYNAMODB", &dynamo),
                ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", &connections_url),
                ("BACKEND_URL", &backend_url),
                ("SSL_CERT_FILE", roots.path().to_str().unwrap()),
            ],
        );
        assert_eq!(api.invoke(connect_event(&token(&json!({})))).await["statusCode"], status);
        assert_eq!(backend.taken().is_empty(), status == 503);
        api.invoke(message_event(r#"{"type":"ping"}"#)).await;
        assert_eq!(connections.taken().is_empty(), status == 503);
    }
}

#[tokio::test]
async fn other_processes_cannot_read_the_environment() {
    // /proc/PID of a non-dumpable process belongs to root, whichever user runs it.
    let api = RuntimeApi::start().await;
    let directory = std::env::temp_dir().join(format!("shellbridge-lambda-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let copy = directory.join("websocket-handler");
    // `cp` writes the copy: if this process did, a concurrent fork would keep it open for writing (ETXTBSY).
    assert!(Command::new("cp").arg(binary()).arg(&copy).status().await.unwrap().success());
    let mut command = Command::new(&copy);
    command.env_clear().envs(runtime_environment(&api.address)).env("BACKEND_URL", "http://127.0.0.1:9");
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65_534);
    }
    let process = command.kill_on_drop(true).spawn().unwrap();
    api.ready().await;
    let environment = format!("/proc/{}/environ", process.id().unwrap());
    assert_eq!(std::fs::metadata(environment).unwrap().uid(), 0);
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn an_invalid_setting_stops_the_start_with_its_name_and_no_secret() {
    let missing = ["JWT_SECRET", "BRIDGE_SECRET", "ALLOWED_ORIGINS", "BACKEND_URL"].map(|name| (name, ""));
    for (name, value) in missing.into_iter().chain([("LOG_LEVEL", "loud"), ("JWKS_ALLOW_PRIVATE", "perhaps")])
    {
        let mut environment = runtime_environment("127.0.0.1:9");
        environment.insert("BACKEND_URL", "http://127.0.0.1:9".to_owned());
        environment.insert(name, value.to_owned());
        let output = Command::new(binary()).env_clear().envs(environment).output().await.unwrap();
        assert!(!output.status.success(), "{name}");
        let log = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(log.contains(name), "{log}");
        assert!(!log.contains(JWT_SECRET) && !log.contains(BRIDGE_SECRET), "{log}");
    }
}

#[tokio::test]
async fn memory_does_not_grow_with_frames() {
    let mut function = start("info").await;
    // A full pipe would block the process.
    tokio::spawn(drain(function.process.stdout.take().unwrap()));
    assert_eq!(function.api.invoke(connect_event(&token(&json!({})))).await["statusCode"], 200);
    let resident = async |frames: usize| {
        for _ in 0..frames {
            function
                .api
                .invoke(message_event(&json!({"type":"input","data":"x".repeat(30_000)}).to_string()))
                .await;
        }
        let status = format!("/proc/{}/status", function.process.id().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let (first, last) = (resident(100).await, resident(400).await);
    assert!(last < first + 1_024, "{first} kB, then {last} kB");
    println!("{first} kB after 100 frames of 30 kB, {last} kB after 500");
}

async fn drain(mut output: tokio::process::ChildStdout) {
    tokio::io::copy(&mut output, &mut tokio::io::sink()).await.unwrap();
}
