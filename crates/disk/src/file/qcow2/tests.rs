//! Images made by hand, then damaged: every answer is a typed error or bytes, never a panic or a large allocation.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;

const CLUSTER: usize = 4096;
const BITS: u32 = 12;
const CLUSTERS: usize = 40;
/// A size that ends within a cluster.
const SIZE: usize = CLUSTERS * CLUSTER - 3 * 512;

#[derive(Clone, Copy, PartialEq)]
enum Kinds {
    V2,
    Deflate,
    Zstd,
}

/// What cluster `index` of the sample holds.
fn wanted(index: usize) -> Vec<u8> {
    match index % 4 {
        0 => (0..CLUSTER).map(|at| (at * 7 + index) as u8).collect(),
        1 => vec![index as u8; CLUSTER],
        _ => vec![0; CLUSTER],
    }
}

fn pack(kind: Kinds, bytes: &[u8]) -> Vec<u8> {
    if kind == Kinds::Zstd {
        return zstd::encode_all(bytes, 3).unwrap();
    }
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Header, first table, one second-level table; then clusters: plain, compressed, zero, unallocated, and so on.
fn image(kind: Kinds) -> Vec<u8> {
    let mut l2 = vec![0u64; CLUSTER / 8];
    let mut bytes = vec![0; 3 * CLUSTER];
    for (index, entry) in l2.iter_mut().enumerate().take(CLUSTERS) {
        match index % 4 {
            0 => {
                bytes.resize(bytes.len().next_multiple_of(CLUSTER), 0);
                *entry = bytes.len() as u64 | (1 << 63);
                bytes.extend(wanted(index));
            }
            1 => {
                let (host, packed) = (bytes.len() as u64, pack(kind, &wanted(index)));
                let sectors = ((host + packed.len() as u64 - 1) / 512) - host / 512;
                *entry = (1 << 62) | (sectors << (62 - (BITS - 8))) | host;
                bytes.extend(packed);
            }
            2 if kind != Kinds::V2 => *entry = 1,
            _ => {}
        }
    }
    let mut header = MAGIC.to_vec();
    header.extend(if kind == Kinds::V2 { 2u32 } else { 3 }.to_be_bytes());
    header.extend([0; 12]);
    header.extend(BITS.to_be_bytes());
    header.extend((SIZE as u64).to_be_bytes());
    header.extend([0; 4]);
    header.extend(1u32.to_be_bytes());
    header.extend((CLUSTER as u64).to_be_bytes());
    header.extend([0; 24]);
    if kind != Kinds::V2 {
        header.extend(if kind == Kinds::Zstd { 8u64 } else { 0 }.to_be_bytes());
        header.extend([0; 16]);
        header.extend(4u32.to_be_bytes());
        header.extend(112u32.to_be_bytes());
        header.extend([u8::from(kind == Kinds::Zstd), 0, 0, 0, 0, 0, 0, 0]);
    }
    bytes[..header.len()].copy_from_slice(&header);
    bytes[CLUSTER..CLUSTER + 8].copy_from_slice(&((2 * CLUSTER as u64) | (1 << 63)).to_be_bytes());
    for (entry, place) in l2.iter().zip(bytes[2 * CLUSTER..3 * CLUSTER].chunks_mut(8)) {
        place.copy_from_slice(&entry.to_be_bytes());
    }
    bytes
}

/// Notes the largest read: tables are read whole, so it bounds what was allocated for them.
struct Watched(Vec<u8>, Arc<AtomicUsize>);

impl Storage for Watched {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.1.fetch_max(buffer.len(), Relaxed);
        let from = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.0[from..from + buffer.len()]);
        Ok(())
    }
}

/// Opens the image, lists its extents and reads it, up to a bound; the bytes, if it is small enough to be read whole.
fn read_all(bytes: Vec<u8>) -> Result<Option<Vec<u8>>> {
    let (len, most) = (bytes.len(), Arc::new(AtomicUsize::new(0)));
    let outcome = (|| {
        let storage = Box::new(Watched(bytes, most.clone()));
        let disk = Qcow2Disk::open(storage, "the image".into(), &refuse_backing)?;
        let mut at = 0;
        for _ in 0..64 {
            let Some(end) = disk.extents(at)?.as_slice().last().map(|extent| extent.end()) else { break };
            assert!(end > at && end <= disk.size());
            at = end;
            if at == disk.size() {
                break;
            }
        }
        let window = disk.size().min(1 << 18) as usize;
        let mut buffer = vec![0xee; window];
        disk.read(disk.size() - window as u64, &mut buffer)?;
        disk.read(0, &mut buffer)?;
        Ok((disk.size() == window as u64).then_some(buffer))
    })();
    assert!(most.load(Relaxed) <= len, "a read longer than the file");
    outcome
}

fn must_be_typed(outcome: &Result<Option<Vec<u8>>>, what: &str) {
    if let Err(error) = outcome {
        assert!(matches!(error.kind(), Kind::Damaged | Kind::Invalid), "{what}: {}", error.chain());
    }
}

fn samples() -> [Vec<u8>; 3] {
    [image(Kinds::V2), image(Kinds::Deflate), image(Kinds::Zstd)]
}

#[test]
fn the_sample_is_read() {
    let whole: Vec<u8> = (0..CLUSTERS).flat_map(wanted).take(SIZE).collect();
    for bytes in samples() {
        assert!(read_all(bytes).unwrap().unwrap() == whole);
    }
}

#[test]
fn every_bit_of_the_metadata_may_flip() {
    let mut refused = 0;
    for sample in samples() {
        let places = (0..128).chain(CLUSTER..CLUSTER + 16).chain(2 * CLUSTER..2 * CLUSTER + 8 * 8);
        for bit in places.flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut bytes = sample.clone();
            bytes[bit.0] ^= 1 << bit.1;
            let outcome = read_all(bytes);
            must_be_typed(&outcome, &format!("{bit:?}"));
            refused += u32::from(outcome.is_err());
        }
    }
    assert!(refused > 2000, "{refused}");
}

#[test]
fn every_truncation_is_seen() {
    for sample in samples() {
        let last = sample.len();
        for len in (0..2 * CLUSTER).step_by(64).chain((2 * CLUSTER..last).step_by(397)).chain(last - 30..last) {
            let outcome = read_all(sample[..len].to_vec());
            must_be_typed(&outcome, &format!("cut to {len}"));
            if let Ok(Some(bytes)) = outcome {
                // only what pads the last compressed cluster may be missing
                let whole: Vec<u8> = (0..CLUSTERS).flat_map(wanted).take(SIZE).collect();
                assert!(bytes == whole, "cut to {len}: other bytes and no error");
            }
        }
    }
}

#[test]
fn hostile_numbers_are_refused() {
    let with = |at: usize, value: &[u8]| {
        let mut bytes = image(Kinds::Deflate);
        bytes[at..at + value.len()].copy_from_slice(value);
        read_all(bytes).map(|_| ()).map_err(|error| (error.kind(), error.chain()))
    };
    for (at, value, kind) in [
        (24, &u64::MAX.to_be_bytes()[..], Kind::Damaged),      // virtual size
        (24, &(1u64 << 62).to_be_bytes()[..], Kind::Damaged),  // more than the first table covers
        (36, &u32::MAX.to_be_bytes()[..], Kind::Damaged),      // a first table of 32 GiB, if it were believed
        (40, &u64::MAX.to_be_bytes()[..], Kind::Damaged),      // which begins behind the file
        (40, &513u64.to_be_bytes()[..], Kind::Damaged),        // or is not aligned
        (20, &63u32.to_be_bytes()[..], Kind::Damaged),         // clusters of 2^63
        (20, &0u32.to_be_bytes()[..], Kind::Damaged),          // clusters of one byte
        (100, &u32::MAX.to_be_bytes()[..], Kind::Damaged),     // header length
        (8, &(u64::MAX - 3).to_be_bytes()[..], Kind::Damaged), // name of the backing file
        (72, &2u64.to_be_bytes()[..], Kind::Damaged),          // marked as corrupt
        (72, &4u64.to_be_bytes()[..], Kind::Invalid),          // data elsewhere
        (72, &(1u64 << 40).to_be_bytes()[..], Kind::Invalid),  // a feature of the future
        (32, &2u32.to_be_bytes()[..], Kind::Invalid),          // encrypted
        (4, &4u32.to_be_bytes()[..], Kind::Invalid),           // version
        (2 * CLUSTER, &(1u64 << 55).to_be_bytes()[..], Kind::Damaged), // a cluster behind the file
        (2 * CLUSTER, &(CLUSTER as u64 + 512).to_be_bytes()[..], Kind::Damaged), // not aligned
        (2 * CLUSTER, &((1u64 << 62) | 0x3f_ffff_ffff).to_be_bytes()[..], Kind::Damaged), // compressed, behind the file
        (CLUSTER, &(1u64 << 50).to_be_bytes()[..], Kind::Damaged), // a table behind the file
    ] {
        let outcome = with(at, value);
        // the first table's length alone is no harm: what is not needed is not read
        if at == 36 {
            assert_eq!(outcome, Ok(()));
            continue;
        }
        assert_eq!(outcome.as_ref().map_err(|(kind, _)| *kind), Err(kind), "{at} {value:?}: {outcome:?}");
    }
}

#[test]
fn a_backing_file_is_named_and_not_opened() {
    let mut bytes = image(Kinds::Deflate);
    bytes[8..16].copy_from_slice(&200u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&11u32.to_be_bytes());
    bytes[200..211].copy_from_slice(b"/etc/shadow");
    let error = read_all(bytes).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.chain().contains("/etc/shadow") && error.advice().is_some(), "{}", error.chain());
}

/// A fuzzer for stable Rust: mutations of the samples by a seeded generator, so that a find is found again.
/// `REPLICATE_FUZZ_ROUNDS` lets it go on for longer, `REPLICATE_FUZZ_SEED` elsewhere.
#[test]
fn mutated_images_are_read_or_refused() {
    let setting =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rounds, seed) = (setting("REPLICATE_FUZZ_ROUNDS", 3000), setting("REPLICATE_FUZZ_SEED", 1));
    let mut state = seed;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let interesting = [0u64, 1, 511, 512, 4096, u64::MAX, 1 << 63, 1 << 62, (1 << 62) - 1, 1 << 32, u64::MAX - 511];
    let samples = samples();
    let (mut read, mut refused) = (0, 0);
    for round in 0..rounds {
        let mut bytes = samples[random(3)].clone();
        for _ in 0..=random(4) {
            // mostly where the metadata is
            let at = match random(4) {
                0 => random(120),
                1 => CLUSTER + random(16),
                2 => 2 * CLUSTER + random(8 * CLUSTERS),
                _ => random(bytes.len() - 8),
            };
            match random(5) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes[at / 8 * 8..][..8].copy_from_slice(&interesting[random(interesting.len())].to_be_bytes()),
                3 => bytes[at / 4 * 4..][..4]
                    .copy_from_slice(&(interesting[random(interesting.len())] as u32).to_be_bytes()),
                _ => {
                    let (from, len) = (random(bytes.len() - 64), 1 + random(63));
                    let copied = bytes[from..from + len].to_vec();
                    let to = at.min(bytes.len() - len);
                    bytes[to..to + len].copy_from_slice(&copied);
                }
            }
        }
        if random(8) == 0 {
            bytes.truncate(4096 + random(bytes.len() - 4096));
            bytes.resize(bytes.len().max(4096), 0);
        }
        let outcome = read_all(bytes);
        must_be_typed(&outcome, &format!("seed {seed}, round {round}"));
        if outcome.is_ok() { read += 1 } else { refused += 1 }
    }
    assert!(read > rounds / 20 && refused > rounds / 20, "read {read}, refused {refused}");
}
