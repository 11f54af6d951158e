//! Small binary forms: writing never fails, reading checks every length before it is used.

use model::Result;

use crate::keys::damaged;

/// Appends an unsigned number, 7 bits a byte, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads what was written, with the name of what it reads for errors.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'a str,
}

impl<'a> Cursor<'a> {
    /// Reads `bytes` of `what`: `cannot read manifests/..`.
    pub fn new(bytes: &'a [u8], what: &'a str) -> Self {
        Self { rest: bytes, what }
    }

    /// The error that stops the reading.
    pub fn wrong(&self, why: &'static str) -> model::Error {
        damaged(format!("cannot read {}", self.what), why)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((head, tail)) = self.rest.split_at_checked(len) else {
            return Err(self.wrong("it ends too early"));
        };
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        <[u8; N]>::try_from(bytes).map_err(|_| self.wrong("it ends too early"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A number of [`put_varint`], at most `most`.
    pub fn varint(&mut self, most: u64) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                if value > most {
                    return Err(self.wrong("a number is out of bounds"));
                }
                return Ok(value);
            }
        }
        Err(self.wrong("a number is too long"))
    }

    /// A count of things of at least `each` bytes: never more than can follow, so that no count can ask for memory.
    pub fn count(&mut self, each: usize) -> Result<usize> {
        let most = self.rest.len() / each.max(1);
        Ok(self.varint(most as u64)? as usize)
    }

    /// Everything was read.
    pub fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong("it is longer than what it tells")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX >> 1] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut cursor = Cursor::new(&out, "x");
            assert_eq!(cursor.varint(u64::MAX).unwrap(), value);
            cursor.end().unwrap();
            assert!(value == 0 || Cursor::new(&out, "x").varint(value - 1).is_err());
        }
    }

    #[test]
    fn a_count_cannot_ask_for_more_than_there_is() {
        let mut out = Vec::new();
        put_varint(&mut out, 1 << 40);
        assert!(Cursor::new(&out, "x").count(16).is_err());
    }
}
