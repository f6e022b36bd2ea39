//! How much an attempt may say: bytes of its log, and events that are no results.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use super::protocol::Event;

/// Bytes of a log that are kept from its beginning, and as many from its end.
const HALF: u64 = 32 << 20;

/// The log of one attempt, which the attempt appends to directly. What is too much in the middle gives its room back
/// while the attempt runs, and goes when it has ended.
pub struct Log {
    file: File,
    /// Where the attempt begins.
    begin: u64,
    half: u64,
}

impl Log {
    pub fn new(file: File) -> Self {
        Self::of(file, HALF)
    }

    fn of(file: File, half: u64) -> Self {
        let begin = file.metadata().map_or(0, |log| log.len());
        Self { file, begin, half }
    }

    /// Gives room back again and again; never returns.
    pub async fn keep_small(&self) -> std::convert::Infallible {
        const PERIOD: Duration = Duration::from_millis(200);
        loop {
            tokio::time::sleep(PERIOD).await;
            let _ = self.punch();
        }
    }

    /// What is left out now: nothing, or from where to where.
    fn middle(&self) -> std::io::Result<Option<(u64, u64)>> {
        let length = self.file.metadata()?.len();
        let (from, to) = (self.begin + self.half, length.saturating_sub(self.half));
        Ok((from < to).then_some((from, to)))
    }

    fn punch(&self) -> std::io::Result<()> {
        let Some((from, to)) = self.middle()? else {
            return Ok(());
        };
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, hole, from, to - from) {
            // A filesystem without holes: the end goes too. Whoever appends goes on at the new end.
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(from),
            result => Ok(result?),
        }
    }

    /// Takes the middle out; to be called when nobody writes any more.
    pub fn close(mut self) -> std::io::Result<()> {
        let Some((from, to)) = self.middle()? else {
            return Ok(());
        };
        let mut tail = vec![0; usize::try_from(self.half).unwrap_or(0)];
        self.file.read_exact_at(&mut tail, to)?;
        self.file.set_len(from)?;
        self.file.seek(SeekFrom::End(0))?;
        let left_out = to - from;
        write!(
            self.file,
            "\n[kbuild left out {left_out} bytes of this log]\n"
        )?;
        self.file.write_all(&tail)
    }
}

/// What an attempt may still say to people.
pub struct Talk {
    bytes: usize,
    last: Instant,
    was_told: bool,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    Passes,
    Dropped,
    /// The first that is dropped: it is told once.
    DroppedFirst,
}

impl Talk {
    /// Bytes of lines that pass whatever their rate is.
    const PLENTY: usize = 16 << 20;
    /// Later there is one in this time.
    const SPACING: Duration = Duration::from_millis(50);

    pub fn new() -> Self {
        Self {
            bytes: 0,
            last: Instant::now(),
            was_told: false,
        }
    }

    /// Whether an event passes whose line had this many bytes. Results always do.
    pub fn judge(&mut self, event: &Event, bytes: usize) -> Fate {
        if matches!(
            event,
            Event::Fact { .. } | Event::Part { .. } | Event::Failed { .. }
        ) {
            return Fate::Passes;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= Self::PLENTY {
            return Fate::Passes;
        }
        // Large ones do not pass at any rate.
        if bytes < 1024 && self.last.elapsed() >= Self::SPACING {
            self.last = Instant::now();
            return Fate::Passes;
        }
        match std::mem::replace(&mut self.was_told, true) {
            true => Fate::Dropped,
            false => Fate::DroppedFirst,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_head_and_its_tail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "before ").unwrap();
        let open = || File::options().append(true).read(true).open(&path).unwrap();
        let log = Log::of(open(), 4);
        open().write_all(b"headxxxxxxxxxxxxxx").unwrap();
        log.punch().unwrap();
        open().write_all(b"tail").unwrap();
        log.close().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("before head\n[kbuild left out 14 bytes"),
            "{text}"
        );
        assert!(text.ends_with("]\ntail"), "{text}");
        let log = Log::of(open(), 4);
        open().write_all(b"12345678").unwrap();
        log.close().unwrap();
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .ends_with("tail12345678")
        );
    }

    #[test]
    fn talk_has_an_end_and_results_have_none() {
        let mut talk = Talk::new();
        let note = Event::Note {
            text: String::new(),
        };
        let half = Talk::PLENTY / 2;
        assert_eq!(talk.judge(&note, half), Fate::Passes);
        assert_eq!(talk.judge(&note, half), Fate::Passes);
        assert_eq!(talk.judge(&note, half), Fate::DroppedFirst);
        assert_eq!(talk.judge(&note, half), Fate::Dropped);
        assert_eq!(talk.judge(&Event::Part { index: 0 }, half), Fate::Passes);
    }
}
