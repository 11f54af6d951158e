//! The AWS side: S3 buckets for vaults, and later the provider `aws`. A crate of its own because of its SDK.
