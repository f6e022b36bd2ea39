//! The layout of a fastText `.bin`, checked before the crate `fasttext` reads it.
//!
//! The crate believes what a file says of its sizes: it reserves what they ask for and looks up rows by them. Here a
//! file is read once from end to end, and every size must agree with the others and with the bytes that are there.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

const MAGIC: i32 = 793_712_314;
const SUPERVISED: i32 = 3;

/// Longest character and word n-grams. Every word is cut into all of them when a file is opened.
const LONGEST_NGRAM: i32 = 64;

/// Bytes of the longest word.
const LONGEST_WORD: usize = 1 << 20;

/// Occurrences of a word; what is added up of them stays far from the end of an `i64`.
const MOST_OCCURRENCES: i64 = 1 << 40;

/// Centroids of each part of a quantised row.
const CENTROIDS: i64 = 256;

/// Sums of products of such values are finite, and so is every probability.
const LARGEST: f32 = 1e9;

/// Checks a file; the cause where it is no supervised model that can be used.
///
/// # Errors
/// What is wrong, and at which byte.
pub fn check(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut reader = Reader {
        bytes: BufReader::with_capacity(1 << 16, file),
        at: 0,
        length,
    };
    reader
        .model()
        .map_err(|cause| format!("{cause} (at byte {} of {length})", reader.at))
}

struct Reader<R> {
    bytes: R,
    at: u64,
    length: u64,
}

/// What the header says of the matrices.
struct Sizes {
    dim: i64,
    words: i64,
    labels: i64,
    buckets: i64,
    /// Rows of n-grams that were kept; below 0 where all were.
    pruned: i64,
}

impl<R: Read> Reader<R> {
    fn model(&mut self) -> Result<(), String> {
        if self.i32()? != MAGIC {
            return Err("it does not begin as a fastText model does".to_owned());
        }
        self.between("version", 11, 12)?;
        let mut sizes = self.arguments()?;
        self.dictionary(&mut sizes)?;
        self.matrices(&sizes)
    }

    fn arguments(&mut self) -> Result<Sizes, String> {
        let dim = self.between("dim", 1, i32::MAX)?;
        for _window_epochs_min_count_negatives in 0..4 {
            self.i32()?;
        }
        self.between("wordNgrams", 0, LONGEST_NGRAM)?;
        self.between("loss", 1, 4)?;
        if self.i32()? != SUPERVISED {
            return Err("it holds word vectors and no classifier".to_owned());
        }
        let buckets = self.between("bucket", 0, i32::MAX)?;
        self.between("minn", 0, LONGEST_NGRAM)?;
        self.between("maxn", 0, LONGEST_NGRAM)?;
        self.i32()?;
        self.array::<8>()?;
        Ok(Sizes {
            dim,
            words: 0,
            labels: 0,
            buckets,
            pruned: -1,
        })
    }

    fn dictionary(&mut self, sizes: &mut Sizes) -> Result<(), String> {
        // An entry has at least the end of its word, a count and a type.
        let most = i32::try_from(self.left() / 10).unwrap_or(i32::MAX);
        let entries = self.between("size", 1, most)?;
        sizes.words = self.between("nwords", 0, most)?;
        sizes.labels = self.between("nlabels", 1, most)?;
        if entries != sizes.words + sizes.labels {
            let (words, labels) = (sizes.words, sizes.labels);
            return Err(format!(
                "it says {entries} entries, {words} words and {labels} labels"
            ));
        }
        self.i64()?;
        sizes.pruned = self.i64()?;
        for entry in 0..entries {
            self.entry(entry, i64::from(entry >= sizes.words))?;
        }
        if sizes.pruned > (self.left() / 8) as i64 {
            return Err(format!("it says {} kept n-grams", sizes.pruned));
        }
        for _ in 0..sizes.pruned {
            self.i32()?;
            let row = i64::from(self.i32()?);
            if !(0..sizes.pruned).contains(&row) {
                return Err(format!("an n-gram is kept in row {row}"));
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: i64, expected: i64) -> Result<(), String> {
        let mut length = 0;
        while self.array::<1>()? != [0] {
            length += 1;
            if length > LONGEST_WORD {
                return Err(format!("entry {entry} is longer than {LONGEST_WORD} bytes"));
            }
        }
        let count = self.i64()?;
        if !(0..=MOST_OCCURRENCES).contains(&count) {
            return Err(format!("entry {entry} occurs {count} times"));
        }
        let [sort] = self.array()?;
        if i64::from(sort) != expected {
            return Err(format!(
                "entry {entry} has type {sort}, expected {expected}: words come first, then labels"
            ));
        }
        Ok(())
    }

    fn matrices(&mut self, sizes: &Sizes) -> Result<(), String> {
        let is_quantised = self.array()? != [0_u8];
        if !is_quantised && sizes.pruned >= 0 {
            return Err("its n-grams are pruned, but its rows are not quantised".to_owned());
        }
        let ngrams = match sizes.pruned {
            ..0 => sizes.buckets,
            kept => kept,
        };
        self.matrix("input", is_quantised, sizes.words + ngrams, sizes.dim)?;
        let is_quantised = self.array()? != [0_u8] && is_quantised;
        self.matrix("output", is_quantised, sizes.labels, sizes.dim)
    }

    fn matrix(
        &mut self,
        name: &str,
        is_quantised: bool,
        rows: i64,
        dim: i64,
    ) -> Result<(), String> {
        let has_norms = is_quantised && self.array()? != [0_u8];
        let (found_rows, found_dim) = (self.i64()?, self.i64()?);
        if found_rows < rows || found_dim != dim {
            return Err(format!(
                "the {name} matrix has {found_rows} rows of {found_dim}, expected {rows} of {dim}"
            ));
        }
        if !is_quantised {
            return self.floats(name, found_rows.checked_mul(dim));
        }
        let n_codes = i64::from(self.i32()?);
        self.skip(n_codes)?;
        let n_parts = self.quantizer(name, dim)?;
        if Some(n_codes) != found_rows.checked_mul(n_parts) {
            return Err(format!(
                "the {name} matrix has {n_codes} codes for {found_rows} rows in {n_parts} parts"
            ));
        }
        if has_norms {
            self.skip(found_rows)?;
            self.quantizer(name, 1)?;
        }
        Ok(())
    }

    /// The parts of a row.
    fn quantizer(&mut self, name: &str, dim: i64) -> Result<i64, String> {
        let found = i64::from(self.i32()?);
        let (parts, width) = (i64::from(self.i32()?), i64::from(self.i32()?));
        let last = i64::from(self.i32()?);
        let is_sound = found == dim
            && parts >= 1
            && (1..=dim).contains(&width)
            && (1..=width).contains(&last)
            && (parts - 1).checked_mul(width).map(|whole| whole + last) == Some(dim);
        if !is_sound {
            return Err(format!(
                "the {name} matrix is quantised in {parts} parts of {width} and a last one of {last} for rows of {found}"
            ));
        }
        self.floats(name, dim.checked_mul(CENTROIDS))?;
        Ok(parts)
    }

    fn floats(&mut self, name: &str, n: Option<i64>) -> Result<(), String> {
        let mut left = n.and_then(|n| n.checked_mul(4)).unwrap_or(i64::MAX);
        self.expect(left)?;
        let mut buffer = [0; 1 << 14];
        while left > 0 {
            let n_bytes = buffer.len().min(left as usize);
            self.fill(&mut buffer[..n_bytes])?;
            let (values, _) = buffer[..n_bytes].as_chunks::<4>();
            let is_usual = |value: &[u8; 4]| f32::from_le_bytes(*value).abs() <= LARGEST;
            if !values.iter().all(is_usual) {
                return Err(format!(
                    "the {name} matrix has a value that is no number up to {LARGEST}"
                ));
            }
            left -= n_bytes as i64;
        }
        Ok(())
    }

    fn skip(&mut self, n: i64) -> Result<(), String> {
        self.expect(n)?;
        let mut buffer = [0; 1 << 12];
        let mut left = n as usize;
        while left > 0 {
            let n_bytes = buffer.len().min(left);
            self.fill(&mut buffer[..n_bytes])?;
            left -= n_bytes;
        }
        Ok(())
    }

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }

    /// There are `n` more bytes.
    fn expect(&self, n: i64) -> Result<(), String> {
        match u64::try_from(n) {
            Ok(n) if n <= self.left() => Ok(()),
            _ => Err(format!("{n} bytes should follow, and {} do", self.left())),
        }
    }

    fn between(&mut self, name: &str, least: i32, most: i32) -> Result<i64, String> {
        let value = self.i32()?;
        match (least..=most).contains(&value) {
            true => Ok(i64::from(value)),
            false => Err(format!("`{name}` is {value}, expected {least} to {most}")),
        }
    }

    fn i32(&mut self) -> Result<i32, String> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, String> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.bytes
            .read_exact(bytes)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => "the file is cut".to_owned(),
                _ => error.to_string(),
            })?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}
