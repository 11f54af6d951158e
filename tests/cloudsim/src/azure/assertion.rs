//! Applications that show who they are without a secret: by an assertion that the key of a registered certificate has
//! signed, or by the token of a federated one (a Kubernetes service account), which is taken as it was registered.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use webpki::{EndEntityCert, aws_lc_rs};

use super::state::TENANT;
use crate::control::body;
use crate::error::{Answer, ApiError};
use crate::http::Request;
use crate::sim::Sim;

/// How far a client's clock may be off, in seconds.
const SKEW: f64 = 300.0;

/// Lets an application log in by a certificate (PEM), or with that very token if it is none.
pub(crate) fn register(sim: &Sim, request: &Request) -> Answer<Value> {
    let text: String = body(request)?;
    let application = request.query("application").unwrap_or_default().to_owned();
    let known = match CertificateDer::from_pem_slice(text.as_bytes()) {
        Ok(certificate) => certificate.to_vec(),
        Err(_) => text.into_bytes(),
    };
    sim.change(|world| {
        world.azure.credentials.entry(application).or_default().push(known);
        Ok(json!({}))
    })
}

fn invalid(code: &str, why: &str) -> ApiError {
    ApiError::new(401, "invalid_client", format!("{code}: {why}"))
}

/// Refuses an assertion that is not the application's, for this address, and of now.
pub(super) fn check(sim: &Sim, application: &str, assertion: &str, address: &str) -> Answer<()> {
    let known = sim.with(|world| world.azure.credentials.get(application).cloned().unwrap_or_default());
    if known.iter().any(|token| token == assertion.as_bytes()) {
        return Ok(());
    }
    let odd = || invalid("AADSTS50027", "the JWT token is invalid or malformed");
    let (said, signature) = assertion.rsplit_once('.').ok_or_else(odd)?;
    let part = |nth: usize| -> Option<Value> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(said.split('.').nth(nth)?).ok()?).ok()
    };
    let (header, claims) = (part(0).ok_or_else(odd)?, part(1).ok_or_else(odd)?);
    let print = header["x5t#S256"].as_str().ok_or_else(odd)?;
    let of = |certificate: &&Vec<u8>| {
        URL_SAFE_NO_PAD.encode(::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, certificate)) == print
    };
    let key = known.iter().find(of).ok_or_else(|| {
        invalid("AADSTS700027", "The certificate with identifier used to sign the client assertion is not registered")
    })?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| odd())?;
    let certificate = CertificateDer::from(key.as_slice());
    let certificate = EndEntityCert::try_from(&certificate).map_err(|_| odd())?;
    let fine = header["alg"] == "PS256"
        && certificate
            .verify_signature(aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY, said.as_bytes(), &signature)
            .is_ok();
    if !fine {
        return Err(invalid("AADSTS700027", "Client assertion contains an invalid signature"));
    }
    if claims["aud"] != address || claims["iss"] != application || claims["sub"] != application {
        return Err(invalid("AADSTS700023", "Client assertion audience, issuer or subject is not the expected"));
    }
    let now = sim.with(|world| world.now()).as_second() as f64;
    let time = |name: &str| claims[name].as_f64();
    match (time("nbf"), time("exp")) {
        (Some(from), Some(until)) if from - SKEW <= now && now <= until + SKEW => Ok(()),
        _ => Err(invalid("AADSTS700024", "Client assertion is not within its valid time range")),
    }
}

/// The address that tokens are asked for at, as the client calls it.
pub(super) fn address(request: &Request) -> String {
    format!("http://{}/azure/login/{TENANT}/oauth2/v2.0/token", request.header("host").unwrap_or_default())
}
