//! Books: pages of which a few can be read without the rest. Beside each seal lies one that says what its tasks are.
//! Disposable.
//!
//! ```text
//! page  page  …  for each page: where it ends (8 bytes, little end first) and its BLAKE3  number of pages (8 bytes)
//! ```
//!
//! A book is called for by the digest of its table, which holds those of its pages: what is read is what was written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Store;
use super::root::{MOST, Root};
use crate::digest::Digest;
use crate::error::{Doing, Error};

/// Bytes of a page in the table.
const ROW: usize = 8 + 32;

/// A book that is open.
#[derive(Debug)]
pub struct Book {
    file: File,
    /// Where the pages end.
    begin: u64,
    table: Vec<u8>,
}

impl Book {
    /// Writes a book by rename, unless it is there.
    pub(super) fn write(
        store: &Store,
        path: &Path,
        pages: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Digest, Error> {
        let (root, temporary) = (store.below(), store.temporary());
        let written = root
            .create_new(&temporary)
            .and_then(|file| Self::write_to(file, pages))
            .and_then(|name| match Self::open(root, path, &name) {
                Some(_) => root.remove_file(&temporary).map(|()| name),
                None => root.rename(&temporary, path).map(|()| name),
            })
            .doing("write", path);
        if written.is_err() {
            let _ = root.remove_file(&temporary);
        }
        written
    }

    fn write_to(file: File, pages: impl Iterator<Item = Vec<u8>>) -> std::io::Result<Digest> {
        let mut file = BufWriter::new(file);
        let (mut table, mut end) = (Vec::new(), 0);
        for page in pages {
            file.write_all(&page)?;
            end += page.len() as u64;
            table.extend(end.to_le_bytes());
            table.extend(Digest::of(&page).as_bytes());
        }
        file.write_all(&table)?;
        file.write_all(&((table.len() / ROW) as u64).to_le_bytes())?;
        file.flush()?;
        Ok(Digest::of(&table))
    }

    /// The book of this name, if it lies there.
    pub(super) fn open(root: &Root, path: &Path, name: &Digest) -> Option<Self> {
        let (file, found) = root.open_seen(path).ok()?;
        let end = Some(found.len()).filter(|length| *length <= MOST)?;
        let end = end.checked_sub(8)?;
        let mut count = [0; 8];
        file.read_exact_at(&mut count, end).ok()?;
        let length = u64::from_le_bytes(count).checked_mul(ROW as u64)?;
        let begin = end.checked_sub(length)?;
        let mut table = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut table, begin).ok()?;
        (Digest::of(&table) == *name).then_some(Self { file, begin, table })
    }

    /// Page number `index`, from 0; `None` when it is not there or not what it was.
    pub fn page(&self, index: usize) -> Option<Vec<u8>> {
        let begin = match index.checked_sub(1) {
            None => 0,
            Some(before) => self.row(before)?.0,
        };
        let (end, digest) = self.row(index)?;
        if end > self.begin {
            return None;
        }
        let mut page = vec![0; usize::try_from(end.checked_sub(begin)?).ok()?];
        self.file.read_exact_at(&mut page, begin).ok()?;
        (Digest::of(&page).as_bytes() == digest).then_some(page)
    }

    fn row(&self, index: usize) -> Option<(u64, &[u8])> {
        let rows = self.table.get(index.checked_mul(ROW)?..)?;
        let (end, digest) = rows.first_chunk::<ROW>()?.split_first_chunk()?;
        Some((u64::from_le_bytes(*end), digest))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_page_is_what_was_written_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        store.create().unwrap();
        let path = folder.path().join("book");
        let pages = || ["zero", "", "two"].map(|page| page.as_bytes().to_vec());
        let name = Book::write(&store, &path, pages().into_iter()).unwrap();
        let book = Book::open(store.below(), &path, &name).unwrap();
        for (index, page) in pages().into_iter().enumerate() {
            assert_eq!(book.page(index), Some(page));
        }
        assert_eq!(book.page(3), None);
        assert!(Book::open(store.below(), &path, &Digest::of(b"another")).is_none());
        let sound = fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut flipped = sound.clone();
            flipped[at] ^= 1;
            for bytes in [&flipped[..], &sound[..at]] {
                fs::write(&path, bytes).unwrap();
                let Some(book) = Book::open(store.below(), &path, &name) else {
                    continue;
                };
                for (index, page) in pages().into_iter().enumerate() {
                    assert!(book.page(index).is_none_or(|read| read == page), "at {at}");
                }
            }
        }
        let too_long = [&[0xFF_u8; 8][..], &[0; 32]].concat();
        fs::write(&path, [&too_long[..], &1_u64.to_le_bytes()].concat()).unwrap();
        let book = Book::open(store.below(), &path, &Digest::of(&too_long)).unwrap();
        assert_eq!(book.page(0), None);
        fs::remove_file(&path).unwrap();
        let again = Book::write(&store, &path, pages().into_iter()).unwrap();
        assert_eq!(again, name);
        assert_eq!(fs::read(&path).unwrap(), sound);
    }
}
