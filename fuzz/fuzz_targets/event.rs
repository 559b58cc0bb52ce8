//! Every event gets a status, and only a signed token is admitted.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use lambda_runtime::{Context, LambdaEvent};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use shellbridge_lambda::{App, AwsSettings, Config, Limits};
use tokio::runtime::{Builder, Runtime};

/// Zero timeouts: network requests fail at once.
static BED: LazyLock<(App, Runtime)> = LazyLock::new(|| {
    let none = Duration::ZERO;
    let limits = Limits {
        connect: none,
        backend: none,
        retry_within: none,
        push: none,
        aws_attempt: none,
        aws: none,
        jwks: none,
        secret_reread: none,
        secret_max_age: none,
    };
    let config = Config {
        table_name: "t".into(),
        backend_url: Some("http://127.0.0.1:9".into()),
        app_runner_url: None,
        bridge_secret: Some("bridge-secret-bridge-secret-bridge-".into()),
        bridge_secret_arn: None,
        jwt_secret: Some("jwt-secret-jwt-secret-jwt-secret-".into()),
        jwt_secret_arn: None,
        jwt_public_key: None,
        jwks_url: None,
        jwks_allow_private: false,
        jwt_issuer: None,
        jwt_audience: None,
        allowed_origins: Some("https://app.example".into()),
        domain_name: None,
        stage: None,
        callback_endpoint: None,
        log_level: tracing::Level::ERROR,
        metrics_namespace: "Shellbridge".into(),
        limits: Limits { aws: Duration::from_secs(1), ..limits },
    };
    let sdk =
        SdkConfig::builder().behavior_version(BehaviorVersion::latest()).region(Region::new("x")).build();
    let app = App::new(config, AwsSettings::Given(Box::new(sdk)), std::io::sink()).unwrap();
    (app, Builder::new_current_thread().enable_all().build().unwrap())
});

fuzz_target!(|data: &str| {
    let Ok(event) = serde_json::from_str::<Box<RawValue>>(data) else { return };
    let (app, runtime) = &*BED;
    let Ok(response) = runtime.block_on(app.handle(LambdaEvent::new(event, Context::default())));
    assert!(matches!(response.status_code, 200 | 400 | 401 | 403 | 503), "{response:?}");
    let connects = data.contains("\"CONNECT\"") || data.contains("$connect");
    let other =
        data.contains("MESSAGE") || data.contains("DISCONNECT") || data.contains("$d") || data.contains('\\');
    assert!(!connects || other || response.status_code != 200, "admitted: {data}");
});
