//! Compressed clusters.

use model::{Error, Result};

use super::Storage;
use super::header::{Compression, damaged};

/// Decompresses clusters, one after another, into one buffer.
pub(super) struct Inflater {
    compression: Compression,
    packed: Vec<u8>,
    cluster: Vec<u8>,
    deflate: flate2::Decompress,
}

impl Inflater {
    pub(super) fn new(compression: Compression, cluster_size: usize) -> Self {
        let deflate = flate2::Decompress::new(false);
        Self { compression, packed: Vec::new(), cluster: vec![0; cluster_size], deflate }
    }

    /// The cluster at `host`. `len` counts whole sectors, so the last may reach behind the end of the file.
    pub(super) fn inflate(&mut self, storage: &dyn Storage, host: u64, len: usize) -> Result<&[u8]> {
        let len = storage.len().saturating_sub(host).min(len as u64) as usize;
        if len == 0 {
            return Err(damaged(format!("a compressed cluster at {host} does not lie in the file")));
        }
        self.packed.resize(len, 0);
        storage.read(host, &mut self.packed)?;
        let wrong = |error: Error| error.within(format!("cannot decompress a cluster at {host}"));
        match self.compression {
            Compression::Deflate => self.deflate().map_err(wrong)?,
            Compression::Zstd => self.zstd().map_err(wrong)?,
        }
        Ok(&self.cluster)
    }

    fn deflate(&mut self) -> Result<()> {
        self.deflate.reset(false);
        let flush = flate2::FlushDecompress::Finish;
        // what follows in the last sector belongs to others: only a full cluster counts as success
        let outcome = self.deflate.decompress(&self.packed, &mut self.cluster, flush);
        outcome.map_err(|e| damaged(e.to_string()))?;
        if self.deflate.total_out() != self.cluster.len() as u64 {
            return Err(damaged("it is cut short"));
        }
        Ok(())
    }

    fn zstd(&mut self) -> Result<()> {
        use std::io::Read;
        let wrong = |e: std::io::Error| damaged(e.to_string());
        let mut decoder =
            zstd::stream::read::Decoder::with_buffer(self.packed.as_slice()).map_err(wrong)?.single_frame();
        // a frame may ask for a window of gigabytes; a cluster has 2 MiB at most
        decoder.window_log_max(22).map_err(wrong)?;
        decoder.read_exact(&mut self.cluster).map_err(wrong)
    }
}
