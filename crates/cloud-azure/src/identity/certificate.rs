//! An application that shows who it is by a certificate: it signs an assertion with the certificate's key, and its secret
//! never travels. The official credential makes the request; the signature is made here, since the crate's own way to it
//! would bring a second TLS library.
//!
//! The file is read for every assertion, so that a certificate that was replaced is used without a restart.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair, RSA_PSS_SHA256, RsaKeyPair};
use azure_core::error::ErrorKind;
use azure_core::http::ClientMethodOptions;
use azure_identity::ClientAssertion;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::{Clock, Error, Kind, Result};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;
use serde_json::json;

use super::Secret;

/// How long an assertion is good for, in seconds: the time of a request.
const SECONDS: i64 = 300;

/// Whose certificate it is, and where.
#[derive(Clone)]
pub(super) struct Certificate {
    /// The address that the assertion is for.
    pub audience: String,
    /// The application's id.
    pub client: String,
    pub pem: Secret,
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Certificate {
    /// The assertion, signed.
    pub(super) async fn assertion(&self) -> Result<String> {
        let text = self.pem.read_all("the application's certificate").await?;
        let wrong = |why: String| {
            Error::new(Kind::Denied, "cannot use the application's certificate")
                .because(why)
                .hint("give a PEM file with the certificate and its RSA key, not encrypted")
        };
        let pem = text.expose_secret().as_bytes();
        let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| wrong("it has no certificate".to_owned()))?;
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| wrong("it has no private key".to_owned()))?;
        let key = match &key {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(wrong("its key is no RSA key".to_owned())),
        };
        let key = key.map_err(|why| wrong(format!("its key is refused: {why}")))?;
        // another file's key would be refused by Entra ID in words that say nothing of files
        let own = key.public_key().as_ref();
        if !certificate.windows(own.len()).any(|part| part == own) {
            return Err(wrong("its key is another certificate's".to_owned()));
        }
        self.sign(&certificate, &key).map_err(|_| wrong("its key does not sign".to_owned()))
    }

    fn sign(&self, certificate: &[u8], key: &RsaKeyPair) -> std::result::Result<String, aws_lc_rs::error::Unspecified> {
        let now = self.clock.now().as_second();
        let print = URL_SAFE_NO_PAD.encode(digest(&SHA256, certificate));
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": print });
        let claims = json!({
            "aud": self.audience, "iss": self.client, "sub": self.client, "jti": format!("{:032x}", rand::random::<u128>()),
            "iat": now, "nbf": now, "exp": now + SECONDS,
        });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let said = format!("{header}.{claims}");
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), said.as_bytes(), &mut signature)?;
        Ok(format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

#[async_trait::async_trait]
impl ClientAssertion for Certificate {
    async fn secret(&self, _options: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        self.assertion().await.map_err(|error| azure_core::Error::new(ErrorKind::Credential, error))
    }
}
