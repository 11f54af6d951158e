//! What an account has before anybody has made anything: keys, a role, and in every region a network, a security
//! group, a key pair and a launch template. Ids are derived from names, so that they are the same in every world.

use std::collections::BTreeMap;

use crate::auth::principal::{Account, Key};
use crate::clock::real;
use crate::store::hash_hex;

use super::World;
use super::resource::{Base, Fixture, Group, Tags};

/// The account that has the servers, and the one that keeps copies.
pub(crate) const ACCOUNTS: [(&str, &str); 2] = [("111111111111", "MAIN"), ("222222222222", "OTHER")];

/// The zones of a region.
pub(crate) fn zones(region: &str) -> [String; 2] {
    [format!("{region}a"), format!("{region}b")]
}

/// The id that a zone has in every account.
pub(crate) fn zone_id(zone: &str) -> String {
    let mut parts = zone.split('-');
    let area = parts.next().unwrap_or_default();
    let direction = parts.next().and_then(|word| word.chars().next()).unwrap_or('x');
    let last = parts.next().unwrap_or_default();
    let (number, letter) = last.split_at(last.len().saturating_sub(1));
    let letter = letter.bytes().next().unwrap_or(b'a');
    format!("{area}{direction}{number}-az{}", letter.saturating_sub(b'a') + 1)
}

/// Adds what is missing.
pub(crate) fn furnish(world: &mut World, regions: &[String]) {
    for (id, name) in ACCOUNTS {
        let account = world.accounts.entry(id.to_owned()).or_insert_with(|| Account {
            keys: BTreeMap::from([(
                format!("AKIASIM{name:0>13}"),
                Key {
                    secret: hash_hex(format!("secret of {name}").as_bytes())[..40].to_owned(),
                    user: "replicate".to_owned(),
                },
            )]),
            roles: vec!["replicate".to_owned()],
            regions: Vec::new(),
        });
        for region in regions {
            if !account.regions.contains(region) {
                account.regions.push(region.clone());
            }
        }
    }
    for (account, _) in ACCOUNTS {
        for region in regions {
            region_of(world, account, region);
        }
    }
}

fn base(prefix: &str, account: &str, region: &str, name: &str) -> Base {
    let now = real();
    let print = hash_hex(format!("{account}/{region}/{name}").as_bytes());
    Base {
        id: format!("{prefix}-0{}", &print[..16]),
        account: account.to_owned(),
        region: region.to_owned(),
        created: now,
        visible: now,
        tags: Tags::new(),
        tags_before: Tags::new(),
        tags_visible: now,
    }
}

fn region_of(world: &mut World, account: &str, region: &str) {
    let fixture = |prefix: &str, name: &str, about: &str, vpc: &str, cidr: &str| Fixture {
        base: base(prefix, account, region, name),
        name: name.to_owned(),
        about: about.to_owned(),
        vpc: vpc.to_owned(),
        cidr: cidr.to_owned(),
    };
    let vpc = fixture("vpc", "default", "", "", "172.31.0.0/16");
    let vpc_id = vpc.base.id.clone();
    world.vpcs.entry(vpc_id.clone()).or_insert(vpc);
    for (index, zone) in zones(region).iter().enumerate() {
        let subnet =
            fixture("subnet", &format!("subnet-{zone}"), zone, &vpc_id, &format!("172.31.{}.0/20", index * 16));
        world.subnets.entry(subnet.base.id.clone()).or_insert(subnet);
    }
    let pair = fixture("key", "ops", "", "", "");
    world.key_pairs.entry(pair.base.id.clone()).or_insert(pair);
    let group = Group {
        base: base("sg", account, region, "default"),
        name: "default".to_owned(),
        description: "default VPC security group".to_owned(),
        vpc: vpc_id,
        open_egress: true,
        is_default: true,
    };
    world.groups.entry(group.base.id.clone()).or_insert(group);
}

#[cfg(test)]
mod tests {
    #[test]
    fn zones_have_ids() {
        assert_eq!(super::zone_id("eu-west-1b"), "euw1-az2");
        assert_eq!(super::zone_id("us-east-1a"), "use1-az1");
    }
}
