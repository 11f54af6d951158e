//! Makes and compares the data of the benchmark disks (`make-workload.sh`): one file, no dependencies, built with
//! plain rustc. The same seed gives the same bytes everywhere.
use std::collections::{HashMap, HashSet};
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// xoshiro256** seeded by splitmix64
struct Rng([u64; 4]);
impl Rng {
    fn new(seed: u64) -> Self {
        let mut s = seed;
        let mut n = || {
            s = s.wrapping_add(0x9E3779B97F4A7C15);
            let mut z = s;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
            z ^ (z >> 31)
        };
        Rng([n(), n(), n(), n()])
    }
    fn u64(&mut self) -> u64 {
        let s = &mut self.0;
        let r = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        r
    }
    fn below(&mut self, n: u64) -> u64 {
        ((self.u64() as u128 * n as u128) >> 64) as u64
    }
    fn fill(&mut self, b: &mut [u8]) {
        for c in b.chunks_mut(8) {
            let v = self.u64().to_le_bytes();
            c.copy_from_slice(&v[..c.len()]);
        }
    }
}

const SYL: &[&str] = &[
    "an", "ber", "ca", "dor", "el", "fin", "gar", "hol", "is", "jun", "ka", "lor", "mar", "nel",
    "or", "pet", "qui", "ros", "sen", "tor", "ul", "vin", "wes", "xan", "yor", "zel", "ing", "ton",
    "berg", "son", "man", "ler",
];
const WORDS: &[&str] = &[
    "order", "invoice", "customer", "pending", "shipped", "delayed", "refund", "payment", "card",
    "address", "confirmed", "by", "phone", "email", "the", "warehouse", "stock", "item", "return",
    "requested", "premium", "account", "renewal", "failed", "retry", "gateway", "manual", "review",
    "approved", "note", "left", "with", "support", "ticket", "closed", "priority", "discount",
];
fn word(r: &mut Rng) -> String {
    let n = 2 + r.below(2);
    let mut s = String::new();
    for _ in 0..n {
        s.push_str(SYL[r.below(SYL.len() as u64) as usize]);
    }
    s
}

// ---------- database pages (PostgreSQL-like heap pages, 8 KiB) ----------
fn tuple(r: &mut Rng, id: u64) -> Vec<u8> {
    let mut t = Vec::with_capacity(220);
    t.extend_from_slice(&((700000 + id / 40) as u32).to_le_bytes()); // xmin
    t.extend_from_slice(&0u32.to_le_bytes()); // xmax
    t.extend_from_slice(&[0, 0, 0, 0]);
    t.extend_from_slice(&((id / 40) as u32).to_le_bytes());
    t.extend_from_slice(&((id % 40) as u16).to_le_bytes());
    t.extend_from_slice(&[8, 0, 2, 9, 24, 0]);
    t.extend_from_slice(&id.to_le_bytes());
    let (f, l) = (word(r), word(r));
    let mail = format!("{}.{}@example{}.com", f, l, r.below(50));
    for s in [&f, &l, &mail] {
        t.push((s.len() as u8) << 1 | 1);
        t.extend_from_slice(s.as_bytes());
    }
    let mut uuid = [0u8; 16];
    r.fill(&mut uuid);
    t.extend_from_slice(&uuid);
    t.extend_from_slice(&((r.below(5_000_000) as f64) / 100.0).to_le_bytes());
    t.extend_from_slice(&(750_000_000_000_000u64 + id * 1_300_000 + r.below(1_000_000)).to_le_bytes());
    let n = 4 + r.below(10);
    let mut note = String::new();
    for i in 0..n {
        if i > 0 {
            note.push(' ');
        }
        note.push_str(WORDS[r.below(WORDS.len() as u64) as usize]);
    }
    t.push((note.len() as u8) << 1 | 1);
    t.extend_from_slice(note.as_bytes());
    while t.len() % 8 != 0 {
        t.push(0);
    }
    t
}
fn db_page(r: &mut Rng, no: u64, lsn: u64) -> Vec<u8> {
    let mut p = vec![0u8; 8192];
    let (mut lower, mut upper, mut k) = (24usize, 8192usize, 0u64);
    loop {
        let t = tuple(r, no * 40 + k);
        if lower + 4 + t.len() > upper {
            break;
        }
        upper -= t.len();
        p[upper..upper + t.len()].copy_from_slice(&t);
        let lp = (upper as u32) | 1 << 15 | (t.len() as u32) << 17;
        p[lower..lower + 4].copy_from_slice(&lp.to_le_bytes());
        lower += 4;
        k += 1;
    }
    p[0..8].copy_from_slice(&lsn.to_le_bytes());
    p[8..10].copy_from_slice(&((r.u64() & 0xffff) as u16).to_le_bytes());
    p[12..14].copy_from_slice(&(lower as u16).to_le_bytes());
    p[14..16].copy_from_slice(&(upper as u16).to_le_bytes());
    p[16..18].copy_from_slice(&8192u16.to_le_bytes());
    p[18..20].copy_from_slice(&0x2004u16.to_le_bytes());
    p
}
fn db_update(r: &mut Rng, p: &mut [u8], lsn: u64) {
    p[0..8].copy_from_slice(&lsn.to_le_bytes());
    p[8..10].copy_from_slice(&((r.u64() & 0xffff) as u16).to_le_bytes());
    let upper = u16::from_le_bytes([p[14], p[15]]) as usize;
    if upper < 24 || upper >= 8192 - 256 {
        return;
    }
    for _ in 0..1 + r.below(3) {
        // touch a tuple: xmax + a money field-sized patch + some text
        let at = upper + r.below((8192 - upper - 200) as u64) as usize;
        let mut b = [0u8; 12];
        r.fill(&mut b);
        p[at..at + 12].copy_from_slice(&b);
        let w = word(r);
        p[at + 40..at + 40 + w.len()].copy_from_slice(w.as_bytes());
    }
}

// ---------- log text ----------
fn log_line(r: &mut Rng, ts: &mut u64, out: &mut Vec<u8>) {
    *ts += r.below(900);
    let (s, ms) = (*ts / 1000, *ts % 1000);
    let ip = format!("10.{}.{}.{}", r.below(4), r.below(32), r.below(250));
    let pid = 400 + r.below(600);
    let pre = format!("2026-03-{:02}T{:02}:{:02}:{:02}.{:03}Z srv ", 1 + s / 86400 % 28, s / 3600 % 24, s / 60 % 60, s % 60, ms);
    out.extend_from_slice(pre.as_bytes());
    let m = match r.below(6) {
        0 => format!("sshd[{}]: Accepted publickey for deploy from {} port {} ssh2: ED25519 SHA256:{:016x}{:016x}\n", pid, ip, 1024 + r.below(60000), r.u64(), r.u64()),
        1 => format!("nginx[{}]: {} \"GET /api/v1/{}/{} HTTP/1.1\" 200 {} \"-\" \"Mozilla/5.0 (X11; Linux x86_64)\" rt={}.{:03}\n", pid, ip, WORDS[r.below(30) as usize], r.below(1_000_000), r.below(90_000), r.below(2), r.below(1000)),
        2 => format!("postgres[{}]: LOG:  checkpoint complete: wrote {} buffers ({}.{}%); write={}.{:03} s, sync=0.{:03} s\n", pid, r.below(9000), r.below(9), r.below(9), r.below(200), r.below(1000), r.below(1000)),
        3 => format!("systemd[1]: Started session-{}.scope - Session {} of User deploy.\n", r.below(90000), r.below(90000)),
        4 => format!("kernel: [{}.{:06}] nf: IN=eth0 OUT= SRC={} DST=10.0.0.5 LEN={} TTL={} ID={} PROTO=TCP SPT={} DPT=443\n", s, r.below(1_000_000), ip, 40 + r.below(1400), 40 + r.below(80), r.below(65535), r.below(65535)),
        _ => format!("app[{}]: level=info trace={:032x} msg=\"{} {} {}\" user={} dur={}us\n", pid, (r.u64() as u128) << 64 | r.u64() as u128, WORDS[r.below(37) as usize], WORDS[r.below(37) as usize], WORDS[r.below(37) as usize], r.below(100_000), r.below(500_000)),
    };
    out.extend_from_slice(m.as_bytes());
}
fn log_bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut r = Rng::new(seed);
    let mut ts = r.below(86_400_000);
    let mut v = Vec::with_capacity(n + 512);
    while v.len() < n {
        log_line(&mut r, &mut ts, &mut v);
    }
    v.truncate(n);
    v
}

// ---------- helpers ----------
fn num(s: &str) -> u64 {
    let (d, m) = match s.chars().last().unwrap() {
        'K' => (&s[..s.len() - 1], 1 << 10),
        'M' => (&s[..s.len() - 1], 1 << 20),
        'G' => (&s[..s.len() - 1], 1 << 30),
        _ => (s, 1),
    };
    d.parse::<u64>().expect("number") * m
}
/// block list printed by `debugfs -R "blocks <file>"`
fn blocks(f: &str) -> Vec<u64> {
    fs::read_to_string(f).expect(f).split_whitespace().filter_map(|x| x.parse().ok()).filter(|&b| b != 0).collect()
}
fn q(p: &str) -> String {
    format!("\"{}\"", p)
}
/// emit a debugfs script that copies tree `src` to `dst` in sorted order
fn emit(src: &Path, dst: &str, out: &mut dyn Write, made: &mut HashSet<String>) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(src)?.map(|e| e.unwrap().file_name().into_string().unwrap_or_default()).filter(|n| !n.is_empty() && !n.contains('"')).collect();
    names.sort();
    let mut subs = vec![];
    let mut cd = false;
    for n in names {
        let p = src.join(&n);
        let md = fs::symlink_metadata(&p)?;
        let d = if dst == "/" { format!("/{}", n) } else { format!("{}/{}", dst, n) };
        if md.is_dir() {
            subs.push((p, d));
        } else if md.file_type().is_symlink() {
            let t = fs::read_link(&p)?;
            if made.insert(d.clone()) {
                writeln!(out, "symlink {} {}", q(&d), q(&t.to_string_lossy()))?;
            }
        } else if md.is_file() && made.insert(d.clone()) {
            if !cd {
                writeln!(out, "cd {}", q(dst))?;
                cd = true;
            }
            writeln!(out, "write {} {}", q(&p.to_string_lossy()), q(&n))?;
        }
    }
    for (p, d) in subs {
        if made.insert(d.clone()) {
            if dst == "/" {
                writeln!(out, "cd \"/\"")?; // debugfs resolves "/x" for mkdir against the current folder
            }
            writeln!(out, "mkdir {}", q(&d))?;
        }
        emit(&p, &d, out, made)?;
    }
    Ok(())
}
extern "C" {
    fn lseek(fd: i32, off: i64, whence: i32) -> i64;
}
/// data ranges (SEEK_DATA / SEEK_HOLE), widened to 1 MiB borders and merged
fn data_ranges(f: &File, len: u64) -> Vec<(u64, u64)> {
    use std::os::fd::AsRawFd;
    let (fd, mut pos, mut v): (i32, u64, Vec<(u64, u64)>) = (f.as_raw_fd(), 0, vec![]);
    while pos < len {
        let d = unsafe { lseek(fd, pos as i64, 3) };
        if d < 0 {
            break;
        }
        let h = unsafe { lseek(fd, d, 4) };
        let h = if h < 0 { len } else { h as u64 };
        let (s, e) = (d as u64 >> 20 << 20, ((h + 0xfffff) >> 20 << 20).min(len));
        match v.last_mut() {
            Some(l) if l.1 >= s => l.1 = l.1.max(e),
            _ => v.push((s, e)),
        }
        pos = h;
    }
    v
}
/// calls `f` with every 1 MiB piece that may hold data in either file
fn walk2(a: &str, b: &str, mut f: impl FnMut(u64, &[u8], &[u8])) -> io::Result<()> {
    let (x, y) = (File::open(a)?, File::open(b)?);
    let (lx, ly) = (x.metadata()?.len(), y.metadata()?.len());
    let mut ps: Vec<u64> = vec![];
    for (s, e) in data_ranges(&x, lx).into_iter().chain(data_ranges(&y, ly)) {
        ps.extend((s..e).step_by(1 << 20));
    }
    ps.sort_unstable();
    ps.dedup();
    let (mut bx, mut by) = (vec![0u8; 1 << 20], vec![0u8; 1 << 20]);
    let fill = |f: &File, l: u64, p: u64, b: &mut [u8]| -> io::Result<()> {
        let n = l.saturating_sub(p).min(1 << 20) as usize;
        f.read_exact_at(&mut b[..n], p)?;
        b[n..].fill(0);
        Ok(())
    };
    for p in ps {
        fill(&x, lx, p, &mut bx)?;
        fill(&y, ly, p, &mut by)?;
        f(p, &bx, &by);
    }
    Ok(())
}
fn h128(b: &[u8]) -> u128 {
    // two independent multiply-xor hashes; used for statistics only
    let (mut a, mut c) = (0x243F6A8885A308D3u64, 0x13198A2E03707344u64);
    for w in b.chunks_exact(8) {
        let v = u64::from_le_bytes(w.try_into().unwrap());
        a = (a ^ v).wrapping_mul(0x9E3779B97F4A7C15).rotate_left(29);
        c = (c.rotate_left(31) ^ v).wrapping_mul(0xD6E8FEB86659FD93);
    }
    ((a ^ a >> 32) as u128) << 64 | (c ^ c >> 29) as u128
}

fn rebuild(r: &mut Rng, d: &[u8]) -> Vec<u8> {
    let text = !d.iter().take(4096).any(|b| *b == 0);
    let mut o = Vec::with_capacity(d.len() + 8192);
    let mut cut: Vec<usize> = (0..3).map(|_| r.below(d.len() as u64 + 1) as usize).collect();
    cut.sort();
    let (mut i, mut k) = (0, 0);
    while i < d.len() {
        while k < 3 && cut[k] <= i {
            let n = 16 + r.below(1500) as usize;
            let mut ins = vec![0u8; n];
            if text {
                ins = log_bytes(r.u64(), n)
            } else {
                r.fill(&mut ins)
            }
            o.extend_from_slice(&ins);
            k += 1;
        }
        let n = (if text { 8192 } else { 256 + r.below(512) as usize }).min(d.len() - i);
        o.extend_from_slice(&d[i..i + n]);
        if !text && n > 8 {
            let at = o.len() - 4;
            o[at..at + 3].copy_from_slice(&(r.below(1 << 20) as u32).to_le_bytes()[..3]);
        }
        i += n;
    }
    o
}
fn main() -> io::Result<()> {
    let a: Vec<String> = env::args().collect();
    let s = |i: usize| a.get(i).map(String::as_str).unwrap_or_else(|| panic!("arg {}", i));
    match s(1) {
        // rand SEED BYTES OUT
        "rand" => {
            let mut r = Rng::new(num(s(2)));
            let mut left = num(s(3));
            let mut w = File::create(s(4))?;
            let mut b = vec![0u8; 1 << 20];
            while left > 0 {
                let n = left.min(b.len() as u64) as usize;
                r.fill(&mut b[..n]);
                w.write_all(&b[..n])?;
                left -= n as u64;
            }
        }
        // db SEED PAGES OUT
        "db" => {
            let mut r = Rng::new(num(s(2)));
            let mut w = BufWriter::with_capacity(1 << 20, File::create(s(4))?);
            for i in 0..num(s(3)) {
                w.write_all(&db_page(&mut r, i, 0x1_0000_0000 + i * 8192))?;
            }
        }
        // log SEED BYTES OUT [PADDED_BYTES]: text, then zeroes up to PADDED (preallocated journal)
        "log" => {
            let mut v = log_bytes(num(s(2)), num(s(3)) as usize);
            if let Some(p) = a.get(5) {
                v.resize(num(p) as usize, 0);
            }
            File::create(s(4))?.write_all(&v)?;
        }
        // rebuild SEED SRCTREE NEWTREE: a "new version" of every file of a package tree, written to
        // NEWTREE; prints the debugfs commands that replace the old files. Text files get insertions,
        // binaries also get address-like patches about every 512 bytes.
        "rebuild" => {
            let mut todo = vec![Path::new(s(3)).to_path_buf()];
            let mut files = vec![];
            while let Some(d) = todo.pop() {
                for e in fs::read_dir(&d)? {
                    let p = e?.path();
                    let m = fs::symlink_metadata(&p)?;
                    if m.is_dir() {
                        todo.push(p);
                    } else if m.is_file() && !p.to_string_lossy().contains('"') {
                        files.push(p);
                    }
                }
            }
            files.sort();
            let mut out = BufWriter::new(io::stdout());
            for (n, p) in files.iter().enumerate() {
                let rel = p.strip_prefix(s(3)).unwrap();
                let d = fs::read(p)?;
                let mut r = Rng::new(num(s(2)) ^ ((n as u64) << 32) ^ d.len() as u64);
                let o = rebuild(&mut r, &d);
                let to = Path::new(s(4)).join(rel);
                fs::create_dir_all(to.parent().unwrap())?;
                fs::write(&to, o)?;
                fs::set_permissions(&to, fs::metadata(p)?.permissions())?;
                let (dir, name) = (rel.parent().unwrap().to_string_lossy(), rel.file_name().unwrap().to_string_lossy());
                writeln!(out, "cd {}\nrm {}\nwrite {} {}", q(&format!("/{}", dir)), q(&name), q(&to.to_string_lossy()), q(&name))?;
            }
        }
        // tree-script SRC DST  -> debugfs commands on stdout
        "tree-script" => {
            let mut out = BufWriter::new(io::stdout());
            let mut made = HashSet::new();
            let dst = s(3).to_string();
            let mut acc = String::new();
            writeln!(out, "cd \"/\"")?;
            for c in dst.split('/').filter(|c| !c.is_empty()) {
                acc = format!("{}/{}", acc, c);
                made.insert(acc.clone());
                writeln!(out, "mkdir {}", q(&acc))?;
            }
            emit(Path::new(s(2)), if dst.is_empty() { "/" } else { &dst }, &mut out, &mut made)?;
        }
        // db-mutate SEED UPDATES IMG OFFSET BLOCKSFILE: update 8 KiB pages in place,
        // 60% of them in the hottest 10% of the table
        "db-mutate" => {
            let mut r = Rng::new(num(s(2)));
            let b = blocks(s(6));
            let f = OpenOptions::new().read(true).write(true).open(s(4))?;
            let off = num(s(5));
            let pages = (b.len() / 2) as u64;
            let mut p = vec![0u8; 8192];
            let mut touched = HashSet::new();
            for i in 0..num(s(3)) {
                let pg = if r.below(10) < 6 { pages - pages / 10 + r.below(pages / 10) } else { r.below(pages) };
                touched.insert(pg);
                let (x, y) = (off + b[2 * pg as usize] * 4096, off + b[2 * pg as usize + 1] * 4096);
                f.read_exact_at(&mut p[..4096], x)?;
                f.read_exact_at(&mut p[4096..], y)?;
                let lsn = 0x9_0000_0000 + num(s(2)) * 1_000_000_000 + i * 777;
                db_update(&mut r, &mut p, lsn);
                f.write_all_at(&p[..4096], x)?;
                f.write_all_at(&p[4096..], y)?;
            }
            eprintln!("db-mutate: {} distinct pages of {}", touched.len(), pages);
        }
        // fill SEED KIND START LEN IMG OFFSET BLOCKSFILE: overwrite a file range in place.
        // KIND: log (text), wal (page images + noise), journal (copies of other blocks)
        "fill" => {
            let (start, len) = (num(s(4)), num(s(5)));
            let b = blocks(s(8));
            let f = OpenOptions::new().read(true).write(true).open(s(6))?;
            let off = num(s(7));
            let mut r = Rng::new(num(s(2)));
            let data = if s(3) == "log" { log_bytes(num(s(2)), len as usize) } else { vec![] };
            let mut blk = vec![0u8; 4096];
            for i in 0..len / 4096 {
                let bi = ((start / 4096 + i) % b.len() as u64) as usize;
                if s(3) == "journal" && bi == 0 {
                    continue; // journal superblock
                }
                match s(3) {
                    "log" => blk.copy_from_slice(&data[(i * 4096) as usize..][..4096]),
                    "wal" => {
                        let p = db_page(&mut r, i, 0x77_0000_0000 + i);
                        blk.copy_from_slice(&p[4096..]);
                        let k = r.below(2000) as usize;
                        r.fill(&mut blk[..k]);
                    }
                    _ => {
                        // journalled metadata: an inode-table/directory-like block of the image, lightly edited
                        f.read_exact_at(&mut blk, off + (1 + r.below(20000)) * 4096)?;
                        let at = r.below(4000) as usize;
                        r.fill(&mut blk[at..at + 64]);
                    }
                }
                f.write_all_at(&blk, off + b[bi] * 4096)?;
            }
        }
        // same A B: exit 1 unless both hold the same bytes (trailing zeroes ignored)
        "same" => {
            let mut bad = 0u64;
            walk2(s(2), s(3), |_, x, y| bad += (x != y) as u64)?;
            println!("{}", if bad == 0 { "same".into() } else { format!("DIFFERENT in {} MiB pieces", bad) });
            std::process::exit((bad != 0) as i32);
        }
        // nz IMG: every non-zero 4 KiB block, preceded by its number, on stdout (for hashing)
        "nz" => {
            let mut w = BufWriter::with_capacity(1 << 20, io::stdout());
            walk2(s(2), s(2), |p, x, _| {
                for (k, c) in x.chunks(4096).enumerate() {
                    if c.iter().any(|&v| v != 0) {
                        let n = (p / 4096 + k as u64).to_le_bytes();
                        if w.write_all(&n).and_then(|_| w.write_all(c)).is_err() {
                            std::process::exit(0) // the reader has enough
                        }
                    }
                }
            })?;
        }
        // diff A B: changed blocks at several granularities (zero counts as content)
        "diff" => {
            let grans: [u64; 7] = [4 << 10, 64 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];
            let (mut cnt, mut last) = ([0u64; 7], [u64::MAX; 7]);
            walk2(s(2), s(3), |pos, bx, by| {
                for k in (0..bx.len()).step_by(4096) {
                    if bx[k..k + 4096] != by[k..k + 4096] {
                        for (g, gr) in grans.iter().enumerate() {
                            let id = (pos + k as u64) / gr;
                            if last[g] != id {
                                last[g] = id;
                                cnt[g] += 1;
                            }
                        }
                    }
                }
            })?;
            for (g, gr) in grans.iter().enumerate() {
                println!("changed@{}KiB blocks={} MiB={:.1}", gr >> 10, cnt[g], (cnt[g] * gr) as f64 / 1048576.0);
            }
        }
        // uniq IMG...: fixed-block dedup across images at four block sizes
        "uniq" => {
            let bs: [usize; 4] = [4 << 10, 64 << 10, 1 << 20, 4 << 20];
            let mut seen: Vec<HashMap<u128, ()>> = vec![HashMap::new(); 4];
            for p in &a[2..] {
                let (mut nz, mut new) = ([0u64; 4], [0u64; 4]);
                let mut big: Vec<u8> = vec![];
                let mut start = u64::MAX;
                let name = Path::new(p).file_name().unwrap().to_string_lossy().to_string();
                let mut flush = |big: &mut Vec<u8>| {
                    for (i, &z) in bs.iter().enumerate() {
                        for c in big.chunks(z) {
                            if c.iter().all(|&v| v == 0) {
                                continue;
                            }
                            nz[i] += c.len() as u64;
                            if seen[i].insert(h128(c), ()).is_none() {
                                new[i] += c.len() as u64;
                            }
                        }
                    }
                    big.clear();
                };
                walk2(p, p, |pos, x, _| {
                    if pos >> 22 != start {
                        flush(&mut big);
                        start = pos >> 22;
                    }
                    let at = (pos & 0x3fffff) as usize;
                    big.resize(at, 0);
                    big.extend_from_slice(x);
                })?;
                flush(&mut big);
                for i in 0..4 {
                    println!("{}: block={}K nonzero_MiB={:.1} new_unique_MiB={:.1}", name, bs[i] >> 10, nz[i] as f64 / 1048576.0, new[i] as f64 / 1048576.0);
                }
            }
        }
        // limits IMG: memcpy, page cache, holes, loopback TCP
        x => panic!("unknown command {}", x),
    }
    Ok(())
}
