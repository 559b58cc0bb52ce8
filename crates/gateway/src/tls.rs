//! A self-signed certificate made at start, for trying `wss://` and secure cookies. Nothing trusts it.

use std::sync::Arc;

use anyhow::Context as _;
use rcgen::generate_simple_self_signed;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        version::{TLS12, TLS13},
    },
};

/// An acceptor for the loopback names and the API's virtual host.
pub fn acceptor(api: &str, region: &str) -> anyhow::Result<TlsAcceptor> {
    let names = ["localhost", "127.0.0.1", "::1", &format!("{api}.execute-api.{region}.localhost")]
        .map(str::to_owned);
    let certified = generate_simple_self_signed(names).context("cannot make a certificate")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    // API Gateway's oldest security policy requires TLS 1.2.
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
