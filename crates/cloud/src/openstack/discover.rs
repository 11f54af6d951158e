//! Where a service is: its address in the catalogue, the version that it speaks, the microversion that both sides know.
//!
//! The links in a service's own version document are not followed: behind a proxy they often name a host that only
//! the cloud itself can reach. The catalogue's address stands.

use std::collections::BTreeSet;

use model::{Error, Kind, Result};
use serde_json::Value;

use super::api::{Microversions, Service};
use super::auth::{ANSWER, Grant};
use super::error::{Refusal, transport};

/// Where a service is spoken to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Address with version, without a slash at its end.
    pub url: String,
    pub microversion: Option<(u32, u32)>,
}

/// Finds a service for a grant.
pub(super) async fn endpoint(grant: &Grant, service: Service) -> Result<Endpoint> {
    let listed = listed(grant, service)?;
    let url = versioned(&listed, service, &grant.project);
    let known = versions(grant, service, &url).await?;
    let cloud = &grant.access.cloud;
    let operation = || format!("cannot speak to {service} of cloud `{cloud}`");
    let (prefix, _) = service.version();
    let version = known.iter().filter(|version| version.id.starts_with(prefix)).max_by_key(|version| version.newest);
    if !known.is_empty() && version.is_none() {
        let ids: Vec<&str> = known.iter().map(|version| version.id.as_str()).collect();
        let why = format!("it speaks {}, and {} is needed", ids.join(", "), service.version().1);
        return Err(Error::new(Kind::Invalid, operation()).because(why));
    }
    let Some(wanted) = service.microversions() else { return Ok(Endpoint { url, microversion: None }) };
    let range = version.map(|version| (version.oldest, version.newest)).unwrap_or_default();
    let microversion = agree(wanted, range).map_err(|why| Error::new(Kind::Invalid, operation()).because(why))?;
    tracing::debug!(%service, url, microversion = ?microversion, "found");
    Ok(Endpoint { url, microversion: Some(microversion) })
}

/// The address that the catalogue, or `clouds.yaml` above it, has for a service.
fn listed(grant: &Grant, service: Service) -> Result<String> {
    let access = &grant.access;
    if let Some(url) = access.overrides.get(&service) {
        return Ok(url.clone());
    }
    let operation = || format!("cannot find {service} of cloud `{}`", access.cloud);
    let of_type = |kind: &&str| grant.catalog.iter().find(|entry| entry.kind == **kind);
    let entry = service.types().iter().find_map(of_type).ok_or_else(|| {
        Error::new(Kind::Invalid, operation()).because(format!("the catalogue has no service `{}`", service.types()[0]))
    })?;
    let fits = |interface: &str| interface.trim_end_matches("URL") == access.interface;
    let here: Vec<_> = entry.endpoints.iter().filter(|endpoint| fits(&endpoint.interface)).collect();
    let regions: BTreeSet<&str> = here.iter().filter_map(|endpoint| endpoint.region()).collect();
    let found = match &access.region {
        Some(region) => here.iter().find(|endpoint| endpoint.region() == Some(region.as_str())),
        None if regions.len() < 2 => here.first(),
        None => None,
    };
    found.map(|endpoint| endpoint.url.clone()).ok_or_else(|| {
        let regions = regions.into_iter().collect::<Vec<_>>().join(", ");
        let interface = &access.interface;
        let error = Error::new(Kind::Invalid, operation());
        match (&access.region, regions.as_str()) {
            (_, "") => error.because(format!("the catalogue has no {interface} address of it")),
            (Some(region), _) => {
                error.because(format!("it has no {interface} address in region {region}, only in {regions}"))
            }
            (None, _) => error.because(format!("it is in several regions: {regions}")).hint("set `region` of the site"),
        }
    })
}

fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The address with the version that is spoken. A project's id at its end goes: services have done without for years.
fn versioned(listed: &str, service: Service, project: &str) -> String {
    let mut url = listed.trim_end_matches('/');
    if let Some((rest, last)) = url.rsplit_once('/')
        && (last == project || last == format!("AUTH_{project}"))
    {
        url = rest;
    }
    match url.rsplit_once('/') {
        Some((root, last)) if is_version(last) && service == Service::Compute && last == "v2" => format!("{root}/v2.1"),
        Some((_, last)) if is_version(last) => url.to_owned(),
        _ => format!("{url}/{}", service.version().1),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Version {
    id: String,
    oldest: (u32, u32),
    newest: (u32, u32),
}

/// What the service says of its versions: at the versioned address, or where that tells nothing, one level up.
async fn versions(grant: &Grant, service: Service, url: &str) -> Result<Vec<Version>> {
    let root = url.rsplit_once('/').map_or(url, |(root, _)| root);
    let places = match service.microversions() {
        Some(_) => [url, root],
        None => [root, url],
    };
    for place in places {
        let operation = format!("cannot ask {service} at {place} for its versions");
        let request = grant.http.get(format!("{place}/")).timeout(ANSWER).header("accept", "application/json");
        let answer = request.send().await.map_err(|error| transport(&operation, service.name(), error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.map_err(|error| transport(&operation, service.name(), error))?;
        if status.is_server_error() {
            return Err(Refusal { service: service.name(), status, headers: &headers, body: &body }.error(&operation));
        }
        let found = serde_json::from_slice(&body).map(|document| parse(&document)).unwrap_or_default();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn parse(document: &Value) -> Vec<Version> {
    let one = document.get("version").into_iter();
    let many = document.get("versions").and_then(Value::as_array).into_iter().flatten();
    let living = |version: &&Value| {
        let status = version.get("status").and_then(Value::as_str).unwrap_or("CURRENT");
        !status.eq_ignore_ascii_case("deprecated")
    };
    let version = |value: &Value| {
        let number =
            |keys: [&str; 2]| keys.into_iter().find_map(|key| number(value.get(key)?.as_str()?)).unwrap_or_default();
        let newest = number(["version", "max_version"]);
        Some(Version {
            id: value.get("id")?.as_str()?.to_owned(),
            oldest: number(["min_version", "min_version"]),
            newest,
        })
    };
    one.chain(many).filter(living).filter_map(version).collect()
}

fn number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn agree(wanted: Microversions, (oldest, newest): ((u32, u32), (u32, u32))) -> std::result::Result<(u32, u32), String> {
    let ours = wanted.wanted.min(newest);
    let dotted = |(major, minor)| format!("{major}.{minor}");
    if ours < wanted.needed {
        let (needed, newest) = (dotted(wanted.needed), dotted(newest));
        return Err(format!("microversion {needed} is needed, and it knows none above {newest}"));
    }
    if ours < oldest {
        let (ours, oldest) = (dotted(ours), dotted(oldest));
        return Err(format!("this program knows microversions up to {ours}, and it none below {oldest}"));
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_get_the_version_that_is_spoken() {
        let at = |listed, service| versioned(listed, service, "p1");
        assert_eq!(at("http://h:9292", Service::Image), "http://h:9292/v2");
        assert_eq!(at("http://h/image/v2/", Service::Image), "http://h/image/v2");
        assert_eq!(at("http://h:8774/v2.1/p1", Service::Compute), "http://h:8774/v2.1");
        assert_eq!(at("http://h:8774/v2", Service::Compute), "http://h:8774/v2.1");
        assert_eq!(at("http://h/volume/v3/p1", Service::Volume), "http://h/volume/v3");
        assert_eq!(at("http://h:9696/", Service::Network), "http://h:9696/v2.0");
    }

    #[test]
    fn documents_of_one_and_of_many_versions_are_read() {
        let one = json!({ "version": { "id": "v2.1", "status": "CURRENT", "version": "2.93", "min_version": "2.1" } });
        assert_eq!(parse(&one), [Version { id: "v2.1".into(), oldest: (2, 1), newest: (2, 93) }]);
        let many =
            json!({ "versions": [{ "id": "v2.0", "status": "DEPRECATED" }, { "id": "v3.0", "version": "3.70" }] });
        assert_eq!(parse(&many), [Version { id: "v3.0".into(), oldest: (0, 0), newest: (3, 70) }]);
        assert_eq!(parse(&json!({ "error": { "code": 401 } })), []);
    }

    #[test]
    fn microversions_are_agreed_or_refused() {
        let wanted = Microversions { name: "compute", needed: (2, 45), wanted: (2, 79) };
        assert_eq!(agree(wanted, ((2, 1), (2, 93))), Ok((2, 79)));
        assert_eq!(agree(wanted, ((2, 1), (2, 60))), Ok((2, 60)));
        assert!(agree(wanted, ((2, 1), (2, 38))).unwrap_err().contains("2.45 is needed"));
        assert!(agree(wanted, ((2, 90), (2, 99))).unwrap_err().contains("none below 2.90"));
    }
}
