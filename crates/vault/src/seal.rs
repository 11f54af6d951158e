//! Sealed objects: the form of manifests, index objects and damage marks.
//!
//! A plain prelude (magic, version, class, salt, section lengths), then sections that are each compressed and sealed
//! on their own, so that a reader can fetch the first ones only. The associated data is the prelude, the vault's id and
//! the object's key: an object that was moved, renamed or cut does not open.

use bytes::Bytes;
use model::{Error, Kind, Result};

use crate::cipher::{Cipher, TAG};
use crate::codec::Cursor;
use crate::keys::{Keys, broken, damaged};

/// First bytes of every sealed object.
const MAGIC: &[u8; 4] = b"RPLV";
/// Version of the format.
pub(crate) const VERSION: u8 = 1;
/// Longest section, before compression.
const LONGEST: u32 = 1 << 30;
/// More sections than any class has.
const MOST_SECTIONS: usize = 8;
const FIXED: usize = 24;
const ENTRY: usize = 8;

/// What an object is. The number is part of its key and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A manifest: header, packs, pages.
    Manifest = 1,
    /// An index object.
    Index = 2,
    /// A mark of damage.
    Damage = 3,
}

/// Seals `sections` as the object `key`.
pub(crate) fn seal(keys: &Keys, class: Class, key: &str, sections: &[&[u8]]) -> Result<Bytes> {
    let salt: [u8; 16] = rand::random();
    let cipher = Cipher::new(&keys.object(class as u8, &salt))?;
    let mut packed = Vec::with_capacity(sections.len());
    let mut prelude = Vec::with_capacity(FIXED + ENTRY * sections.len());
    prelude.extend_from_slice(MAGIC);
    prelude.extend_from_slice(&[VERSION, class as u8, sections.len() as u8, 0]);
    prelude.extend_from_slice(&salt);
    for section in sections {
        let raw = u32::try_from(section.len()).ok().filter(|l| *l <= LONGEST);
        let raw = raw.ok_or_else(|| Error::new(Kind::Quota, format!("cannot seal {key}: it is too long")))?;
        let zipped = zstd::bulk::compress(section, 3).map_err(|e| broken("zstd refused to compress").because(e))?;
        prelude.extend_from_slice(&((zipped.len() + TAG) as u32).to_le_bytes());
        prelude.extend_from_slice(&raw.to_le_bytes());
        packed.push(zipped);
    }
    let aad = aad(keys, &prelude, key);
    let mut out = prelude;
    for (number, zipped) in packed.into_iter().enumerate() {
        let start = out.len();
        out.extend_from_slice(&zipped);
        cipher.seal(number as u32, &aad, &mut out, start)?;
    }
    Ok(out.into())
}

fn aad(keys: &Keys, prelude: &[u8], key: &str) -> Vec<u8> {
    let mut aad = prelude.to_vec();
    aad.extend_from_slice(&keys.vault.0);
    aad.extend_from_slice(key.as_bytes());
    aad
}

/// The prelude of a sealed object.
pub(crate) struct Prelude {
    cipher: Cipher,
    aad: Vec<u8>,
    what: String,
    /// Offset in the object, stored length, raw length.
    sections: Vec<(usize, usize, usize)>,
}

impl Prelude {
    /// Reads the prelude of the object `key` from its first bytes.
    pub fn read(keys: &Keys, class: Class, key: &str, head: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(head, key);
        let magic = cursor.array::<4>()?;
        let [version, class_byte, count, zero] = cursor.array::<4>()?;
        if &magic != MAGIC || class_byte != class as u8 || zero != 0 || usize::from(count) > MOST_SECTIONS {
            return Err(cursor.wrong("it does not begin as such an object does"));
        }
        if version != VERSION {
            return Err(Error::new(Kind::Invalid, format!("cannot read {key}"))
                .because(format!("its version is {version}, and this program knows {VERSION}"))
                .hint("a newer replicate wrote it: update this one"));
        }
        let salt = cursor.array::<16>()?;
        let mut offset = FIXED + ENTRY * usize::from(count);
        let mut sections = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (stored, raw) = (cursor.u32()?, cursor.u32()?);
            if raw > LONGEST || stored > LONGEST || (stored as usize) < TAG {
                return Err(cursor.wrong("a length is out of bounds"));
            }
            sections.push((offset, stored as usize, raw as usize));
            offset += stored as usize;
        }
        let length = FIXED + ENTRY * usize::from(count);
        let prelude = head.get(..length).ok_or_else(|| damaged(format!("cannot read {key}"), "it ends too early"))?;
        Ok(Self {
            cipher: Cipher::new(&keys.object(class as u8, &salt))?,
            aad: aad(keys, prelude, key),
            what: format!("cannot read {key}"),
            sections,
        })
    }

    /// Where section `number` ends in the object.
    pub fn end_of(&self, number: usize) -> Result<u64> {
        let (offset, stored, _) =
            self.sections.get(number).ok_or_else(|| damaged(self.what.clone(), "a section is missing"))?;
        Ok((offset + stored) as u64)
    }

    /// The length of the whole object.
    pub fn total(&self) -> u64 {
        self.sections.last().map_or(0, |(offset, stored, _)| (offset + stored) as u64)
    }

    /// Opens section `number` from the object's first bytes.
    pub fn open(&self, number: usize, object: &[u8]) -> Result<Vec<u8>> {
        let wrong = |why| damaged(self.what.clone(), why);
        let &(offset, stored, raw) = self.sections.get(number).ok_or_else(|| wrong("a section is missing"))?;
        let sealed = object.get(offset..offset + stored).ok_or_else(|| wrong("it ends too early"))?;
        let mut sealed = sealed.to_vec();
        let zipped =
            self.cipher.open(number as u32, &self.aad, &mut sealed).ok_or_else(|| wrong("its seal is broken"))?;
        let plain = zstd::bulk::decompress(zipped, raw).map_err(|_| wrong("it does not decompress"))?;
        if plain.len() == raw { Ok(plain) } else { Err(wrong("it has another length than it tells")) }
    }
}

/// Opens an object with one section, as a whole: not one byte may be left over.
pub(crate) fn open_single(keys: &Keys, class: Class, key: &str, object: &[u8]) -> Result<Vec<u8>> {
    let prelude = Prelude::read(keys, class, key, object)?;
    if prelude.total() != object.len() as u64 {
        return Err(damaged(format!("cannot read {key}"), "it has another length than it tells"));
    }
    prelude.open(0, object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::VaultId;

    #[test]
    fn an_object_opens_only_where_and_as_it_was_sealed() {
        let keys = Keys::generate(VaultId([7; 16]));
        let object = seal(&keys, Class::Index, "index/a", &[b"hello"]).unwrap();
        assert_eq!(open_single(&keys, Class::Index, "index/a", &object).unwrap(), b"hello");
        assert!(open_single(&keys, Class::Index, "index/b", &object).is_err());
        assert!(open_single(&keys, Class::Damage, "index/a", &object).is_err());
        assert!(open_single(&Keys::generate(VaultId([7; 16])), Class::Index, "index/a", &object).is_err());
        for bit in 0..object.len() * 8 {
            let mut flipped = object.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open_single(&keys, Class::Index, "index/a", &flipped).is_err(), "bit {bit}");
        }
        for len in 0..object.len() {
            assert!(open_single(&keys, Class::Index, "index/a", &object[..len]).is_err(), "{len} bytes");
        }
    }
}
