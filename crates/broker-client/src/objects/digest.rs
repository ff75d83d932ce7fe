//! Moving bytes while they are digested.
//!
//! Owns the pump of three threads: one reads, one digests, one writes; past the page cache two of them mostly wait. Never decides where bytes go.

use super::direct::{Block, Source, Target};
use crate::error::{Error, ErrorKind};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use uuid::Uuid;

/// Bytes that are read at a time.
const BUFFER: usize = 1024 * 1024;
/// Blocks between two threads.
const BUFFERS: usize = 4;

/// Digest in hex and length in bytes of a file. Blocks.
pub fn sha256_file(path: &Path) -> Result<(String, u64), Error> {
    let mut file = File::open(path).map_err(|e| Error::file("read", path, e))?;
    let mut buffer = vec![0; BUFFER];
    let mut hash = Sha256::new();
    let mut size = 0;
    loop {
        let count = read_some(&mut file, &mut buffer).map_err(|e| Error::file("read", path, e))?;
        if count == 0 {
            return Ok((hex::encode(hash.finalize()), size));
        }
        hash.update(&buffer[..count]);
        size += count as u64;
    }
}

/// Digest in hex of bytes.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A file that is written aside and appears whole, or not at all.
pub(super) struct Aside {
    path: PathBuf,
    file: Option<File>,
}

impl Aside {
    /// Begins one beside `target`, in its folder, which is made where it is missing.
    pub(super) fn beside(target: &Path) -> Result<Self, Error> {
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|e| Error::file("make the folder", folder, e))?;
        let path = folder.join(format!(".{}.part", Uuid::now_v7().simple()));
        let file = File::create_new(&path).map_err(|e| Error::file("write", &path, e))?;
        Ok(Self { path, file: Some(file) })
    }

    /// Where it is written.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file to write to; closed when it was taken away to another thread and ended there.
    pub(super) fn take_file(&mut self) -> Result<File, Error> {
        self.file.take().ok_or_else(|| Error::new(ErrorKind::Other, "a file was written twice"))
    }

    /// Gives it its name.
    pub(super) fn keep(self, target: &Path) -> Result<(), Error> {
        // The name is gone after this; dropping then finds nothing to remove.
        std::fs::rename(&self.path, target).map_err(|e| Error::file("write", target, e))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Either it has its name by now, or nobody wants it.
        std::fs::remove_file(&self.path).ok();
    }
}

/// Copies everything of `from` (called `source`) aside, and answers digest and length.
pub(super) fn copy(from: File, source: &Path, aside: &mut Aside) -> Result<(String, u64), Error> {
    let writer = aside.take_file()?;
    let target = aside.path().to_owned();
    pump(from, writer).map_err(|failed| match failed {
        Failed::Read(error) => Error::file("read", source, error),
        Failed::Write(error) => Error::file("write", &target, error),
    })
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}

fn pump(from: File, to: File) -> Result<(String, u64), Failed> {
    let mut from = Source::new(from);
    let mut to = Target::new(to, from.is_large());
    let (filled, to_digest) = sync_channel::<(Block, usize)>(BUFFERS);
    let (digested, to_write) = sync_channel::<(Block, usize)>(BUFFERS);
    let (written, to_fill) = sync_channel::<Block>(2 * BUFFERS);
    thread::scope(|scope| {
        let reader = scope.spawn(move || read_all(&mut from, &filled, &to_fill));
        let writer = scope.spawn(move || {
            for (block, count) in to_write {
                to.write(block.filled(count))?;
                // The reader may have ended already.
                written.send(block).ok();
            }
            io::Result::Ok(())
        });
        let mut hash = Sha256::new();
        let mut size = 0;
        for (block, count) in to_digest {
            hash.update(block.filled(count));
            size += count as u64;
            // An error means that the writer has ended: its own error says why.
            if digested.send((block, count)).is_err() {
                break;
            }
        }
        drop(digested);
        let panicked = || Err(io::Error::other("a copying thread panicked"));
        writer.join().unwrap_or_else(|_| panicked()).map_err(Failed::Write)?;
        reader.join().unwrap_or_else(|_| panicked()).map_err(Failed::Read)?;
        Ok((hex::encode(hash.finalize()), size))
    })
}

/// Reads to the end, into blocks that were written, or new ones while there are few.
fn read_all(
    from: &mut Source,
    filled: &SyncSender<(Block, usize)>,
    to_fill: &Receiver<Block>,
) -> io::Result<()> {
    let mut made = 0;
    loop {
        let mut block = match to_fill.try_recv() {
            Ok(block) => block,
            Err(_) if made <= BUFFERS => {
                made += 1;
                Block::new()
            }
            // An error here, or below, means that the others have ended: their own error says why.
            Err(_) => match to_fill.recv() {
                Ok(block) => block,
                Err(_) => return Ok(()),
            },
        };
        let count = from.read(&mut block)?;
        if count == 0 || filled.send((block, count)).is_err() {
            return Ok(());
        }
    }
}

/// Fills the buffer as far as there is anything.
pub(super) fn read_some(from: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match from.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
