//! Microsoft's emulator of blob storage for tests, started by `tests/azurite.sh`.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The account that it knows.
pub const ACCOUNT: &str = "devstoreaccount1";
/// The account's key, which Microsoft publishes.
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The emulator; killed when dropped.
pub struct Azurite {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Azurite {
    /// Starts it, or says why it cannot be had here.
    pub fn start() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).map_err(|e| e.to_string())?.port();
        let child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("azurite.sh"))
            .arg(folder.path().join("data"))
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut server = Self { child, port, _folder: folder };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(240) {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("tests/azurite.sh ended with {status}"));
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Err("it did not open its port in 4 minutes".to_owned())
    }

    /// Makes an empty container.
    pub fn make(&self, container: &str) -> Result<(), String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("azurite.py");
        let made = Command::new("python3").arg(script).args([&self.endpoint(), ACCOUNT, KEY, container]).output();
        let made = made.map_err(|e| e.to_string())?;
        made.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&made.stderr).into_owned())
    }

    /// Address of the account.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }
}
