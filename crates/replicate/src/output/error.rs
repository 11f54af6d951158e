//! How errors look: what, with ids; why, once; what now.

use std::error::Error as _;
use std::fmt::Write as _;

use crate::config::FileMistakes;

/// An error with its causes and its hint.
pub fn error(error: &model::Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut next = error.source();
    let mut said = error.to_string();
    while let Some(cause) = next {
        let now = cause.to_string();
        // a wrapper whose text already ends with its cause must not make the cause appear twice
        if !said.ends_with(&now) {
            let _ = writeln!(text, "  caused by: {}", now.replace('\n', "\n    "));
        }
        said = now;
        next = cause.source();
    }
    if let Some(hint) = error.advice() {
        let _ = write!(text, "\nhint: {hint}\n");
    }
    text
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
