//! The limits that are part of the wire: both sides of a border keep them. What an operator may change is in the
//! agent's and the client's configuration, with these as defaults.

/// Largest ticket, record or event message in bytes. Below the server's `max_payload` of 1 MiB that farms start with.
pub const MAX_MESSAGE_BYTES: usize = 1_000_000;

/// Largest value that travels inside a ticket or a record, in bytes; what is above goes to the object store.
pub const INLINE_BYTES: usize = 128 * 1024;

/// Largest frame on the worker link, in bytes.
pub const MAX_FRAME_BYTES: usize = 8 * 1024 * 1024;

/// Most arguments, positional and named together, of one job.
pub const MAX_ARGUMENTS: usize = 1_000;

/// Deepest nesting of a JSON value that is walked (for `$object` and `$file` marks).
pub const MAX_DEPTH: usize = 64;

/// Most moments kept in a record's history; the first and the newest stay.
pub const MAX_HISTORY: usize = 32;

/// Most bytes of an error's message or traceback that a record keeps; the end is kept.
pub const MAX_FAILURE_TEXT_BYTES: usize = 16 * 1024;

/// Most bytes of a moment's note; the start is kept.
pub const MAX_NOTE_BYTES: usize = 512;

/// Largest manifest file, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1024 * 1024;

/// A lease when nothing else is asked for, in seconds.
pub const LEASE_S: u32 = 30;

/// Shortest and longest lease that may be asked for, in seconds.
pub const LEASE_RANGE_S: std::ops::RangeInclusive<u32> = 10..=86_400;

/// Cuts a text to its last `limit` bytes, at a character's border, and says that it did.
pub fn keep_end(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut start = text.len() - limit;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    format!("[{start} bytes left out] {}", &text[start..])
}

/// Cuts a text to its first `limit` bytes, at a character's border, and says that it did.
pub fn keep_start(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} [{} bytes left out]", &text[..end], text.len() - end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_at_a_character() {
        assert_eq!(keep_end("abc", 3), "abc");
        assert_eq!(keep_end("aéb", 2), "[3 bytes left out] b");
        assert_eq!(keep_end("abcdef", 2), "[4 bytes left out] ef");
        assert_eq!(keep_start("aéb", 2), "a [3 bytes left out]");
        assert_eq!(keep_start("abc", 3), "abc");
    }
}
