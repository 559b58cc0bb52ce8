//! TLS and virtual hosts.

use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::support::{Client, Stack, http};

/// Trusts any certificate, as the gateway's is self-signed.
#[derive(Debug)]
struct TrustAny;

impl ServerCertVerifier for TrustAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn wss_works_and_management_stays_plain() {
    let stack = Stack::scripted().flag("--tls", "").start().await;
    assert!(stack.websocket.starts_with("wss://"));
    let address = stack.websocket.trim_start_matches("wss://").trim_end_matches("/prod").to_owned();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAny))
        .with_no_client_auth();
    let tcp = TcpStream::connect(&address).await.unwrap();
    let name = ServerName::try_from("shellbridge.execute-api.us-east-1.localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let url = format!(
        "wss://shellbridge.execute-api.us-east-1.localhost:{}/prod",
        address.rsplit_once(':').unwrap().1
    );
    let (mut client, _) = client_async(&url, tls).await.unwrap();
    client.send(Message::text("hello")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("hello"));
    let id = stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    assert_eq!(http("POST", &stack.connection_url(&id), &[], "pushed").await.status, 200);
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("pushed"));
    // AWS does not serve ws://.
    let refused =
        Client::try_connect(&stack.websocket.replace("wss://", "ws://"), &[]).await.expect_err("a refusal");
    assert_eq!(refused.status, 400);
    client.close(None).await.unwrap();
    let _answer = client.next().await;
}

#[tokio::test]
async fn a_virtual_host_must_name_the_api() {
    let stack = Stack::scripted().flag("--api-id", "abc123").flag("--region", "eu-west-1").start().await;
    let host = stack.websocket.trim_start_matches("ws://").trim_end_matches("/prod").to_owned();
    let port = host.rsplit_once(':').unwrap().1;
    for (name, status) in [
        ("abc123.execute-api.eu-west-1.localhost", 101),
        ("other.execute-api.eu-west-1.localhost", 403),
        ("abc123.execute-api.us-east-1.localhost", 403),
        ("localhost", 101),
    ] {
        let request = crate::wrong_use::handshake(&format!("{name}:{port}"), "/prod", "");
        let answer = crate::wrong_use::exchange(&host, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
    }
    let context = &stack.events()[0]["requestContext"];
    assert_eq!(context["apiId"], "abc123");
    assert_eq!(context["domainName"], format!("abc123.execute-api.eu-west-1.localhost:{port}"));
}
