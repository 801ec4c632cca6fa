//! The text of a sequence file, plain or gzip (bgzip and other multi-member files included), read and decompressed by a
//! thread of its own, so that the slower of reading and parsing sets the pace. Compression is told by the file's first
//! bytes, never by its name.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use crate::gunzip::{self, GZIP_MAGIC, Gunzip};
use crate::{Error, Result};

/// Bytes of text that go from the reading to the parsing thread at once, and how many such pieces may wait.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 4;

/// The reading and decompressing thread, seen from the packing side.
pub struct Source {
    name: PathBuf,
    bytes_read: Arc<AtomicU64>,
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
}

impl Source {
    /// Opens `path` (`-` is stdin) and starts to read it.
    pub fn open(path: &Path) -> Result<Self> {
        let (name, raw): (_, Box<dyn Read + Send>) = if path == Path::new("-") {
            ("stdin".into(), Box::new(io::stdin()))
        } else {
            if fs::metadata(path).map_err(Error::io("open", path))?.is_dir() {
                return Err(Error::input(path, "", "a folder where a FASTA file is needed", "name the file in it"));
            }
            (path.to_owned(), Box::new(File::open(path).map_err(Error::io("open", path))?))
        };
        let bytes_read = Arc::new(AtomicU64::new(0));
        let mut raw = Watched { raw, bytes_read: bytes_read.clone() };
        let mut magic = Vec::new();
        (&mut raw).take(18).read_to_end(&mut magic).map_err(Error::io("read", &name))?;
        refuse_other_formats(&name, &magic)?;

        let (full_sender, full) = sync_channel(WAITING);
        let (empty, empty_receiver) = channel();
        let worker = move || {
            let is_packed = magic.starts_with(&GZIP_MAGIC);
            let mut raw = magic.as_slice().chain(raw);
            if is_packed {
                let mut unpacked = Gunzip::new(BufReader::with_capacity(CHUNK, raw));
                send_all(&mut unpacked, &full_sender, &empty_receiver);
            } else {
                send_all(&mut raw, &full_sender, &empty_receiver);
            }
        };
        // Never joined: after an error it may hang in a read of stdin, and it ends when the channel does.
        thread::Builder::new()
            .name("fasta".into())
            .spawn(worker)
            .map_err(Error::io("start a thread to read", &name))?;
        Ok(Self { name, bytes_read, full, empty })
    }

    /// What messages call the file.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// How many bytes of the file, as it lies on the disk, have been read.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// The next piece of text, empty at the end. `line` is for the message.
    pub fn next(&self, line: u64) -> Result<Vec<u8>> {
        let Ok(received) = self.full.recv() else {
            return Err(Error::Failed(format!("the thread that reads {} stopped", self.name.display())));
        };
        received.map_err(|error| match gunzip::finding(&error) {
            Some((found, remedy)) => Error::input(&self.name, format!("after line {line}"), found, remedy),
            None => Error::io("read", &self.name)(error),
        })
    }

    /// Hands a used buffer back to be filled again.
    pub fn give_back(&self, buffer: Vec<u8>) {
        // The thread has ended when nobody takes the buffer, and then nobody needs it.
        let _ = self.empty.send(buffer);
    }
}

/// Sends `reader` piece by piece, then an empty piece; stops early when nobody listens any more.
/// Returns whether the end was reached.
fn send_pieces(
    reader: &mut dyn Read,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<bool> {
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let ended = filled < CHUNK;
        buffer.truncate(filled);
        if filled > 0 && full.send(Ok(buffer)).is_err() {
            return Ok(false);
        }
        if ended {
            return Ok(true);
        }
    }
}

fn send_all(reader: &mut dyn Read, full: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    let last = match send_pieces(reader, full, empty) {
        Ok(true) => Ok(Vec::new()),
        Ok(false) => return,
        Err(error) => Err(error),
    };
    // Fails only when nobody listens any more.
    let _ = full.send(last);
}

/// Counts the bytes that pass.
struct Watched {
    raw: Box<dyn Read + Send>,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.raw.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Names the formats that people hand in by mistake.
fn refuse_other_formats(path: &Path, magic: &[u8]) -> Result<()> {
    let decompress = "decompress it and give it as `-` on stdin, or compress it with gzip";
    let known: [(&[u8], &str, &str); 9] = [
        (b"\x28\xB5\x2F\xFD", "a zstd file", decompress),
        (b"BZh", "a bzip2 file", decompress),
        (b"\xFD7zXZ", "an xz file", decompress),
        (b"PK\x03\x04", "a zip archive", decompress),
        (b"\x43\x27\x41\x1A", "a .2bit file", "it is packed already: use it as it is"),
        (b"\x1A\x41\x27\x43", "a .2bit file", "it is packed already: use it as it is"),
        (b"@", "a FASTQ file, by its first byte,", "convert it to FASTA first"),
        (b"##gff", "a GFF file", "give the genome's FASTA file"),
        (b"LOCUS", "a GenBank file", "get the record as FASTA"),
    ];
    match known.iter().find(|(start, ..)| magic.starts_with(start)) {
        Some((_, what, remedy)) => Err(Error::input(path, "", format!("{what} where FASTA is needed"), *remedy)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gunzip::tests::{containers, gzip};

    const TEXT: &[u8] = b">a\nACGTACGTACGTACGTTTTTGGGGGACAGCAGCAGCAGACATATATATATAGGGAGGA\n";

    fn read_all(bytes: &[u8]) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in");
        fs::write(&path, bytes).unwrap();
        let source = Source::open(&path)?;
        let mut text = Vec::new();
        loop {
            let piece = source.next(1)?;
            if piece.is_empty() {
                assert_eq!(source.bytes_read(), bytes.len() as u64);
                return Ok(text);
            }
            text.extend(&piece);
            source.give_back(piece);
        }
    }

    #[test]
    fn every_container_gives_the_same_text() {
        let long = TEXT.repeat(20_000);
        assert_eq!(read_all(TEXT).unwrap(), TEXT);
        assert_eq!(read_all(b"").unwrap(), b"");
        assert!(read_all(&long).unwrap() == long);
        assert!(read_all(&gzip(&long)).unwrap() == long);
        for (what, bytes, is_whole) in containers(TEXT) {
            match read_all(&bytes) {
                Ok(text) => assert!(is_whole && text == TEXT, "{what}"),
                Err(error) => assert!(!is_whole && error.exit_code() == 2, "{what}: {error}"),
            }
        }
    }

    #[test]
    fn other_formats_are_named() {
        for (start, name) in [(&b"BZh91AY"[..], "bzip2"), (b"PK\x03\x04..", "zip"), (b"\x43\x27\x41\x1A", ".2bit")] {
            assert!(read_all(start).unwrap_err().to_string().contains(name));
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(Source::open(folder.path()).err().unwrap().to_string().contains("a folder"));
        assert!(matches!(Source::open(&folder.path().join("none")), Err(Error::Io { .. })));
    }
}
