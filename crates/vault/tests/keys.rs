//! Who opens a vault, and who does not.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::sync::Arc;

use common::*;
use model::Kind;
use secrecy::SecretString;
use vault::bucket::{Bucket, MemoryBucket, Put};
use vault::{Identity, Recipient, Vault};

fn passphrase(text: &str) -> SecretString {
    SecretString::from(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_recipient_opens_and_strangers_do_not() {
    let (bucket, vault) = memory().await;
    let data = disk(1, 1 << 20);
    write(&vault, "p1", None, &data, None).await.unwrap();
    let before = bucket.keys();
    let info = vault.add_recipient(&Recipient::Passphrase(passphrase("correct horse"))).await.unwrap();
    assert_eq!((info.kind.as_str(), info.public), ("passphrase", None));
    assert_eq!(bucket.keys().len(), before.len() + 1, "a new recipient is one new key object");

    let with = |text: &str| Identity::Passphrase(passphrase(text));
    let opened = Vault::open(bucket.clone(), &[with("correct horse")], options()).await.unwrap();
    assert!(read(&opened, "p1").await.unwrap() == data);
    let wrong = Vault::open(bucket.clone(), &[with("wrong horse")], options()).await.unwrap_err();
    assert_eq!(wrong.kind(), Kind::Denied);
    assert!(!wrong.chain().contains("horse"), "no secret in messages");
    assert_eq!(Vault::open(bucket.clone(), &[], options()).await.unwrap_err().kind(), Kind::Denied);
    let both = Vault::open(bucket.clone(), &[with("wrong horse"), identity()], options()).await.unwrap();

    let recipients = both.recipients().await.unwrap();
    assert_eq!(recipients.len(), 2);
    let age = recipients.iter().find(|recipient| recipient.kind == "age").unwrap();
    assert_eq!(age.public.as_deref(), Some(AGE_PUBLIC));
    both.remove_recipient(&age.id).await.unwrap();
    assert_eq!(Vault::open(bucket.clone(), &[identity()], options()).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(both.remove_recipient(&info.id).await.unwrap_err().kind(), Kind::Invalid, "never the last");
    assert_eq!(both.remove_recipient(&age.id).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(both.remove_recipient("../vault").await.unwrap_err().kind(), Kind::Invalid);
    assert!(read(&both, "p1").await.unwrap() == data, "an open vault goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_do_not_fit_another_vault() {
    let (ours, _) = memory().await;
    let (theirs, vault) = memory().await;
    let key = theirs.keys().into_iter().find(|key| key.starts_with("keys/")).unwrap();
    let body = theirs.get(&key, None).await.unwrap();
    for key in ours.keys().into_iter().filter(|key| key.starts_with("keys/")) {
        ours.lose(&key);
    }
    ours.put(&key, body, Put::CreateOnly).await.unwrap();
    assert_eq!(Vault::open(ours, &[identity()], options()).await.unwrap_err().kind(), Kind::Denied);
    vault.recipients().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn making_and_opening_say_what_is_wrong() {
    let empty: Arc<dyn Bucket> = Arc::new(MemoryBucket::new());
    assert_eq!(Vault::open(empty.clone(), &[identity()], options()).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(Vault::create(empty.clone(), &[], options()).await.unwrap_err().kind(), Kind::Invalid);
    let bad = Recipient::AgePublic("age1nonsense".to_owned());
    assert_eq!(Vault::create(empty.clone(), &[bad], options()).await.unwrap_err().kind(), Kind::Invalid);
    let blank = Recipient::Passphrase(passphrase(""));
    assert_eq!(Vault::create(empty.clone(), &[blank], options()).await.unwrap_err().kind(), Kind::Invalid);
    create(empty.clone()).await;
    let recipient = Recipient::AgePublic(AGE_PUBLIC.to_owned());
    assert_eq!(Vault::create(empty, &[recipient], options()).await.unwrap_err().kind(), Kind::Exists);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_never_printed() {
    let recipient = Recipient::Passphrase(passphrase("correct horse"));
    let identity = Identity::AgeSecret(passphrase(AGE_SECRET));
    let (_, vault) = memory().await;
    let text = format!("{recipient:?} {identity:?} {vault:?} {:?}", options());
    assert!(!text.contains("horse") && !text.contains("SECRET"), "{text}");
}
