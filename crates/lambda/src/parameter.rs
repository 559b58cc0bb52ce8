//! `GetParameter` of Systems Manager, by the parts that the SDK's client is made of: endpoint rules, credentials,
//! signature, times, repeats.
//!
//! Not by the client itself: what reads its answers knows the types of all errors of the service (`aws-sdk-ssm` 1.133,
//! `error_type_registry`): 0.9 MB of an executable that may have 6.5, for the codes of two.

use std::fmt;

use aws_config::SdkConfig;
use aws_runtime::{
    auth::{
        SigV4OperationSigningConfig,
        sigv4::{SCHEME_ID, SigV4AuthScheme},
    },
    retries::classifiers::AwsErrorCodeClassifier,
};
use aws_sdk_ssm::{
    config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _},
    error::ErrorMetadata,
};
use aws_smithy_runtime::client::{
    orchestrator::operation::Operation,
    retries::classifiers::{HttpStatusCodeClassifier, TransientErrorClassifier},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        auth::{AuthSchemeOptionResolverParams, static_resolver::StaticAuthSchemeOptionResolver},
        identity::SharedIdentityResolver,
        orchestrator::{HttpRequest, HttpResponse, OrchestratorError, SensitiveOutput},
        result::SdkError,
        runtime_components::RuntimeComponentsBuilder,
        runtime_plugin::StaticRuntimePlugin,
    },
};
use aws_smithy_types::{body::SdkBody, config_bag::Layer};
use aws_types::{SigningName, region::SigningRegion, service_config::ServiceConfigKey};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    aws::{self, Aws},
    config::Limits,
};

const SERVICE: &str = "ssm";

/// What is kept under a name.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Parameter {
    #[serde(rename = "ARN")]
    pub(crate) arn: Option<String>,
    /// Decrypted.
    pub(crate) value: Option<String>,
}

/// Without the secret.
impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameter").field("arn", &self.arn).finish_non_exhaustive()
    }
}

/// Reads a parameter by name or ARN.
#[derive(Debug)]
pub(crate) struct Parameters(Operation<String, Parameter, ErrorMetadata>);

impl Parameters {
    /// As the settings say.
    ///
    /// # Errors
    /// Without region, or with one that has no endpoint.
    pub(crate) async fn new(aws: &Aws, limits: &Limits) -> Result<Self, BoxError> {
        let config = aws.config().await;
        let region = config.region().ok_or("no AWS region is set")?.clone();
        let params = Params::builder()
            .region(region.to_string())
            .set_use_fips(config.use_fips())
            .set_use_dual_stack(config.use_dual_stack())
            .set_endpoint(endpoint_url(config)?)
            .build()?;
        let endpoint = DefaultResolver::new().resolve_endpoint(&params).await?;

        let mut layer = Layer::new(SERVICE);
        layer
            .store_put(SigningRegion::from(region))
            .store_put(SigningName::from_static(SERVICE))
            .store_put(SigV4OperationSigningConfig::default())
            .store_put(AuthSchemeOptionResolverParams::new(()))
            .store_put(SensitiveOutput);
        let mut components = RuntimeComponentsBuilder::new(SERVICE)
            .with_http_client(config.http_client())
            .with_sleep_impl(config.sleep_impl())
            .with_time_source(config.time_source())
            .with_interceptor(aws.repeats())
            .with_auth_scheme(SigV4AuthScheme::new())
            .with_auth_scheme_option_resolver(Some(StaticAuthSchemeOptionResolver::new(vec![SCHEME_ID])))
            .with_retry_classifier(TransientErrorClassifier::<ErrorMetadata>::new())
            .with_retry_classifier(AwsErrorCodeClassifier::<ErrorMetadata>::new())
            .with_retry_classifier(HttpStatusCodeClassifier::default());
        if let Some(credentials) = config.credentials_provider() {
            components.set_identity_resolver(SCHEME_ID, SharedIdentityResolver::new(credentials));
        }
        let plugin =
            StaticRuntimePlugin::new().with_config(layer.freeze()).with_runtime_components(components);
        let operation = Operation::builder()
            .service_name(SERVICE)
            .operation_name("GetParameter")
            .endpoint_url(endpoint.url())
            .timeout_config(aws::timeouts(limits))
            .standard_retry(&aws::retries())
            .runtime_plugin(plugin)
            .serializer(request)
            .deserializer(answer)
            .build();
        Ok(Self(operation))
    }

    /// Reads one, decrypted.
    pub(crate) async fn get(&self, name: &str) -> Result<Parameter, SdkError<ErrorMetadata, HttpResponse>> {
        self.0.invoke(name.to_owned()).await
    }
}

/// As the SDK's clients find it: `AWS_ENDPOINT_URL_SSM`, or that of all services.
fn endpoint_url(config: &SdkConfig) -> Result<Option<String>, BoxError> {
    let key = ServiceConfigKey::builder()
        .service_id("SSM")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()?;
    let own = config.service_config().and_then(|service| service.load_config(key));
    Ok(own.or_else(|| config.endpoint_url().map(str::to_owned)))
}

#[expect(clippy::needless_pass_by_value, reason = "the SDK gives it so")]
fn request(name: String) -> Result<HttpRequest, BoxError> {
    let body = json!({ "Name": name, "WithDecryption": true }).to_string();
    let mut request = HttpRequest::new(SdkBody::from(body));
    request.set_method("POST")?;
    request.headers_mut().insert("content-type", "application/x-amz-json-1.1");
    request.headers_mut().insert("x-amz-target", "AmazonSSM.GetParameter");
    Ok(request)
}

fn answer(response: &HttpResponse) -> Result<Parameter, OrchestratorError<ErrorMetadata>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "Parameter")]
        parameter: Parameter,
    }
    let body = response.body().bytes().unwrap_or_default();
    let mut error = ErrorMetadata::builder();
    if response.status().is_success() {
        if let Ok(Answer { parameter }) = serde_json::from_slice(body) {
            return Ok(parameter);
        }
        // Without what serde would quote of it.
        error = error.message("the answer cannot be read");
        return Err(OrchestratorError::operation(error.build()));
    }
    // https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html, "Operation error serialization"
    let refusal: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| refusal.get(name).and_then(Value::as_str);
    let kind = response.headers().get("x-amzn-errortype").or_else(|| text("code")).or_else(|| text("__type"));
    if let Some(code) = kind.and_then(|kind| kind.split(':').next()?.rsplit('#').next()) {
        error = error.code(code);
    }
    if let Some(message) = text("message").or_else(|| text("Message")) {
        error = error.message(message);
    }
    Err(OrchestratorError::operation(error.build()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(header: Option<&'static str>, body: &'static str) -> ErrorMetadata {
        let mut response = HttpResponse::new(400.try_into().unwrap(), SdkBody::from(body));
        if let Some(header) = header {
            response.headers_mut().insert("x-amzn-errortype", header);
        }
        answer(&response).unwrap_err().as_operation_error().unwrap().clone()
    }

    /// The shapes that the protocol's documents name.
    #[test]
    fn a_refusal_has_its_code_however_it_is_written() {
        for (header, body) in [
            (None, r#"{"__type":"FooError","message":"m"}"#),
            (None, r#"{"__type":"aws.protocoltests#FooError:http://x/#y","Message":"m"}"#),
            (None, r#"{"code":"FooError","message":"m","Message":7}"#),
            (Some("FooError:http://internal.amazon.com/coral/"), r#"{"__type":"Other","message":"m"}"#),
        ] {
            let error = refused(header, body);
            assert_eq!((error.code(), error.message()), (Some("FooError"), Some("m")), "{body}");
        }
        assert_eq!(refused(None, "<html>"), ErrorMetadata::builder().build());
    }

    #[test]
    fn what_cannot_be_read_is_not_quoted() {
        let response =
            HttpResponse::new(200.try_into().unwrap(), SdkBody::from(r#"{"Parameter":"the-secret"}"#));
        let said = format!("{:?}", answer(&response).unwrap_err());
        assert!(said.contains("cannot be read") && !said.contains("the-secret"), "{said}");
        let parameter = Parameter { arn: None, value: Some("the-secret".to_owned()) };
        assert!(!format!("{parameter:?}").contains("the-secret"));
    }
}
