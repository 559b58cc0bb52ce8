//! `GetParameter` of Systems Manager, as one signed request.
//!
//! Not by `aws-sdk-ssm`: its errors alone were 0.9 MB of a function that may have 6.5, and it was a quarter of a cold
//! build.

use std::{fmt, time::SystemTime};

use aws_smithy_types::body::SdkBody;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use shellbridge_outbound::{Http, HttpError, Retry, SignError, Signer, endpoint};
use tokio::time::{Instant, timeout_at};

use crate::{
    aws::{Aws, REPEATS, Repeats},
    config::Limits,
};

/// Largest answer read. A parameter has at most 8 KiB, a secret 64 KiB.
const MAX_ANSWER: usize = 256 * 1024;

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

/// Why a parameter was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParameterError {
    /// Parameter Store refused. A retry may help if it was busy ([`Self::is_retryable`]).
    #[error("status {}", .status.as_u16())]
    Refused { status: StatusCode, code: Option<String>, message: Option<String> },
    /// No retry helps. Without what serde would quote of the answer.
    #[error("the answer cannot be read")]
    Unreadable,
    /// A retry may help: no answer within the time for one attempt.
    #[error("no answer in time")]
    Late,
    /// As [`HttpError::is_retryable`].
    #[error(transparent)]
    NoAnswer(#[from] HttpError),
    /// A retry may help: the connection was lost before the answer's end, or the answer has none.
    #[error("the answer was cut off")]
    Cut,
    /// As [`SignError::is_retryable`].
    #[error(transparent)]
    Unsigned(#[from] SignError),
}

impl ParameterError {
    /// The error's code, such as `ParameterNotFound`.
    pub(crate) fn code(&self) -> Option<&str> {
        if let Self::Refused { code, .. } = self { code.as_deref() } else { None }
    }

    /// Parameter Store's own words.
    pub(crate) fn message(&self) -> Option<&str> {
        if let Self::Refused { message, .. } = self { message.as_deref() } else { None }
    }

    /// Whether the same request may succeed later. Throttling has status 400 and a code (Systems Manager API Reference,
    /// "Common Error Types").
    fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { status, code, .. } => {
                let throttled = code.as_deref().is_some_and(|code| code.starts_with("Throttl"));
                throttled || *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
            }
            Self::NoAnswer(error) => error.is_retryable(),
            Self::Unsigned(error) => error.is_retryable(),
            Self::Late | Self::Cut => true,
            Self::Unreadable => false,
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
    repeats: Repeats,
}

impl Parameters {
    /// As the SDK's settings say.
    ///
    /// # Errors
    /// Without a region, or with an endpoint that is no URL.
    pub(crate) async fn new(aws: &Aws, limits: &Limits) -> anyhow::Result<Self> {
        let config = aws.config().await;
        Ok(Self {
            endpoint: url::Url::parse(&endpoint::ssm(config).await?)?.as_str().parse()?,
            signer: Signer::new(config, "ssm"),
            http: aws.http(),
            limits: *limits,
            repeats: aws.repeats(),
        })
    }

    /// Reads one, decrypted; again while that may help.
    pub(crate) async fn get(&self, name: &str) -> Result<Parameter, ParameterError> {
        let mut retry = Retry::until(Instant::now() + self.limits.aws).at_most(REPEATS);
        loop {
            let attempt = timeout_at(retry.attempt_deadline(self.limits.aws_attempt), self.once(name)).await;
            match attempt.unwrap_or(Err(ParameterError::Late)) {
                Err(error) if error.is_retryable() && retry.wait().await => self.repeats.add(),
                result => return result,
            }
        }
    }

    async fn once(&self, name: &str) -> Result<Parameter, ParameterError> {
        let body = json!({ "Name": name, "WithDecryption": true }).to_string();
        let mut request = Request::new(SdkBody::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
        headers.insert("x-amz-target", HeaderValue::from_static("AmazonSSM.GetParameter"));
        // A refusal of its credentials changes nothing here: the next reading has a signer of its own.
        let _used = self.signer.sign(&mut request, SystemTime::now()).await?;
        let (head, body) = self.http.send(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| ParameterError::Cut)?;
        read(head.status, &head.headers, &body.to_bytes())
    }
}

fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Parameter, ParameterError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "Parameter")]
        parameter: Parameter,
    }
    if status.is_success() {
        let answer: Answer = serde_json::from_slice(body).map_err(|_| ParameterError::Unreadable)?;
        return Ok(answer.parameter);
    }
    // https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html, "Operation error serialization"
    let refusal: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| refusal.get(name).and_then(Value::as_str);
    let kind = headers.get("x-amzn-errortype").and_then(|kind| kind.to_str().ok());
    let kind = kind.or_else(|| text("code")).or_else(|| text("__type"));
    Err(ParameterError::Refused {
        status,
        code: kind.and_then(|kind| kind.split(':').next()?.rsplit('#').next()).map(str::to_owned),
        message: text("message").or_else(|| text("Message")).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(header: Option<&'static str>, body: &'static str) -> ParameterError {
        let header =
            header.map(|header| ("x-amzn-errortype".parse().unwrap(), HeaderValue::from_static(header)));
        read(StatusCode::BAD_REQUEST, &header.into_iter().collect(), body.as_bytes()).unwrap_err()
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
        let error = refused(None, "<html>");
        assert_eq!((error.code(), error.message()), (None, None));
    }

    #[test]
    fn only_what_may_pass_is_asked_for_again() {
        let refusal = |status, body: &'static str| {
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
            assert_eq!(refusal(status, body).is_retryable(), retryable, "{status} {body}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_quoted() {
        let unreadable = read(StatusCode::OK, &HeaderMap::new(), br#"{"Parameter":"the-secret"}"#);
        let said = format!("{:?}", anyhow::Error::from(unreadable.unwrap_err()));
        assert!(said.contains("cannot be read") && !said.contains("the-secret"), "{said}");
        let parameter = Parameter { arn: None, value: Some("the-secret".to_owned()) };
        assert!(!format!("{parameter:?}").contains("the-secret"));
    }
}
