#!/usr/bin/env python3
"""Restores a disk from a vault, written from crates/vault/FORMAT.md alone.

    read.py VAULT-DIR KEY-FILE POINT DISK OUT

KEY-FILE holds an age secret key (AGE-SECRET-KEY-1...) or a passphrase, on one line.
Needs: zstandard, cryptography, blake3; pyrage for age keys, argon2-cffi for passphrases.
Every seal, every page hash and the root of the disk are checked; any mistake ends the program with status 1.
"""
import base64
import json
import os
import struct
import sys

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LEAF, PAGE, BLOCK = 65536, 64 << 20, 4096


def nonce(counter):
    return bytes(8) + struct.pack("<I", counter)


def unzip(data, size):
    plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    assert len(plain) == size, "a section has another length than it tells"
    return plain


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        part = self.data[self.at:self.at + count]
        assert len(part) == count, "the data ends too early"
        self.at += count
        return part

    def varint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7


class Vault:
    def __init__(self, root, secret):
        self.root = root
        self.id = bytes.fromhex(json.loads(self.get("vault.json"))["id"])
        master = self.unwrap(secret)

        def derive(purpose):
            return blake3(master + self.id, derive_key_context="replicate vault v1 " + purpose).digest()

        self.pack_key, self.object_key = derive("pack"), derive("object")
        self.packs, self.frames = {}, {}

    def get(self, key):
        with open(os.path.join(self.root, key), "rb") as file:
            return file.read()

    def list(self, prefix):
        found = []
        for folder, _, names in os.walk(os.path.join(self.root, prefix)):
            found += [os.path.relpath(os.path.join(folder, name), self.root) for name in names]
        return sorted(found)

    # section "Keys"
    def unwrap(self, secret):
        for key in self.list("keys"):
            fields = json.loads(self.get(key))
            wrapped = base64.b64decode(fields["wrapped"])
            bound = json.dumps({**fields, "wrapped": ""}, separators=(",", ":")).encode()
            lock = fields["lock"]
            if lock["kind"] == "age" and secret.startswith("AGE-SECRET-KEY-1"):
                import pyrage

                try:
                    plain = pyrage.decrypt(wrapped, [pyrage.x25519.Identity.from_str(secret)])
                except pyrage.DecryptError:
                    continue
                assert plain[32:] == blake3(bound).digest(), "a key object was changed"
                return plain[:32]
            if lock["kind"] == "passphrase" and not secret.startswith("AGE-SECRET-KEY-1"):
                from argon2.low_level import Type, hash_secret_raw

                cost = lock["argon2id"]
                key = hash_secret_raw(secret.encode(), bytes.fromhex(cost["salt"]), cost["passes"],
                                      cost["memory_kib"], cost["lanes"], 32, Type.ID, 19)
                try:
                    return AESGCM(key).decrypt(nonce(0), wrapped, bound)
                except Exception:
                    continue
        sys.exit("no key object fits")

    # section "Sealed objects"
    def open_object(self, key, klass):
        data = self.get(key)
        magic, version, kind, count, zero, salt = struct.unpack_from("<4sBBBB16s", data)
        assert (magic, version, kind, zero) == (b"RPLV", 1, klass, 0), "not a sealed object of this class"
        prelude = data[:24 + 8 * count]
        cipher = AESGCM(blake3(bytes([klass]) + salt, key=self.object_key).digest())
        at, sections = len(prelude), []
        for number in range(count):
            stored, raw = struct.unpack_from("<II", data, 24 + 8 * number)
            plain = cipher.decrypt(nonce(number), data[at:at + stored], prelude + self.id + key.encode())
            sections.append(unzip(plain, raw))
            at += stored
        assert at == len(data), "bytes are left over"
        return sections

    # section "Manifests"
    def manifest(self, point):
        versions = []
        for key in self.list("manifests"):
            name, version = key.split("/")[2].rsplit(".", 1)
            if name == point:
                versions.append((int(version), key))
        if not versions:
            sys.exit("there is no point " + point)
        header, packs, pages = self.open_object(max(versions)[1], 1)
        header, cursor, listed = json.loads(header), Cursor(packs), []
        for _ in range(cursor.varint()):
            listed.append((cursor.take(16), struct.unpack("<I", cursor.take(4))[0]))
        cursor, disks = Cursor(pages), {}
        for disk in header["point"]["disks"]:
            table = []
            for _ in range(-(-disk["size"] // PAGE)):
                if cursor.take(1) == b"\0":
                    table.append(None)
                    continue
                page_hash = cursor.take(32)
                pack, frame = listed[cursor.varint()][0], cursor.varint()
                for _ in range(cursor.varint()):
                    cursor.varint()
                table.append((page_hash, pack, frame))
            disks[disk["name"]] = (disk, table)
        return disks

    # section "Packs"
    def pack(self, pack):
        if pack in self.packs:
            return self.packs[pack]
        data = self.get("packs/" + pack.hex())
        assert data[:8] == b"RPLVPK02" and data[-12:] == b"RPLVPKEND2\n\n", "not a pack"
        footer = data[-24:]
        _, table_len, count = struct.unpack_from("<III", footer)
        cipher = AESGCM(blake3(pack, key=self.pack_key).digest())
        aad = b"RPLT\1\0\0\0" + self.id + pack + footer
        table = cipher.decrypt(nonce(0xFFFFFFFF), data[-24 - table_len:-24], aad)
        entries = [struct.unpack_from("<BBHIII", table, 16 * number) for number in range(count)]
        self.packs = {pack: (data, cipher, entries)}
        return self.packs[pack]

    def frame(self, pack, number):
        if (pack, number) not in self.frames:
            data, cipher, entries = self.pack(pack)
            kind, level, _, offset, stored, raw = entries[number]
            aad = b"RPLF" + bytes([1, kind, level, 0]) + self.id + pack + struct.pack("<II", number, raw)
            plain = cipher.decrypt(nonce(number), data[offset:offset + stored], aad)
            if len(self.frames) > 64:
                self.frames.pop(next(iter(self.frames)))
            self.frames[(pack, number)] = unzip(plain, raw) if level else plain
        return self.frames[(pack, number)]


# section "The root of a disk"
def leaf_of(data):
    data = data.ljust(LEAF, b"\0")
    return blake3(b"".join(blake3(data[at:at + BLOCK]).digest() for at in range(0, LEAF, BLOCK))).digest()


ZERO_LEAF = leaf_of(b"")


# section "Pages"
def read_page(data):
    cursor = Cursor(data)
    count = cursor.varint()
    bits = cursor.take(-(-count // 8))
    leaves = [cursor.take(32) if bits[i // 8] >> (i % 8) & 1 else ZERO_LEAF for i in range(count)]
    packs = [cursor.take(16) for _ in range(cursor.varint())]
    runs, at = [], 0
    for _ in range(cursor.varint()):
        at += cursor.varint()
        blocks, pack, frame, block = (cursor.varint() for _ in range(4))
        runs.append((at, blocks, packs[pack], frame, block))
        at += blocks
    return leaves, runs


def restore(vault, point, name, out):
    disk, table = vault.manifest(point)[name]
    size = disk["size"]
    root = blake3(struct.pack("<Q", size), derive_key_context="replicate 2026-11-30 disk root v2")
    with open(out, "w+b") as file:
        file.truncate(size)
        for index, entry in enumerate(table):
            start = index * PAGE
            count = min(PAGE // LEAF, -(-(size - start) // LEAF))
            if entry is None:
                root.update(blake3(ZERO_LEAF * count).digest())
                continue
            leaves, runs = read_page(vault.frame(entry[1], entry[2]))
            assert len(leaves) == count and blake3(b"".join(leaves)).digest() == entry[0], "a page does not fit"
            for at, blocks, pack, frame, block in runs:
                data = vault.frame(pack, frame)[block * BLOCK:(block + blocks) * BLOCK]
                assert len(data) == blocks * BLOCK, "a run is behind the end of its frame"
                file.seek(start + at * BLOCK)
                file.write(data[:size - file.tell()])
            for number, leaf in enumerate(leaves):
                file.seek(start + number * LEAF)
                assert leaf_of(file.read(LEAF)) == leaf, "a leaf does not fit"
            root.update(entry[0])
    assert root.hexdigest() == disk["root"], "the root does not fit"


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    with open(sys.argv[2]) as key_file:
        opened = Vault(sys.argv[1], key_file.read().strip())
    restore(opened, *sys.argv[3:6])
