//! Who asks: signatures, sessions, and what a principal may do.

pub(crate) mod policy;
pub(crate) mod principal;
pub(crate) mod refusal;
pub(crate) mod sigv4;

/// A caller whose signature was right.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) account: String,
    /// `arn:aws:iam::1:user/x` or `arn:aws:sts::1:assumed-role/x/session`.
    pub(crate) arn: String,
    /// What GetCallerIdentity shows.
    pub(crate) id: String,
    pub(crate) region: String,
    pub(crate) service: String,
}
