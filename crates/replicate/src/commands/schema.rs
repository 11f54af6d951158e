//! `replicate schema`: the JSON Schemas of the configuration files, for editors.

use super::{Context, Outcome};
use crate::args::{SchemaArg, SchemaArgs};
use crate::config::schema;
use crate::{exit, output};

/// Prints a schema.
pub fn run(_context: &Context, args: &SchemaArgs) -> Outcome {
    let schema = match args.which {
        SchemaArg::Settings => schema::settings(),
        SchemaArg::Policy => schema::policy(),
    };
    output::data(&format!("{schema:#}\n"));
    Ok(exit::DONE)
}
