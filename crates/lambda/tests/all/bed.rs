//! The test bed: the function and its dependencies.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_dynamodb::{
    Client,
    config::{Credentials, SharedCredentialsProvider},
    types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    },
};
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lambda_runtime::{Context, LambdaEvent};
use serde_json::{Value, json};
use shellbridge_lambda::{App, AwsSettings, Config, Limits, Response};
use shellbridge_outbound::Http;
use shellbridge_protocol::{bridge::BridgeKeys, times::UnixSecs};
use tokio::net::TcpListener;

use crate::fake::{Fake, Request};

pub const JWT_SECRET: &str = "jwt-secret-jwt-secret-jwt-secret-";
pub const BRIDGE_SECRET: &str = "bridge-secret-bridge-secret-bridge-";
pub const TABLE: &str = "WebSocketConnections";
/// The connection of the recorded events.
pub const CONNECTION: &str = "PJqB0fHsqRcCHlw=";

pub type Item = HashMap<String, AttributeValue>;

pub struct Bed {
    pub app: App,
    pub backend: Fake,
    pub connections: Fake,
    pub dynamo: Client,
    pub log: Log,
}

/// The function's log.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Takes the lines so far.
    pub fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Endpoints by service id, as `AWS_ENDPOINT_URL_*` would give them.
#[derive(Debug, Clone, Default)]
pub struct Endpoints(pub HashMap<&'static str, String>);

impl LoadServiceConfig for Endpoints {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        (key.env() == "AWS_ENDPOINT_URL").then(|| self.0.get(key.service_id()).cloned())?
    }
}

pub fn sdk_config(endpoints: Endpoints) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .http_client(Http::new(Duration::from_secs(1)))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("a", "s", None, None, "test")))
        .service_config(endpoints)
        .build()
}

/// A `DynamoDB` API in memory.
pub async fn dynamo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(dynoxide::server::serve_on(listener, dynoxide::Database::memory().unwrap()));
    url
}

pub async fn make_table(dynamo: &Client) {
    let key = KeySchemaElement::builder().attribute_name("connectionId").key_type(KeyType::Hash);
    let attribute =
        AttributeDefinition::builder().attribute_name("connectionId").attribute_type(ScalarAttributeType::S);
    dynamo
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key.build().unwrap())
        .attribute_definitions(attribute.build().unwrap())
        .send()
        .await
        .unwrap();
}

/// A backend that verifies signatures and answers each frame with a `pong`.
pub async fn backend() -> Fake {
    Fake::start(good_backend).await
}

pub fn good_backend(request: &Request) -> (u16, String) {
    let keys = BridgeKeys::parse(BRIDGE_SECRET).unwrap();
    let token = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    match keys.verify(
        token,
        &request.path,
        &request.header("x-connection-id").into(),
        &request.body,
        UnixSecs(now()),
    ) {
        Err(_) => (401, String::new()),
        Ok(_) if request.path == "/api/ws/message" => (200, r#"{"type":"pong","timestamp":1}"#.to_owned()),
        Ok(_) if request.path == "/api/ws/connect" => (200, r#"{"ok":true}"#.to_owned()),
        Ok(_) => (200, r#"{"success":true}"#.to_owned()),
    }
}

pub async fn connections() -> Fake {
    Fake::start(|request| (if request.method == "DELETE" { 204 } else { 200 }, String::new())).await
}

pub fn config() -> Config {
    Config {
        table_name: TABLE.to_owned(),
        backend_url: None,
        app_runner_url: None,
        bridge_secret: Some(BRIDGE_SECRET.to_owned()),
        bridge_secret_arn: None,
        jwt_secret: Some(JWT_SECRET.to_owned()),
        jwt_secret_arn: None,
        jwt_public_key: None,
        jwks_url: None,
        jwks_allow_private: false,
        jwt_issuer: None,
        jwt_audience: None,
        allowed_origins: Some("https://app.example".to_owned()),
        domain_name: None,
        stage: None,
        callback_endpoint: None,
        log_level: tracing::Level::DEBUG,
        metrics_namespace: "Shellbridge".into(),
        limits: Limits::default(),
    }
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_endpoints(Endpoints::default(), change).await
    }

    /// `hung` accepts connections and never answers.
    pub async fn with_hung_dynamo(hung: &str) -> Self {
        Self::over(Endpoints(HashMap::from([("DynamoDB", hung.to_owned())])), |_| {}).await
    }

    pub async fn with_endpoints(mut endpoints: Endpoints, change: impl FnOnce(&mut Config)) -> Self {
        endpoints.0.insert("DynamoDB", dynamo().await);
        let bed = Self::over(endpoints, change).await;
        make_table(&bed.dynamo).await;
        bed
    }

    /// Starts no `DynamoDB`.
    pub async fn over(endpoints: Endpoints, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_sdk(sdk_config(endpoints), change).await
    }

    async fn with_sdk(sdk: SdkConfig, change: impl FnOnce(&mut Config)) -> Self {
        let dynamo = Client::new(&sdk);
        let (backend, connections) = (backend().await, connections().await);
        let mut config = config();
        config.backend_url = Some(backend.url.clone());
        config.callback_endpoint = Some(connections.url.clone());
        change(&mut config);
        let log = Log::default();
        let app = App::new(config, AwsSettings::Given(Box::new(sdk)), log.clone()).unwrap();
        Self { app, backend, connections, dynamo, log }
    }

    /// With a credentials provider.
    pub async fn with_credentials(provider: impl ProvideCredentials + 'static) -> Self {
        let endpoints = Endpoints(HashMap::from([("DynamoDB", dynamo().await)]));
        let provider = SharedCredentialsProvider::new(provider);
        let sdk = sdk_config(endpoints).to_builder().credentials_provider(provider).build();
        let bed = Self::with_sdk(sdk, |_| {}).await;
        make_table(&bed.dynamo).await;
        bed
    }

    pub async fn handle(&self, event: Value) -> Response {
        self.handle_within(event, Duration::from_secs(15)).await
    }

    pub async fn handle_within(&self, event: Value, time: Duration) -> Response {
        let payload = serde_json::value::to_raw_value(&event).unwrap();
        let mut context = Context::default();
        "request-1".clone_into(&mut context.request_id);
        context.xray_trace_id = Some("Root=1-2-3".to_owned());
        let deadline = std::time::SystemTime::now() + time;
        context.deadline =
            u64::try_from(deadline.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap();
        self.app.handle(LambdaEvent::new(payload, context)).await.unwrap()
    }

    /// Connects with a valid token and discards the recorded requests.
    pub async fn connected(&self) {
        let response = self.handle(connect_event(&token(&json!({})))).await;
        assert_eq!(response.status_code, 200, "{response:?}");
        self.backend.taken();
    }

    pub async fn send(&self, frame: &str) -> Response {
        self.handle(message_event(frame)).await
    }

    /// Sends a frame and returns the frames posted to the client.
    pub async fn answers(&self, frame: &str) -> Vec<Value> {
        assert_eq!(self.send(frame).await.status_code, 200);
        posts(&self.connections.taken())
    }

    pub async fn items(&self) -> Vec<Item> {
        let items = self.dynamo.scan().table_name(TABLE).consistent_read(true).send().await.unwrap();
        items.items.unwrap_or_default()
    }
}

/// The frames posted to the client.
pub fn posts(requests: &[Request]) -> Vec<Value> {
    requests.iter().filter(|request| request.method == "POST").map(Request::json).collect()
}

pub fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// Valid claims with changes; `null` removes a claim.
pub fn claims(change: &Value) -> Value {
    let mut claims =
        json!({"sub":"ann","sessionId":"session-1","iss":"us","aud":"shells","exp":now() + 3600});
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    claims
}

pub fn token(change: &Value) -> String {
    sign(&Header::new(Algorithm::HS256), &claims(change), JWT_SECRET)
}

pub fn sign(header: &Header, claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

pub fn connect_event(token: &str) -> Value {
    let event = serde_json::from_str(include_str!("../events/connect.json")).unwrap();
    with_query(event, &[("sessionId", "session-1"), ("token", token)])
}

pub fn with_query(mut event: Value, query: &[(&str, &str)]) -> Value {
    let single: HashMap<_, _> = query.iter().copied().collect();
    let multi: HashMap<_, _> = query.iter().map(|(name, value)| (*name, [*value])).collect();
    event["queryStringParameters"] = json!(single);
    event["multiValueQueryStringParameters"] = json!(multi);
    event
}

/// Sets a header in both forms; an empty list removes it.
pub fn with_header(mut event: Value, name: &str, values: &[&str]) -> Value {
    for (form, value) in
        [("headers", values.last().map(|last| json!(last))), ("multiValueHeaders", Some(json!(values)))]
    {
        let headers = event[form].as_object_mut().unwrap();
        headers.retain(|key, _| !key.eq_ignore_ascii_case(name));
        if let Some(value) = value.filter(|_| !values.is_empty()) {
            headers.insert(name.to_owned(), value);
        }
    }
    event
}

pub fn message_event(frame: &str) -> Value {
    let mut event: Value = serde_json::from_str(include_str!("../events/message.json")).unwrap();
    event["body"] = frame.into();
    event
}

pub fn disconnect_event() -> Value {
    serde_json::from_str(include_str!("../events/disconnect.json")).unwrap()
}
