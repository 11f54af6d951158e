//! The Azure side: the provider `azure`. A crate of its own, so that its libraries rebuild nothing else.
//!
//! Owns how Azure is called and how its errors are classified. Must not retry (the decorators do), and must not know
//! vaults' contents, policies or the ledger.

pub mod compute;
