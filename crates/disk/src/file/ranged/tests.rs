//! In which order a file that lies elsewhere is asked for.

use super::*;
use crate::{Discard, Silent, create_file, transfer};

/// A file in memory that notes where it was read.
struct Noted {
    content: Vec<u8>,
    reads: Mutex<Vec<u64>>,
}

#[async_trait]
impl Ranged for Noted {
    fn len(&self) -> u64 {
        self.content.len() as u64
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.reads.lock().unwrap().push(offset);
        // whoever waits for these bytes is behind those who do not
        tokio::task::yield_now().await;
        Ok(Bytes::copy_from_slice(&self.content[offset as usize..offset as usize + len]))
    }

    fn describe(&self) -> String {
        "a file".to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_asks_for_a_file_once_and_in_its_order() {
    // many more chunks than segments are kept
    let size = 100 * CHUNK;
    for format in [Format::Raw, Format::Qcow2] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut writer = create_file(&path, format, size, None).await.unwrap();
        for chunk in 0..100 {
            writer.write(chunk * CHUNK, vec![chunk as u8 | 1; CHUNK as usize].into()).await.unwrap();
        }
        let written = writer.finish().await.unwrap();
        let file = Arc::new(Noted { content: std::fs::read(&path).unwrap(), reads: Mutex::default() });
        let reader = open_ranged(file.clone(), format).await.unwrap();
        // the tables, which lie behind the data
        let opened = file.reads.lock().unwrap().len();
        let taken = transfer(&*reader, vec![Box::new(Discard::with_root(size))], &Silent).await.unwrap();
        assert_eq!(taken.into_iter().next().unwrap().unwrap().root, written.root);
        let reads = file.reads.lock().unwrap().clone();
        let asked = &reads[opened..];
        assert!(asked.len() > 90 && asked.is_sorted_by(|one, next| one < next), "{format}: {reads:?}");
    }
}
