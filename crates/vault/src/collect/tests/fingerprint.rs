//! Fingerprints of worlds: a model test sees tens of millions of them and keeps nothing else.

use std::hash::{Hash, Hasher};

/// 128 bits: at 10^7 states, two that collide are less likely than a fault of this machine's memory.
pub fn of(world: &impl Hash) -> u128 {
    let mut mixer = Mixer(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);
    world.hash(&mut mixer);
    u128::from(mixer.0) << 64 | u128::from(mixer.1)
}

/// Two multiplicative hashes with different constants; the standard one takes most of the time of this test.
struct Mixer(u64, u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }
    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }
    fn write_u64(&mut self, number: u64) {
        let mix = |state: u64, factor: u64| {
            let mixed = (state.rotate_left(23) ^ number).wrapping_mul(factor);
            mixed ^ (mixed >> 29)
        };
        self.0 = mix(self.0, 0x9e37_79b9_7f4a_7c15);
        self.1 = mix(self.1, 0xd6e8_feb8_6659_fd93);
    }
    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }
    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
pub struct Keep(u64);

impl Hasher for Keep {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}
