//! The API Gateway Management API of one API: `PostToConnection` as one signed request, `DeleteConnection` by the SDK.
//!
//! A post by the SDK's client was two fifths of what a frame cost the function: its orchestrator puts settings, endpoint,
//! identity, interceptors, signing key and connector together anew for each request. Of all that, this request needs a
//! URI, a signature and a status. The tests hold its signature against the SDK's own signer. Left out on purpose is the
//! SDK's correction of a wrong clock: Lambda's is right.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
    uri::{Authority, PathAndQuery, Scheme},
};
use anyhow::{Context as _, bail};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, SharedCredentialsProvider},
};
use aws_sdk_apigatewaymanagement::{
    Client,
    config::{retry::RetryConfig, timeout::TimeoutConfig},
};
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use aws_smithy_types::{
    DateTime,
    body::SdkBody,
    date_time::{DateTimeFormatError, Format},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use crate::{aws::Aws, http::Http};

/// The service's name in signatures.
const SERVICE: &str = "execute-api";
/// What the body is called, as by the SDK.
const TYPE: &str = "application/octet-stream";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// What is encoded of a connection id: all but unreserved characters (RFC 3986, section 2.3), as by the SDK; dots too, so
/// that no id is taken for a way up.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');
/// What is encoded, once more, of a canonical path.
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'.').remove(b'/');
/// Credentials are taken for expired this long before they are, as by the SDK.
const EXPIRY: Duration = Duration::from_secs(10);
/// Credentials that do not say when they expire are asked for again after this, as by the SDK.
const KEPT: Duration = Duration::from_mins(15);

/// Posts to the connections of one API, and ends them.
pub(crate) struct Management {
    http: Http,
    api: Api,
    credentials: SharedCredentialsProvider,
    signer: Mutex<Option<Signer>>,
    sdk: Client,
}

impl Management {
    /// # Errors
    /// Without region or credentials in the settings, or of what is no URL.
    pub(crate) async fn new(url: &str, aws: &Aws, http: Http) -> anyhow::Result<Self> {
        let config = aws.config().await;
        let sdk = aws_sdk_apigatewaymanagement::config::Builder::from(config)
            .endpoint_url(url)
            // Times and repeats are the caller's.
            .timeout_config(TimeoutConfig::disabled())
            .retry_config(RetryConfig::disabled())
            .build();
        let region = config.region().context("no AWS region is set")?.to_string();
        Ok(Self {
            http,
            api: Api::new(url, region)?,
            credentials: config.credentials_provider().context("there are no AWS credentials")?,
            signer: Mutex::default(),
            sdk: Client::from_conf(sdk),
        })
    }

    /// Posts a frame; what API Gateway said, by its status.
    ///
    /// # Errors
    /// No answer came: the network's fault, or that of credentials which cannot be had.
    pub(crate) async fn post(&self, connection_id: &str, frame: Bytes) -> anyhow::Result<StatusCode> {
        let request = self.request(connection_id, frame, SystemTime::now()).await?;
        let response = self.http.send(request).await?;
        let status = response.status();
        // To its end, so that its connection serves the next request. If it breaks off, only the connection is lost.
        let _cut = response.into_body().collect().await;
        if status == StatusCode::FORBIDDEN {
            // Perhaps there are new credentials.
            *self.signer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(status)
    }

    async fn request(
        &self,
        connection_id: &str,
        frame: Bytes,
        now: SystemTime,
    ) -> anyhow::Result<Request<SdkBody>> {
        let signer = || self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signer) = signer().as_mut().filter(|signer| now < signer.until) {
            return self.api.request(connection_id, frame, now, signer);
        }
        let mut fresh = Signer::new(self.credentials.provide_credentials().await?, now);
        let request = self.api.request(connection_id, frame, now, &mut fresh);
        *signer() = Some(fresh);
        request
    }

    /// Ends a connection, or finds it ended.
    ///
    /// # Errors
    /// It may be open still.
    pub(crate) async fn close(&self, connection_id: &str) -> anyhow::Result<()> {
        let delete = self.sdk.delete_connection().connection_id(connection_id).send();
        let Err(error) = Box::pin(delete).await else { return Ok(()) };
        match error.raw_response().map(|response| response.status().as_u16()) {
            Some(410) => Ok(()),
            // Not in the SDK's words, which quote the answer.
            Some(status) => bail!("status {status}"),
            None => Err(error.into()),
        }
    }
}

/// Where an API is, and what its requests are made of.
struct Api {
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    /// The stage, if the URL has one, and `/@connections/`.
    path: String,
    region: String,
}

/// What requests are signed with.
struct Signer {
    credentials: Credentials,
    until: SystemTime,
    /// Day, and the key of that day.
    key: Option<(String, Vec<u8>)>,
}

impl Signer {
    fn new(credentials: Credentials, now: SystemTime) -> Self {
        let until =
            credentials.expiry().map_or(now + KEPT, |expiry| expiry.checked_sub(EXPIRY).unwrap_or(now));
        Self { credentials, until, key: None }
    }

    fn key(&mut self, now: SystemTime, day: &str, region: &str) -> &[u8] {
        let secret = self.credentials.secret_access_key();
        let key = self.key.take().filter(|(of, _)| of == day).unwrap_or_else(|| {
            (day.to_owned(), generate_signing_key(secret, now, region, SERVICE).as_ref().to_vec())
        });
        &self.key.insert(key).1
    }
}

impl Api {
    fn new(url: &str, region: String) -> anyhow::Result<Self> {
        // As a URL, which has no dots in its path and no port that its scheme has anyway.
        let parts = Uri::try_from(url::Url::parse(url)?.as_str())?.into_parts();
        let authority = parts.authority.context("no host")?;
        let path = parts.path_and_query.as_ref().map_or("", PathAndQuery::path);
        // Without empty segments either, which the SDK's signer leaves out.
        let path: String =
            path.split('/').filter(|part| !part.is_empty()).flat_map(|part| ["/", part]).collect();
        Ok(Self {
            scheme: parts.scheme.context("no scheme")?,
            host: HeaderValue::from_str(authority.as_str())?,
            authority,
            path: format!("{path}/@connections/"),
            region,
        })
    }

    /// A post, signed by Signature Version 4:
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>
    fn request(
        &self,
        connection_id: &str,
        frame: Bytes,
        now: SystemTime,
        signer: &mut Signer,
    ) -> anyhow::Result<Request<SdkBody>> {
        let path = format!("{}{}", self.path, utf8_percent_encode(connection_id, ENCODED));
        let time = basic_format(now)?;
        let day = time.get(..8).unwrap_or_default();

        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(TYPE));
        headers.insert(HOST, self.host.clone());
        headers.insert(DATE, HeaderValue::from_str(&time)?);
        if let Some(token) = signer.credentials.session_token() {
            let mut token = HeaderValue::from_str(token)?;
            token.set_sensitive(true);
            headers.insert(TOKEN, token);
        }
        // In the order of their names.
        let (mut canonical, mut signed) = (String::with_capacity(2_048), String::with_capacity(64));
        canonical.extend(["POST\n"]);
        // Encoded once more than in the request, as for every service but S3.
        canonical.extend(utf8_percent_encode(&path, ENCODED_IN_PATH));
        canonical.push_str("\n\n");
        for name in [CONTENT_TYPE, HOST, DATE, TOKEN] {
            if let Some(value) = headers.get(&name) {
                canonical.extend([name.as_str(), ":", value.to_str()?.trim(), "\n"]);
                signed.extend([if signed.is_empty() { "" } else { ";" }, name.as_str()]);
            }
        }
        canonical.extend(["\n", &signed, "\n", &hex::encode(Sha256::digest(&frame))]);

        let scope = format!("{day}/{}/{SERVICE}/aws4_request", self.region);
        let hash = hex::encode(Sha256::digest(&canonical));
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
        let signature = calculate_signature(signer.key(now, day, &self.region), to_sign.as_bytes());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            signer.credentials.access_key_id()
        );
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&authorization)?);

        let mut request = Request::new(SdkBody::from(frame));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// `20261120T093000Z`
fn basic_format(time: SystemTime) -> Result<String, DateTimeFormatError> {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let extended = DateTime::from_secs(i64::try_from(seconds).unwrap_or_default()).fmt(Format::DateTime)?;
    Ok(extended.replace(['-', ':'], ""))
}

#[cfg(test)]
mod tests {
    use aws_sigv4::{
        http_request::{SignableBody, SignableRequest, SigningSettings, sign},
        sign::v4::SigningParams,
    };

    use super::*;

    /// The `Authorization` that the SDK's signer gives a request with the same URI, body, and type.
    fn by_the_sdk(request: &Request<SdkBody>, credentials: &Credentials, now: SystemTime) -> String {
        let identity = credentials.clone().into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region("eu-west-1")
            .name(SERVICE)
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let body = SignableBody::Bytes(request.body().bytes().unwrap());
        let headers = std::iter::once((CONTENT_TYPE.as_str(), TYPE));
        let unsigned = SignableRequest::new("POST", request.uri().to_string(), headers, body).unwrap();
        let (instructions, _) = sign(unsigned, &params).unwrap().into_parts();
        instructions.headers().find(|(name, _)| *name == "authorization").unwrap().1.to_owned()
    }

    #[test]
    fn requests_are_signed_as_the_sdk_signs() {
        let midnight = UNIX_EPOCH + Duration::from_hours(20_000 * 24);
        let bodies = ["", r#"{"type":"pong"}"#, "é\u{1f600}\n"];
        for url in [
            "https://abc.execute-api.eu-west-1.amazonaws.com/prod",
            "https://abc.execute-api.eu-west-1.amazonaws.com:443/$default/",
            "https://ws.example.org",
            "http://127.0.0.1:8080/a%20b/../st-age_1",
            "http://[::1]:80/",
            "https://ws.example.org//prod//",
        ] {
            let api = Api::new(url, "eu-west-1".to_owned()).unwrap();
            for token in [None, Some("a+token/with==  two  spaces".to_owned())] {
                let credentials = Credentials::new("AKID", "secret", token, None, "test");
                let mut signer = Signer::new(credentials.clone(), midnight);
                for (id, body) in ["L0SM9cOFvHcCIhw=", "a-b_c.d~", "..", "a/b@c%20?&#=:", ""]
                    .iter()
                    .zip(bodies.iter().cycle())
                {
                    // The key of one day is not the next one's.
                    for now in [midnight - Duration::from_millis(1), midnight, midnight + KEPT] {
                        let request = api.request(id, Bytes::from_static(body.as_bytes()), now, &mut signer);
                        let request = request.unwrap();
                        let authorization = by_the_sdk(&request, &credentials, now);
                        assert_eq!(request.headers()[AUTHORIZATION], authorization, "{url} {id}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_no_header_can_hold_is_an_error() {
        let api = Api::new("https://ws.example.org", "eu-west-1".to_owned()).unwrap();
        for (key, token) in [("A\nB", None), ("AKID", Some("a\nb".to_owned()))] {
            let mut signer = Signer::new(Credentials::new(key, "secret", token, None, "test"), UNIX_EPOCH);
            assert!(api.request("id", Bytes::new(), UNIX_EPOCH, &mut signer).is_err());
        }
        assert!(Api::new("ws.example.org", String::new()).is_err());
    }

    #[test]
    fn credentials_are_kept_until_they_expire() {
        let now = UNIX_EPOCH + Duration::from_hours(1);
        let signer = |expiry| Signer::new(Credentials::new("AKID", "secret", None, expiry, "test"), now);
        assert_eq!(signer(None).until, now + KEPT);
        assert_eq!(signer(Some(now + KEPT * 2)).until, now + KEPT * 2 - EXPIRY);
    }
}
