//! The AWS side: S3 buckets for vaults, and the provider `aws`. A crate of its own because of its SDK.
//!
//! Owns how AWS and its look-alikes are called and how their errors are classified. Must not retry (the decorators do),
//! and must not know what lies in a bucket.

mod answer;
pub mod ec2;
pub mod s3;
