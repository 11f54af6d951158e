//! The policy's own checks of a drilled guest: console text, a TCP port, an HTTP answer, a command through the agent. Each is tried until it
//! passes or the drill's time is up: services come up after the login prompt.

use std::net::SocketAddr;
use std::time::Duration;

use cloud::Instance;
use model::{Error, Kind, Probe, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ladder::Watch;
use crate::proof::Rung;

/// One try may take so long.
const TRY: Duration = Duration::from_secs(10);
/// The most of an HTTP answer that is read.
const ANSWER: usize = 1 << 20;

/// What a probe looks for, for the report.
pub(crate) fn name(probe: &Probe) -> String {
    match probe {
        Probe::Console { text } => format!("console shows `{text}`"),
        Probe::Tcp { port } => format!("port {port} answers"),
        Probe::Http { port, path, .. } => format!("http {port}{path}"),
        Probe::Command { command, .. } => format!("command `{}`", command.join(" ")),
    }
}

/// Ports that a drill needs to reach.
pub(crate) fn ports(probes: &[Probe]) -> Vec<u16> {
    let mut ports: Vec<u16> = probes
        .iter()
        .filter_map(|probe| match probe {
            Probe::Tcp { port } | Probe::Http { port, .. } => Some(*port),
            _ => None,
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Tries a probe until it passes, the guest dies or time is up.
pub(crate) async fn check(watch: &Watch<'_>, instance: &Instance, probe: &Probe) -> Result<Rung> {
    let name = name(probe);
    loop {
        let why = match attempt(watch, instance, probe).await {
            Ok(detail) => return Ok(Rung { name, passed: true, seconds: watch.seconds(), detail }),
            Err(error) => error.chain(),
        };
        let dead = watch.alive().await.ok().and_then(|(_, _, dead)| dead);
        if dead.is_some() || watch.is_late() {
            let detail = dead.unwrap_or(why);
            return Ok(Rung { name, passed: false, seconds: watch.seconds(), detail });
        }
        tokio::time::sleep(watch.poll).await;
    }
}

async fn attempt(watch: &Watch<'_>, instance: &Instance, probe: &Probe) -> Result<String> {
    match probe {
        Probe::Console { text } => {
            let console = watch.target.console(watch.instance).await?.text;
            require(console.contains(text.as_str()), "the console does not show it").map(|()| "it does".to_owned())
        }
        Probe::Tcp { port } => {
            let address = address(instance, *port)?;
            bounded(tcp(address)).await?;
            Ok(format!("connected through {address}"))
        }
        Probe::Http { port, path, text } => {
            let address = address(instance, *port)?;
            let (status, body) = bounded(http(address, path)).await?;
            require((100..400).contains(&status), &format!("it answers with status {status}"))?;
            if let Some(text) = text {
                require(body.contains(text.as_str()), &format!("the body does not hold `{text}`"))?;
            }
            Ok(format!("status {status}, {} bytes", body.len()))
        }
        Probe::Command { command, text } => {
            let (code, output) = watch.target.execute(watch.instance, command, TRY).await?;
            let shown: String = output.trim().chars().take(200).collect();
            require(code == 0, &format!("it ends with code {code}: {shown}"))?;
            if let Some(text) = text {
                require(output.contains(text.as_str()), &format!("it prints `{shown}`"))?;
            }
            Ok(shown)
        }
    }
}

fn require(fine: bool, why: &str) -> Result<()> {
    if fine { Ok(()) } else { Err(Error::new(Kind::Invalid, why.to_owned())) }
}

fn address(instance: &Instance, port: u16) -> Result<SocketAddr> {
    let found = instance.ports.iter().find(|(guest, _)| *guest == port).map(|(_, address)| *address);
    found.ok_or_else(|| Error::new(Kind::Invalid, format!("port {port} of the guest cannot be reached from here")))
}

async fn bounded<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(TRY, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Kind::Transient, format!("no answer within {} seconds", TRY.as_secs()))),
    }
}

/// A connection that the guest takes. A forwarded port is taken by the host even if nothing listens in the guest, and closed at once
/// then: a connection counts only if it stays, or brings data.
async fn tcp(address: SocketAddr) -> Result<()> {
    let operation = || format!("cannot connect to {address}");
    let mut stream = TcpStream::connect(address).await.map_err(|e| Error::io(operation(), e))?;
    let mut byte = [0; 1];
    match tokio::time::timeout(Duration::from_secs(1), stream.read(&mut byte)).await {
        Ok(Ok(0)) => Err(Error::new(Kind::Transient, operation()).because("it was closed at once")),
        Ok(Err(error)) => Err(Error::io(operation(), error)),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// HTTP/1.0, so that the answer ends with the connection.
async fn http(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let operation = || format!("cannot get http://{address}{path}");
    let mut stream = TcpStream::connect(address).await.map_err(|e| Error::io(operation(), e))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: replicate\r\nAccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| Error::io(operation(), e))?;
    let mut answer = Vec::new();
    let mut limited = stream.take(ANSWER as u64);
    limited.read_to_end(&mut answer).await.map_err(|e| Error::io(operation(), e))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status =
        status.ok_or_else(|| Error::new(Kind::Invalid, operation()).because("the answer is not one of HTTP"))?;
    Ok((status, body.to_owned()))
}
