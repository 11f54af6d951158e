//! `replicate migrate`: what becomes of a server that `replicate restore --final` has moved.

use engine::MoveEnd;
use model::ServerName;

use super::{Context, Outcome};
use crate::args::{MigrateArgs, MigrateCommand};
use crate::request::Request;

/// Lists, confirms or goes back.
pub async fn run(context: &Context, args: MigrateArgs) -> Outcome {
    let request = match args.command {
        MigrateCommand::Status => Request::Moves,
        MigrateCommand::Confirm { server } => {
            Request::EndMove { server: ServerName::new(server)?, end: MoveEnd::Confirm }
        }
        MigrateCommand::Rollback { server, destroy } => {
            let end = if destroy { MoveEnd::Destroy } else { MoveEnd::Keep };
            Request::EndMove { server: ServerName::new(server)?, end }
        }
    };
    context.answer(&context.settings()?, request).await
}
