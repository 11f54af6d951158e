//! Everything that is printed: data on stdout, the rest on stderr. Nothing else in the program prints.

pub mod error;
pub mod human;
pub mod inspect;
mod moves;
mod plan;
pub mod progress;
mod table;
pub mod text;

use std::io::{IsTerminal, Write};

use serde::Serialize;

pub use error::ErrorForm;
pub use progress::Progress;

/// How this invocation prints.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    /// JSON instead of text.
    pub json: bool,
    /// No progress.
    pub quiet: bool,
}

impl Printer {
    /// Prints a result: its JSON, or what `text` makes of it.
    pub fn result<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) {
        if self.json {
            self.json(value);
        } else {
            data(&text(value));
        }
    }

    /// Prints JSON on stdout, a line for machines and indented for eyes.
    pub fn json<T: Serialize>(self, value: &T) {
        let pretty = std::io::stdout().is_terminal();
        let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        // a value that cannot be JSON would be a bug of the types; an empty object says so without a panic
        data(&(text.unwrap_or_else(|_| "{}".to_owned()) + "\n"));
    }

    /// Prints the error that ends the program.
    pub fn error(self, form: &ErrorForm, code: u8) {
        if self.json {
            let value = serde_json::json!({ "error": form, "exit": code });
            note(&format!("{value}\n"));
        } else {
            note(&form.text());
        }
    }

    /// Says something to the person, unless a machine reads or silence is wanted.
    pub fn remark(self, text: &str) {
        if !self.json && !self.quiet {
            note(&format!("{text}\n"));
        }
    }
}

/// Data: stdout. A reader that has gone (`| head`) is no error.
pub fn data(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Everything else: stderr.
pub fn note(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
