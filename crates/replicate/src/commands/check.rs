//! `replicate check`: validates configuration and policies, offline.

use std::fmt::Write as _;

use super::{Context, Outcome};
use crate::config::Overview;
use crate::exit;
use crate::output::human::count;

/// Loads everything and says what there is.
pub fn run(context: &Context) -> Outcome {
    let settings = context.settings()?;
    context.printer.result(&settings.overview(), text);
    Ok(exit::DONE)
}

fn text(overview: &Overview) -> String {
    let mut text = format!(
        "{} is fine: {}, {}, {}\n",
        overview.file,
        count(overview.sites.len(), "site"),
        count(overview.vaults.len(), "vault"),
        match overview.policies.len() {
            1 => "1 policy".to_owned(),
            number => format!("{number} policies"),
        }
    );
    for (title, names) in [
        ("sites", overview.sites.iter().map(ToString::to_string).collect::<Vec<_>>()),
        ("vaults", overview.vaults.iter().map(ToString::to_string).collect()),
        ("policies", overview.policies.iter().map(ToString::to_string).collect()),
    ] {
        if !names.is_empty() {
            let _ = writeln!(text, "  {title}: {}", names.join(", "));
        }
    }
    text
}
