//! Access to a cloud as every OpenStack tool describes it: one entry of `clouds.yaml`, with its secrets beside it in
//! `secure.yaml`.
//!
//! What is read here is checked when it is needed, not when the program starts: a site whose file is missing must not
//! stop the commands that need other sites.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::{Error, Kind, Result};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::api::Service;

/// Which entry of which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudRef {
    /// The name of the entry below `clouds`.
    pub cloud: String,
    /// The file. Default: `OS_CLIENT_CONFIG_FILE`, then `clouds.yaml` here, in `~/.config/openstack` and in
    /// `/etc/openstack`.
    pub file: Option<PathBuf>,
    /// Overrides the entry's region.
    pub region: Option<String>,
    /// Overrides the entry's interface.
    pub interface: Option<String>,
}

/// How to reach a cloud and who we are there.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub cloud: String,
    /// Keystone's address, with its version: `https://keystone.example/v3`.
    pub auth_url: String,
    pub identity: Identity,
    pub scope: Scope,
    /// None: the catalogue has one region only.
    pub region: Option<String>,
    pub interface: String,
    /// PEM of a private certificate authority.
    pub cacert: Option<PathBuf>,
    /// `false`: any certificate will do.
    pub verify: bool,
    /// Addresses that stand above the catalogue's.
    pub overrides: BTreeMap<Service, String>,
}

/// Who we are.
#[derive(Debug, Clone)]
pub(super) enum Identity {
    Password { user: Named, domain: Option<Named>, password: SecretString },
    ApplicationCredential { id: Named, user: Option<Named>, domain: Option<Named>, secret: SecretString },
    Token(SecretString),
}

/// What the token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    Project {
        project: Named,
        domain: Option<Named>,
    },
    /// As the credential says: application credentials belong to one project, and a token may be scoped already.
    Given,
}

/// Something that is told by id or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Id(String),
    Name(String),
}

impl Named {
    fn of(id: Option<String>, name: Option<String>) -> Option<Self> {
        id.map(Named::Id).or(name.map(Named::Name))
    }
}

/// A cloud in the file. Numbers and words are taken as texts: a project may be called `12345`.
#[derive(Debug, Default, Deserialize)]
struct Entry {
    auth_type: Option<Text>,
    #[serde(default)]
    auth: Auth,
    region_name: Option<Text>,
    interface: Option<Text>,
    endpoint_type: Option<Text>,
    cacert: Option<Text>,
    cert: Option<Text>,
    verify: Option<bool>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Auth {
    auth_url: Option<Text>,
    username: Option<Text>,
    user_id: Option<Text>,
    password: Option<Secret>,
    user_domain_id: Option<Text>,
    user_domain_name: Option<Text>,
    project_id: Option<Text>,
    project_name: Option<Text>,
    tenant_id: Option<Text>,
    tenant_name: Option<Text>,
    project_domain_id: Option<Text>,
    project_domain_name: Option<Text>,
    application_credential_id: Option<Text>,
    application_credential_name: Option<Text>,
    application_credential_secret: Option<Secret>,
    token: Option<Secret>,
}

#[derive(Debug, Deserialize)]
#[serde(from = "Value")]
struct Text(String);

impl From<Value> for Text {
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) => Self(text),
            other => Self(other.to_string()),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(from = "Text")]
struct Secret(SecretString);

impl From<Text> for Secret {
    fn from(text: Text) -> Self {
        Self(text.0.into())
    }
}

fn plain(text: Option<Text>) -> Option<String> {
    text.map(|text| text.0).filter(|text| !text.is_empty())
}

impl CloudRef {
    /// Reads the files.
    pub(super) fn load(&self) -> Result<Access> {
        let file = self.find()?;
        self.read_from(&file)
            .map_err(|error| error.within(format!("cannot use cloud `{}` of {}", self.cloud, file.display())))
    }

    fn find(&self) -> Result<PathBuf> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        if let Some(file) = std::env::var_os("OS_CLIENT_CONFIG_FILE") {
            return Ok(file.into());
        }
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/openstack"));
        let folders = [Some(PathBuf::from(".")), home, Some("/etc/openstack".into())];
        let places: Vec<PathBuf> = folders.into_iter().flatten().map(|folder| folder.join("clouds.yaml")).collect();
        let listed = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
        places.into_iter().find(|place| place.exists()).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("cannot find cloud `{}`", self.cloud))
                .because(format!("there is no {listed}"))
                .hint("set `clouds-file` in the site, or OS_CLIENT_CONFIG_FILE")
        })
    }

    fn read_from(&self, file: &Path) -> Result<Access> {
        let mut entry = cloud_of(&read(file)?, &self.cloud)?.ok_or_else(|| {
            Error::new(Kind::Invalid, "there is no such cloud")
                .hint("`cloud` in the site names an entry below `clouds`")
        })?;
        let secure = std::env::var_os("OS_CLIENT_SECURE_FILE").map(PathBuf::from);
        let secure = secure.unwrap_or_else(|| file.with_file_name("secure.yaml"));
        if secure.exists()
            && let Some(secrets) = cloud_of(&read(&secure)?, &self.cloud)?
        {
            merge(&mut entry, secrets);
        }
        // the message of a wrong value would repeat the value, which may be a secret
        let entry = serde_json::from_value(entry).map_err(|_| {
            invalid("a value of the entry is of the wrong type").hint("compare it with the clouds.yaml format")
        })?;
        self.access(entry, file)
    }

    fn access(&self, entry: Entry, file: &Path) -> Result<Access> {
        let Entry { auth_type, mut auth, region_name, interface, endpoint_type, cacert, cert, verify, others } = entry;
        if plain(cert).is_some() {
            return Err(invalid("client certificates (`cert`) are not supported"));
        }
        let auth_url = plain(auth.auth_url.take()).ok_or_else(|| {
            invalid("it has no `auth.auth_url`")
                .hint("vendor profiles are not supported: write the address of Keystone")
        })?;
        let interface = self.interface.clone().or(plain(interface)).or(plain(endpoint_type));
        let interface = interface.unwrap_or_else(|| "public".to_owned());
        let beside = file.parent().unwrap_or(Path::new("."));
        let overrides = Service::ALL.into_iter().filter_map(|service| {
            let given = service.override_keys().iter().find_map(|key| others.get(*key)?.as_str());
            given.map(|url| (service, url.to_owned()))
        });
        Ok(Access {
            cloud: self.cloud.clone(),
            auth_url: with_version(&auth_url),
            scope: scope(&mut auth, plain(auth_type).as_deref()),
            identity: identity(auth)?,
            region: self.region.clone().or(plain(region_name)),
            interface: interface.trim_end_matches("URL").to_owned(),
            cacert: plain(cacert).map(|path| beside.join(path)),
            verify: verify.unwrap_or(true),
            overrides: overrides.collect(),
        })
    }
}

fn invalid(why: &str) -> Error {
    Error::new(Kind::Invalid, why)
}

fn read(file: &Path) -> Result<Value> {
    let what = || format!("cannot read {}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| Error::io(what(), error))?;
    serde_saphyr::from_str(&text).map_err(|error| {
        // where, but not what stands there: it may be a secret
        let at = error.location().map(|at| format!(" at line {}", at.line())).unwrap_or_default();
        Error::new(Kind::Invalid, what()).because(format!("it is not YAML{at}"))
    })
}

fn cloud_of(document: &Value, cloud: &str) -> Result<Option<Value>> {
    match document.get("clouds") {
        Some(Value::Object(clouds)) => Ok(clouds.get(cloud).cloned()),
        _ => Err(invalid("it has no table `clouds`")),
    }
}

/// Puts what `over` says above what `value` says, table by table.
fn merge(value: &mut Value, over: Value) {
    match (value, over) {
        (Value::Object(map), Value::Object(over)) => {
            for (key, over) in over {
                merge(map.entry(key).or_insert(Value::Null), over);
            }
        }
        (value, over) => *value = over,
    }
}

/// The identity API is v3 alone; the version may be left out of the address.
fn with_version(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let root = url.strip_suffix("/v2.0").or_else(|| url.strip_suffix("/v3")).unwrap_or(url);
    format!("{root}/v3")
}

fn scope(auth: &mut Auth, auth_type: Option<&str>) -> Scope {
    let id = plain(auth.project_id.take()).or(plain(auth.tenant_id.take()));
    let name = plain(auth.project_name.take()).or(plain(auth.tenant_name.take()));
    let domain = Named::of(plain(auth.project_domain_id.take()), plain(auth.project_domain_name.take()));
    let fixed = auth_type.is_some_and(|kind| kind.ends_with("applicationcredential"))
        || auth.application_credential_secret.is_some();
    match Named::of(id, name) {
        Some(project) if !fixed => {
            let domain = domain.or_else(|| match project {
                Named::Id(_) => None,
                Named::Name(_) => Some(Named::Id("default".to_owned())),
            });
            Scope::Project { project, domain }
        }
        _ => Scope::Given,
    }
}

fn identity(auth: Auth) -> Result<Identity> {
    let user = Named::of(plain(auth.user_id), plain(auth.username));
    let domain = Named::of(plain(auth.user_domain_id), plain(auth.user_domain_name));
    let domain = domain.or_else(|| match user {
        Some(Named::Name(_)) => Some(Named::Id("default".to_owned())),
        _ => None,
    });
    if let Some(Secret(secret)) = auth.application_credential_secret {
        let id = Named::of(plain(auth.application_credential_id), plain(auth.application_credential_name));
        let id = id.ok_or_else(|| invalid("it has a secret, but no `application_credential_id`"))?;
        if matches!(id, Named::Name(_)) && user.is_none() {
            return Err(invalid("an application credential told by its name needs the user that it belongs to"));
        }
        return Ok(Identity::ApplicationCredential { id, user, domain, secret });
    }
    if let Some(Secret(password)) = auth.password {
        let user = user.ok_or_else(|| invalid("it has a password, but neither `username` nor `user_id`"))?;
        return Ok(Identity::Password { user, domain, password });
    }
    let Some(Secret(token)) = auth.token else {
        return Err(invalid("it has neither a password, an application credential nor a token")
            .hint("secrets may stand in `secure.yaml` beside it"));
    };
    Ok(Identity::Token(token))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn load(clouds: &str, secure: Option<&str>) -> Result<Access> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clouds.yaml");
        std::fs::write(&file, clouds).unwrap();
        if let Some(secure) = secure {
            std::fs::write(folder.path().join("secure.yaml"), secure).unwrap();
        }
        let (region, interface) = (None, None);
        CloudRef { cloud: "eu".to_owned(), file: Some(file), region, interface }.load()
    }

    const PASSWORD: &str = "
clouds:
  eu:
    auth:
      auth_url: https://keystone.example:5000/
      username: alice
      project_name: 12345
      user_domain_name: Default
      project_domain_name: Default
    region_name: RegionOne
    interface: internalURL
    image_endpoint_override: http://127.0.0.1:9
    verify: false
";

    #[test]
    fn a_password_comes_from_the_secure_file() {
        let access = load(PASSWORD, Some("clouds: { eu: { auth: { password: 777 } } }")).unwrap();
        assert_eq!(access.auth_url, "https://keystone.example:5000/v3");
        assert_eq!((access.interface.as_str(), access.region.as_deref()), ("internal", Some("RegionOne")));
        assert!(!access.verify);
        assert_eq!(access.overrides[&Service::Image], "http://127.0.0.1:9");
        let Scope::Project { project, .. } = &access.scope else { panic!("{:?}", access.scope) };
        assert_eq!(*project, Named::Name("12345".to_owned()));
        let Identity::Password { password, .. } = &access.identity else { panic!("no password") };
        assert_eq!(password.expose_secret(), "777");
        assert!(!format!("{access:?}").contains("777"));
    }

    #[test]
    fn a_missing_secret_is_told_with_where_it_may_stand() {
        let error = load(PASSWORD, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.chain().contains("neither a password"), "{}", error.chain());
        assert!(error.advice().unwrap().contains("secure.yaml"));
    }

    #[test]
    fn an_application_credential_brings_its_own_scope() {
        let text = "clouds: { eu: { auth_type: v3applicationcredential, auth: { auth_url: 'http://k/v3', \
                    project_name: ignored, application_credential_id: abc, application_credential_secret: s } } }";
        let access = load(text, None).unwrap();
        assert_eq!(access.scope, Scope::Given);
        assert!(matches!(access.identity, Identity::ApplicationCredential { id: Named::Id(_), .. }));
    }

    #[test]
    fn what_is_wrong_is_told_without_the_secret() {
        let wrong = [
            "clouds: { eu: { auth: { password: hunter2, username: [a] } } }",
            "clouds: { eu: { verify: hunter2 } }",
            "clouds:\n  eu:\n\tpassword: hunter2",
            "clouds: { us: { auth: { password: hunter2 } } }",
            "hunter2",
        ];
        for text in wrong {
            let error = load(text, None).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            assert!(!error.chain().contains("hunter2"), "{}", error.chain());
        }
    }
}
