//! How errors look: what, with ids; why, once; what now.

use std::error::Error as _;
use std::fmt::Write as _;

use model::{Error, Kind};
use serde::{Deserialize, Serialize};

use crate::config::FileMistakes;

/// An error as data, cause by cause, so that it looks the same whether it happened here or in the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorForm {
    /// What was tried.
    pub message: String,
    /// Why, from the outside in.
    pub causes: Vec<String>,
    /// What sort.
    pub kind: Kind,
    /// What to do.
    pub hint: Option<String>,
}

impl From<&Error> for ErrorForm {
    fn from(error: &Error) -> Self {
        let mut causes = Vec::new();
        let mut said = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            let now = cause.to_string();
            // a wrapper whose text already ends with its cause must not make the cause appear twice
            if !said.ends_with(&now) {
                causes.push(now.clone());
            }
            said = now;
            next = cause.source();
        }
        Self { message: error.to_string(), causes, kind: error.kind(), hint: error.advice().map(str::to_owned) }
    }
}

impl ErrorForm {
    /// The error as a person reads it.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for cause in &self.causes {
            let _ = writeln!(text, "  caused by: {}", cause.trim_end().replace('\n', "\n    "));
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\nhint: {hint}\n");
        }
        text
    }

    /// The error again, for whoever goes on with it.
    pub fn into_error(self) -> Error {
        let mut inner: Option<Error> = None;
        for cause in self.causes.into_iter().rev() {
            let error = Error::new(self.kind, cause);
            inner = Some(match inner {
                Some(source) => error.because(source),
                None => error,
            });
        }
        let mut error = Error::new(self.kind, self.message);
        if let Some(source) = inner {
            error = error.because(source);
        }
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// All mistakes of all files, each with its place.
pub fn mistakes(files: &[FileMistakes]) -> String {
    let mut text = String::new();
    for file in files {
        let count = file.mistakes.len();
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        let _ = writeln!(text, "error: {} has {count} {noun}", file.file);
        for mistake in &file.mistakes {
            let _ = writeln!(text, "  line {}, column {}: {}", mistake.line, mistake.column, mistake.text);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire_and_says_everything_once() {
        let inner = Error::new(Kind::Quota, "create disk of 80 GiB").because("quota `Standard` is used up");
        let error = inner.hint("free or raise the quota").within("cannot copy point p-1 to site lab");
        let form = ErrorForm::from(&error);
        let wanted = "error: cannot copy point p-1 to site lab\n  caused by: create disk of 80 GiB\n  caused by: quota \
                      `Standard` is used up\n\nhint: free or raise the quota\n";
        assert_eq!(form.text(), wanted);
        let sent: ErrorForm = serde_json::from_str(&serde_json::to_string(&form).expect("json")).expect("form");
        assert_eq!(ErrorForm::from(&sent.into_error()).text(), wanted);
    }
}
