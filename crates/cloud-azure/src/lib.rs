//! The Azure side: buckets in storage accounts, and the provider `azure`. A crate of its own because of its libraries.
//!
//! Owns how Azure is called and how its errors are classified. Must not retry (the decorators do), and must not know
//! what lies in a bucket, policies or the ledger.

pub mod blob;
pub mod compute;
pub mod identity;
