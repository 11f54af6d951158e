//! The command and the daemon: arguments, configuration, wiring, output, HTTP API. Knows every crate; holds no
//! logic that another front end would need.

mod args;
mod client;
mod commands;
mod config;
mod daemon;
mod exit;
mod logs;
mod output;
mod request;
mod session;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

/// The daemon runs for months, and a run takes and gives back buffers of all sizes on many threads: this allocator gives memory back to
/// the system, where that of the C library keeps up to half as much again (8 GiB into a vault: 182 MiB at the peak instead of 276).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let printer = output::Printer { json: cli.json, quiet: cli.quiet };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = model::Error::io("cannot start the program's threads", source);
            printer.error(&output::ErrorForm::from(&error), exit::FAILED);
            return ExitCode::from(exit::FAILED);
        }
    };
    let code = runtime.block_on(async {
        let code = commands::run(cli, printer).await;
        #[cfg(feature = "azure")]
        cloud_azure::compute::settle(std::time::Duration::from_secs(10)).await;
        code
    });
    // blocking work that nobody waits for any more (a read of a dead mount) must not hold the exit
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ExitCode::from(code)
}
