//! The program: opens the world, listens, says where, and serves until it is told to end.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use cloudsim::{Options, Sim, greeting, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Simulated clouds with real bytes: EC2, EBS direct, STS and Systems Manager, and Azure's disks and machines. Prints one JSON line with
/// its endpoints and test credentials.
#[derive(Debug, Parser)]
#[command(name = "cloudsim")]
struct Arguments {
    /// Everything is kept here, and found again
    #[arg(long)]
    data: PathBuf,
    /// Where to listen; port 0 is any free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Regions that every account has
    #[arg(long, value_delimiter = ',', default_value = "eu-west-1,eu-central-1,us-east-1")]
    regions: Vec<String>,
    /// Instances do not boot: they are `running`, and that is all
    #[arg(long)]
    no_qemu: bool,
    /// A fresh world has no delays and no lag of reads
    #[arg(long)]
    calm: bool,
    /// Ends when standard input is closed, as it is when the test that started it dies
    #[arg(long)]
    leash: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "cloudsim: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> std::io::Result<()> {
    if !arguments.listen.ip().is_loopback() {
        return Err(std::io::Error::other("it listens on the loopback only: its control API is open to everybody"));
    }
    let found = std::process::Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    if !arguments.no_qemu && !found {
        return Err(std::io::Error::other("qemu-system-x86_64 is not installed; with --no-qemu instances do not boot"));
    }
    let options = Options {
        data: std::path::absolute(arguments.data)?,
        regions: arguments.regions,
        qemu: !arguments.no_qemu,
        calm: arguments.calm,
    };
    let (mut end, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let sim = Arc::new(Sim::open(&options)?);
    let listener = TcpListener::bind(arguments.listen).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", greeting(&sim, listener.local_addr()?))?;
    out.flush()?;
    let (let_go, cut) = tokio::sync::oneshot::channel();
    if arguments.leash {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = let_go.send(());
        });
    }
    let done = tokio::select! {
        done = serve(sim.clone(), listener) => done,
        Ok(()) = cut => Ok(()),
        _ = end.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    sim.shut_down();
    done
}
