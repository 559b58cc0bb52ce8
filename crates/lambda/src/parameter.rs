//! `GetParameter` of Systems Manager, as one signed request.
//!
//! `aws-sdk-ssm` would be a quarter of a cold build, and its error types alone 0.9 MB of a function limited to 6.5 MB.

use std::{fmt, time::SystemTime};

use aws_smithy_types::body::SdkBody;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use shellbridge_outbound::{Http, HttpError, Retry, SignError, Signer, endpoint};
use tokio::time::{Instant, timeout_at};

use crate::{
    aws::{Aws, MAX_RETRIES, RetryCounter},
    config::Limits,
};

/// Largest response read. A parameter has at most 8 KiB, a secret 64 KiB.
const MAX_RESPONSE: usize = 256 * 1024;

/// A parameter or secret.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Parameter {
    #[serde(rename = "ARN")]
    pub(crate) arn: Option<String>,
    /// Decrypted.
    pub(crate) value: Option<String>,
}

/// Omits the value.
impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameter").field("arn", &self.arn).finish_non_exhaustive()
    }
}

/// Why a parameter was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParameterError {
    /// Parameter Store returned an error. A retry may help if it was busy ([`Self::is_retryable`]).
    #[error("status {}", .status.as_u16())]
    Service { status: StatusCode, code: Option<String>, message: Option<String> },
    /// No retry helps. Omits serde's error, which quotes the response.
    #[error("the response cannot be parsed")]
    Unparsable,
    /// A retry may help: the attempt timed out.
    #[error("the request timed out")]
    Timeout,
    /// [`HttpError::is_retryable`] says whether a retry helps.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A retry may help: the connection was lost before the response ended, or the response is too large.
    #[error("the response was truncated")]
    Truncated,
    /// [`SignError::is_retryable`] says whether a retry helps.
    #[error(transparent)]
    Unsigned(#[from] SignError),
}

impl ParameterError {
    /// The error's code, such as `ParameterNotFound`.
    pub(crate) fn code(&self) -> Option<&str> {
        if let Self::Service { code, .. } = self { code.as_deref() } else { None }
    }

    /// Parameter Store's message.
    pub(crate) fn message(&self) -> Option<&str> {
        if let Self::Service { message, .. } = self { message.as_deref() } else { None }
    }

    /// Whether the same request may succeed later. Throttling has status 400 and a code (Systems Manager API Reference,
    /// "Common Error Types").
    fn is_retryable(&self) -> bool {
        match self {
            Self::Service { status, code, .. } => {
                let throttled = code.as_deref().is_some_and(|code| code.starts_with("Throttl"));
                throttled || *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
            }
            Self::Http(error) => error.is_retryable(),
            Self::Unsigned(error) => error.is_retryable(),
            Self::Timeout | Self::Truncated => true,
            Self::Unparsable => false,
        }
    }
}

/// Reads parameters by name or ARN.
#[derive(Debug)]
pub(crate) struct Parameters {
    endpoint: Uri,
    signer: Signer,
    http: Http,
    limits: Limits,
    retries: RetryCounter,
}

impl Parameters {
    /// Takes region, credentials and endpoint from the SDK's configuration.
    ///
    /// # Errors
    /// No region, or an endpoint that is not a URL.
    pub(crate) async fn new(aws: &Aws, limits: &Limits) -> anyhow::Result<Self> {
        let config = aws.config().await;
        Ok(Self {
            endpoint: url::Url::parse(&endpoint::ssm(config).await?)?.as_str().parse()?,
            signer: Signer::new(config, "ssm"),
            http: aws.http(),
            limits: *limits,
            retries: aws.retries(),
        })
    }

    /// Reads and decrypts a parameter. Retries while that may help.
    pub(crate) async fn get(&self, name: &str) -> Result<Parameter, ParameterError> {
        let mut retry = Retry::until(Instant::now() + self.limits.aws).at_most(MAX_RETRIES);
        loop {
            let attempt =
                timeout_at(retry.attempt_deadline(self.limits.aws_attempt), self.attempt(name)).await;
            match attempt.unwrap_or(Err(ParameterError::Timeout)) {
                Err(error) if error.is_retryable() && retry.wait().await => self.retries.add(),
                result => return result,
            }
        }
    }

    async fn attempt(&self, name: &str) -> Result<Parameter, ParameterError> {
        let body = json!({ "Name": name, "WithDecryption": true }).to_string();
        let mut request = Request::new(SdkBody::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
        headers.insert("x-amz-target", HeaderValue::from_static("AmazonSSM.GetParameter"));
        // Rejected credentials need no invalidation: the next read creates a new signer.
        let _used = self.signer.sign(&mut request, SystemTime::now()).await?;
        let (head, body) = self.http.send(request).await?.into_parts();
        let body = Limited::new(body, MAX_RESPONSE).collect().await.map_err(|_| ParameterError::Truncated)?;
        read(head.status, &head.headers, &body.to_bytes())
    }
}

fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Parameter, ParameterError> {
    #[derive(Deserialize)]
    struct Output {
        #[serde(rename = "Parameter")]
        parameter: Parameter,
    }
    if status.is_success() {
        let output: Output = serde_json::from_slice(body).map_err(|_| ParameterError::Unparsable)?;
        return Ok(output.parameter);
    }
    // https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html, "Operation error serialization"
    let error: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    let kind = headers.get("x-amzn-errortype").and_then(|kind| kind.to_str().ok());
    let kind = kind.or_else(|| text("code")).or_else(|| text("__type"));
    Err(ParameterError::Service {
        status,
        code: kind.and_then(|kind| kind.split(':').next()?.rsplit('#').next()).map(str::to_owned),
        message: text("message").or_else(|| text("Message")).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service_error(header: Option<&'static str>, body: &'static str) -> ParameterError {
        let header =
            header.map(|header| ("x-amzn-errortype".parse().unwrap(), HeaderValue::from_static(header)));
        read(StatusCode::BAD_REQUEST, &header.into_iter().collect(), body.as_bytes()).unwrap_err()
    }

    /// The shapes in the protocol's documentation.
    #[test]
    fn the_error_code_is_found_in_every_shape() {
        for (header, body) in [
            (None, r#"{"__type":"FooError","message":"m"}"#),
            (None, r#"{"__type":"aws.protocoltests#FooError:http://x/#y","Message":"m"}"#),
            (None, r#"{"code":"FooError","message":"m","Message":7}"#),
            (Some("FooError:http://internal.amazon.com/coral/"), r#"{"__type":"Other","message":"m"}"#),
        ] {
            let error = service_error(header, body);
            assert_eq!((error.code(), error.message()), (Some("FooError"), Some("m")), "{body}");
        }
        let error = service_error(None, "<html>");
        assert_eq!((error.code(), error.message()), (None, None));
    }

    #[test]
    fn only_transient_errors_are_retried() {
        let error = |status, body: &'static str| {
            read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes()).unwrap_err()
        };
        for (status, body, retryable) in [
            (400, r#"{"__type":"ThrottlingException"}"#, true),
            (429, "", true),
            (500, "", true),
            (503, "<html>", true),
            (400, r#"{"__type":"ParameterNotFound"}"#, false),
            (400, r#"{"__type":"AccessDeniedException"}"#, false),
            (403, "", false),
        ] {
            assert_eq!(error(status, body).is_retryable(), retryable, "{status} {body}");
        }
    }

    #[test]
    fn errors_do_not_quote_the_response() {
        let unparsable = read(StatusCode::OK, &HeaderMap::new(), br#"{"Parameter":"the-secret"}"#);
        let text = format!("{:?}", anyhow::Error::from(unparsable.unwrap_err()));
        assert!(text.contains("cannot be parsed") && !text.contains("the-secret"), "{text}");
        let parameter = Parameter { arn: None, value: Some("the-secret".to_owned()) };
        assert!(!format!("{parameter:?}").contains("the-secret"));
    }
}
