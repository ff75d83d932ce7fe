//! Large files past the page cache: a copy of hundreds of megabytes that is read once pushes out what others need, and
//! getting that many fresh pages costs more than the disk does.
//!
//! Owns aligned blocks and the switch of one open file. Falls back to usual IO wherever the file system says no.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};

/// Bytes of one block.
const BLOCK_BYTES: usize = 2 * 1024 * 1024;
/// Files smaller than this are read and written as usual, bytes.
const LARGE_BYTES: u64 = 32 * 1024 * 1024;
/// What disks want addresses, offsets and lengths to be multiples of.
const ALIGNMENT: usize = 4096;

/// A buffer whose address suits a disk.
pub(super) struct Block {
    bytes: Vec<u8>,
    start: usize,
}

impl Block {
    pub(super) fn new() -> Self {
        let bytes = vec![0; BLOCK_BYTES + ALIGNMENT];
        // An allocation has one address for as long as it lives.
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start }
    }

    pub(super) fn filled(&self, count: usize) -> &[u8] {
        &self.bytes[self.start..self.start + count]
    }

    fn whole(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + BLOCK_BYTES]
    }
}

/// A file that is read from its start to its end.
pub(super) struct Source {
    file: File,
    direct: bool,
    ended: bool,
}

impl Source {
    /// Large files that are not in the page cache are read past it.
    pub(super) fn new(file: File) -> Self {
        let direct = is_large(&file) && !is_cached(&file) && switch(&file, true);
        Self { file, direct, ended: false }
    }

    /// Whether a copy of it is better written past the page cache too.
    pub(super) fn is_large(&self) -> bool {
        is_large(&self.file)
    }

    /// Fills a block as far as there is anything; 0 at the end.
    pub(super) fn read(&mut self, block: &mut Block) -> io::Result<usize> {
        let whole = block.whole();
        let mut count = 0;
        while count < whole.len() && !self.ended {
            match self.file.read(&mut whole[count..]) {
                Ok(0) => self.ended = true,
                // Past the cache only the end is shorter than what was asked for.
                Ok(more) => {
                    count += more;
                    self.ended = self.direct && count < whole.len();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.direct && is_refused(&error) && switch(&self.file, false) => {
                    self.direct = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}

/// A file that is written from its start to its end, in whole blocks but for the last.
pub(super) struct Target {
    file: File,
    direct: bool,
}

impl Target {
    pub(super) fn new(file: File, large: bool) -> Self {
        let direct = large && switch(&file, true);
        Self { file, direct }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.direct && !bytes.len().is_multiple_of(ALIGNMENT) && switch(&self.file, false) {
                self.direct = false;
            }
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.direct && is_refused(&error) && switch(&self.file, false) => {
                    self.direct = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_large(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.len() >= LARGE_BYTES)
}

/// Whether the file's start is in the page cache: reading it then costs nothing, and reading past the cache would first
/// write out what is new in it.
fn is_cached(file: &File) -> bool {
    let mut byte = [0; 1];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT);
    !matches!(read, Err(Errno::AGAIN))
}

/// Turns reading and writing past the page cache on or off. False: it stays as it was.
fn switch(file: &File, on: bool) -> bool {
    let Ok(flags) = fcntl_getfl(file) else { return false };
    let wanted = if on { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
    fcntl_setfl(file, wanted).is_ok()
}

/// The file system does not do this after all.
fn is_refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_length_are_copied_byte_for_byte() {
        let folder = tempfile::tempdir().unwrap();
        let large = usize::try_from(LARGE_BYTES).unwrap();
        for size in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, large - 1, large, large + 4096, large + 12_345] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let (from, to) = (folder.path().join("from"), folder.path().join("to"));
            std::fs::write(&from, &bytes).unwrap();
            // Once from the page cache, once from the disk.
            for _ in 0..2 {
                let mut source = Source::new(File::open(&from).unwrap());
                let mut target = Target::new(File::create(&to).unwrap(), source.is_large());
                let mut block = Block::new();
                loop {
                    let count = source.read(&mut block).unwrap();
                    if count == 0 {
                        break;
                    }
                    target.write(block.filled(count)).unwrap();
                }
                drop(target);
                assert!(std::fs::read(&to).unwrap() == bytes, "{size} bytes arrived differently");
                let file = File::open(&from).unwrap();
                file.sync_all().unwrap();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            }
        }
    }
}
