//! What an operation refuses with: the provider's code, its words and its status. How it looks on the wire is the
//! business of each protocol.

/// A refusal.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
    /// The `Reason` of EBS direct errors.
    pub(crate) reason: Option<&'static str>,
}

/// What an operation answers.
pub(crate) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), reason: None }
    }

    /// The request is wrong: 400.
    pub(crate) fn refuse(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// A required parameter of the query API is absent.
    pub(crate) fn missing(name: &str) -> Self {
        Self::refuse("MissingParameter", format!("The request must contain the parameter {name}"))
    }

    /// A parameter of the query API has a value that it cannot have.
    pub(crate) fn value(name: &str, value: &str) -> Self {
        Self::refuse("InvalidParameterValue", format!("Value ({value}) for parameter {name} is invalid."))
    }

    /// The simulator's own trouble (a full disk): a 500 that names it.
    pub(crate) fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("An internal error has occurred: {why}"))
    }

    #[must_use]
    pub(crate) fn reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }
}

impl From<std::io::Error> for ApiError {
    fn from(source: std::io::Error) -> Self {
        Self::internal(source)
    }
}
