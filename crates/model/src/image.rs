//! How the image of a restore point is to look and be kept at a destination: one vocabulary for all providers. What a
//! provider cannot do is refused by name before anything is made, and never dropped silently.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind, RestorePoint, Result, SiteName, Tags};

/// Who may see an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Visibility {
    /// Its owner.
    Private,
    /// Its owner and whom it is shared with.
    Shared,
    /// Everybody who knows its id.
    Community,
    /// Everybody; it is listed for them.
    Public,
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Visibility::Private => "private",
            Visibility::Shared => "shared",
            Visibility::Community => "community",
            Visibility::Public => "public",
        })
    }
}

/// Where images are published, for others to make servers from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Gallery {
    /// Its name at the site.
    pub name: String,
    /// Regions beside the site's own.
    pub regions: Vec<String>,
    /// Whether it may lean on the image instead of being a copy of it: to be had at once, in the site's region alone.
    pub shallow: bool,
}

/// What a policy asks of the images at one destination. The default asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ImageOptions {
    /// What people see it as; in a policy a template with [`PLACEHOLDERS`]. None: the provider's own choice.
    pub name: Option<String>,
    /// Tags beside the program's own.
    pub tags: Tags,
    /// Who may see it. None: the provider's default.
    pub visibility: Option<Visibility>,
    /// Projects, accounts or subscriptions that may use it.
    pub share: Vec<String>,
    /// Not to be deleted by accident: retention takes the mark off before it deletes.
    pub protected: bool,
    /// Not to be deleted by anybody for this long, not even by us.
    pub immutability: Option<Duration>,
    /// The key that it must be encrypted with, in the provider's words.
    pub encryption: Option<String>,
    /// Older images of the server are taken off people's lists once this one is verified.
    pub hide_older: bool,
    /// In which of the provider's stores it lies, and in no others.
    pub stores: Vec<String>,
    /// Where it is published once it is verified.
    pub gallery: Option<Gallery>,
}

/// One word of the vocabulary; a provider's capabilities are a list of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageOption {
    /// `name`
    Name,
    /// `tags`
    Tags,
    /// `visibility`
    Visibility,
    /// `share`
    Share,
    /// `protected`
    Protected,
    /// `immutability`
    Immutability,
    /// `encryption`
    Encryption,
    /// `hide-older`
    HideOlder,
    /// `stores`
    Stores,
    /// `gallery`
    Gallery,
}

impl ImageOption {
    /// Every option.
    pub const ALL: [ImageOption; 10] = [
        ImageOption::Name,
        ImageOption::Tags,
        ImageOption::Visibility,
        ImageOption::Share,
        ImageOption::Protected,
        ImageOption::Immutability,
        ImageOption::Encryption,
        ImageOption::HideOlder,
        ImageOption::Stores,
        ImageOption::Gallery,
    ];

    /// Its key in a policy.
    pub fn key(self) -> &'static str {
        match self {
            ImageOption::Name => "name",
            ImageOption::Tags => "tags",
            ImageOption::Visibility => "visibility",
            ImageOption::Share => "share",
            ImageOption::Protected => "protected",
            ImageOption::Immutability => "immutability",
            ImageOption::Encryption => "encryption",
            ImageOption::HideOlder => "hide-older",
            ImageOption::Stores => "stores",
            ImageOption::Gallery => "gallery",
        }
    }
}

/// What a name may hold in braces.
pub const PLACEHOLDERS: [&str; 4] = ["server", "point", "policy", "time"];

impl ImageOptions {
    /// The options that are asked for.
    pub fn asked(&self) -> Vec<ImageOption> {
        let asks = |option: &ImageOption| match option {
            ImageOption::Name => self.name.is_some(),
            ImageOption::Tags => !self.tags.is_empty(),
            ImageOption::Visibility => self.visibility.is_some(),
            ImageOption::Share => !self.share.is_empty(),
            ImageOption::Protected => self.protected,
            ImageOption::Immutability => self.immutability.is_some(),
            ImageOption::Encryption => self.encryption.is_some(),
            ImageOption::HideOlder => self.hide_older,
            ImageOption::Stores => !self.stores.is_empty(),
            ImageOption::Gallery => self.gallery.is_some(),
        };
        ImageOption::ALL.into_iter().filter(asks).collect()
    }

    /// [`Kind::Invalid`] if more is asked than a provider can do.
    pub fn within(&self, can: &[ImageOption], provider: &str) -> Result<()> {
        match self.asked().iter().find(|option| !can.contains(option)) {
            None => Ok(()),
            Some(option) => Err(Error::new(Kind::Invalid, format!("cannot make an image with `{}`", option.key()))
                .because(format!("a {provider} site does not have that"))
                .hint(format!("leave `{}` out of the policy's destination", option.key()))),
        }
    }

    /// [`Kind::Invalid`] if another key is asked for than `what` (`disk vda`, `what site aws-eu makes`) has. A site has
    /// one key, which a policy can insist on.
    pub fn encrypted_by(&self, what: &str, key: Option<&str>) -> Result<()> {
        let Some(asked) = &self.encryption else { return Ok(()) };
        if key.is_some_and(|key| key.eq_ignore_ascii_case(asked)) {
            return Ok(());
        }
        let known =
            key.map_or("is not encrypted with a key that anyone named".to_owned(), |key| format!("has key {key}"));
        Err(Error::new(Kind::Invalid, format!("cannot make an image with key {asked}"))
            .because(format!("{what} {known}"))
            .hint("name one key as the site's and in the policy's `encryption`, and run again"))
    }

    /// These options for the image of a point: the name is filled in.
    #[must_use]
    pub fn of(&self, point: &RestorePoint) -> Self {
        let fill = |template: &String| {
            let policy = point.policy.as_ref().map_or("none", |policy| policy.as_str());
            template
                .replace("{server}", point.server.as_str())
                .replace("{point}", point.id.as_str())
                .replace("{policy}", policy)
                .replace("{time}", &point.taken_at.strftime("%Y%m%dT%H%M%SZ").to_string())
        };
        Self { name: self.name.as_ref().map(fill), ..self.clone() }
    }
}

/// What is wrong with a template of a name, in words that follow its text; none if it is fine.
pub fn wrong_template(template: &str) -> Option<String> {
    let mut rest = template;
    while let Some(open) = rest.find(['{', '}']) {
        let close = rest[open..].find('}').filter(|_| rest[open..].starts_with('{'));
        let Some(close) = close else { return Some("has a brace that nothing belongs to".to_owned()) };
        let word = &rest[open + 1..open + close];
        if !PLACEHOLDERS.contains(&word) {
            let known = PLACEHOLDERS.map(|word| format!("`{{{word}}}`")).join(", ");
            return Some(format!("has `{{{word}}}`, which stands for nothing — there are {known}"));
        }
        rest = &rest[open + close + 1..];
    }
    let fine = !template.trim().is_empty() && template.len() <= 200 && !template.chars().any(char::is_control);
    (!fine).then(|| "must have 1 to 200 printable characters".to_owned())
}

/// How bytes are to come to a destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Whatever is cheaper.
    #[default]
    Auto,
    /// The provider copies an image that it has elsewhere.
    Relay,
    /// Through us, only what the destination lacks.
    Blocks,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Via::Auto => "auto",
            Via::Relay => "relay",
            Via::Blocks => "blocks",
        })
    }
}

/// What a site charges per GiB; what is not told is not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Prices {
    /// In which currency.
    pub currency: String,
    /// For a GiB that is written to it through us.
    pub inbound: Option<f64>,
    /// For a GiB that the provider copies from it to another of its sites.
    pub relay: Option<f64>,
}

/// Prices of the sites that have any.
pub type PriceList = BTreeMap<SiteName, Prices>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        for fine in ["web", "web-{server}-{point}", "{policy}/{server} {time}"] {
            assert_eq!(wrong_template(fine), None, "{fine}");
        }
        for wrong in ["", "  ", "{", "a}b", "{sever}", "{server", "a\nb", "{server}}"] {
            assert!(wrong_template(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn what_is_asked_is_compared_with_what_there_is() {
        let options = ImageOptions { protected: true, hide_older: true, ..ImageOptions::default() };
        assert_eq!(options.asked(), [ImageOption::Protected, ImageOption::HideOlder]);
        assert!(options.within(&[ImageOption::HideOlder, ImageOption::Protected], "x").is_ok());
        let error = options.within(&[ImageOption::Protected], "qemu").unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (Kind::Invalid, "cannot make an image with `hide-older`".into()));
        assert!(ImageOptions::default().asked().is_empty());
    }

    #[test]
    fn every_option_has_a_key_of_the_stored_form() {
        let options = ImageOptions {
            name: Some("n".into()),
            tags: [("a".to_owned(), "b".to_owned())].into(),
            visibility: Some(Visibility::Shared),
            share: vec!["p".into()],
            protected: true,
            immutability: Some(Duration::from_secs(1)),
            encryption: Some("k".into()),
            hide_older: true,
            stores: vec!["s".into()],
            gallery: Some(Gallery { name: "g".into(), ..Gallery::default() }),
        };
        assert_eq!(options.asked(), ImageOption::ALL);
        let stored = serde_json::to_value(&options).unwrap();
        for option in ImageOption::ALL {
            assert!(stored.get(option.key()).is_some(), "{}", option.key());
        }
    }
}
