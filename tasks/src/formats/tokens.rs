//! Token shards in datatrove's layout: a directory with `tokens.ds` (u16 or u32, little-endian), `tokens.ds.index`
//! (u64 document ends, in tokens) and `tokens.ds.metadata` (text).
//!
//! datatrove 0.10 `pipeline/tokens/tokenizer.py`. Knows nothing of tokenizers but the name that the metadata carries.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use kbuild_engine::runner::{AtPath, Failure};

const TOKENS: &str = "tokens.ds";
const INDEX: &str = "tokens.ds.index";
const METADATA: &str = "tokens.ds.metadata";

/// Bytes per token id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    U16,
    U32,
}

impl Width {
    /// u16 where every id of the vocabulary fits.
    pub fn of_vocabulary(size: usize) -> Self {
        if size <= 1 << 16 {
            Self::U16
        } else {
            Self::U32
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    fn encode(self, tokens: &[u32]) -> Vec<u8> {
        match self {
            Self::U16 => tokens
                .iter()
                .flat_map(|token| (*token as u16).to_le_bytes())
                .collect(),
            Self::U32 => tokens
                .iter()
                .flat_map(|token| token.to_le_bytes())
                .collect(),
        }
    }

    fn decode(self, bytes: &[u8], out: &mut Vec<u32>) {
        match self {
            Self::U16 => out.extend(
                bytes
                    .chunks_exact(2)
                    .map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))),
            ),
            Self::U32 => out.extend(
                bytes
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            ),
        }
    }
}

/// Writes one shard.
pub struct ShardWriter {
    directory: PathBuf,
    tokens: BufWriter<File>,
    width: Width,
    tokenizer: String,
    ends: Vec<u64>,
}

impl ShardWriter {
    /// `directory` is made if it is not there; `tokenizer` is the name in the metadata.
    pub fn create(directory: &Path, tokenizer: &str, width: Width) -> Result<Self, Failure> {
        std::fs::create_dir_all(directory).at(directory)?;
        let path = directory.join(TOKENS);
        Ok(Self {
            directory: directory.to_owned(),
            tokens: BufWriter::new(File::create(&path).at(&path)?),
            width,
            tokenizer: tokenizer.to_owned(),
            ends: Vec::new(),
        })
    }

    /// Adds one document; every id is below the size that the width was made for.
    pub fn push(&mut self, document: &[u32]) -> Result<(), Failure> {
        let start = self.n_tokens();
        self.ends.push(start + document.len() as u64);
        let bytes = self.width.encode(document);
        self.tokens
            .write_all(&bytes)
            .at(&self.directory.join(TOKENS))
    }

    pub fn n_tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    pub fn n_documents(&self) -> u64 {
        self.ends.len() as u64
    }

    pub fn finish(mut self) -> Result<(), Failure> {
        self.tokens.flush().at(&self.directory.join(TOKENS))?;
        let index: Vec<u8> = self.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        let path = self.directory.join(INDEX);
        std::fs::write(&path, index).at(&path)?;
        let n_tokens = self.n_tokens();
        let metadata = format!(
            "{}|{}\n{n_tokens}\n{}",
            self.tokenizer,
            self.width.bytes(),
            metric(n_tokens)
        );
        let path = self.directory.join(METADATA);
        std::fs::write(&path, metadata).at(&path)
    }
}

/// `1.23 MT`, as Python's `humanize.metric(n, "T")` prints it: three significant digits.
fn metric(n: u64) -> String {
    let (mut value, mut prefix) = (n as f64, 0);
    while value >= 999.5 && prefix < 6 {
        value /= 1000.0;
        prefix += 1;
    }
    let digits = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let prefix = ["", "k", "M", "G", "T", "P", "E"][prefix];
    format!("{value:.digits$} {prefix}T")
}

/// One shard, mapped into memory.
struct Shard {
    tokens: Option<memmap2::Mmap>,
    width: Width,
    /// Document ends within the shard, in tokens.
    ends: Vec<u64>,
}

/// Shards in order, as one sequence of tokens cut into documents.
pub struct TokenShards {
    shards: Vec<Shard>,
    /// First token of each shard, and the total at the end.
    starts: Vec<u64>,
    /// End of every document in the whole sequence.
    ends: Vec<u64>,
}

impl TokenShards {
    /// Opens the parts of a `tokens` artifact (`context.one("tokens").parts`).
    pub fn open<P: AsRef<Path>>(parts: &[P]) -> Result<Self, Failure> {
        let mut shards = Vec::new();
        let (mut starts, mut ends) = (vec![0], Vec::new());
        for part in parts {
            let shard = open_shard(part.as_ref())?;
            let start = starts[starts.len() - 1];
            ends.extend(shard.ends.iter().map(|end| start + end));
            starts.push(start + shard.ends.last().copied().unwrap_or(0));
            shards.push(shard);
        }
        Ok(Self {
            shards,
            starts,
            ends,
        })
    }

    pub fn n_tokens(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    pub fn n_documents(&self) -> usize {
        self.ends.len()
    }

    /// Tokens of a document, as a range of the whole sequence. The last of them is the end-of-text token.
    pub fn document(&self, index: usize) -> Range<u64> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[index]
    }

    pub fn documents(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        (0..self.n_documents()).map(|index| self.document(index))
    }

    /// Appends the tokens of `range` of the whole sequence to `out`; the range must lie inside.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) {
        assert!(
            range.end <= self.n_tokens(),
            "the range ends past the tokens"
        );
        let mut at = range.start;
        let mut index = self.starts.partition_point(|start| *start <= at) - 1;
        while at < range.end {
            let stop = range.end.min(self.starts[index + 1]);
            let local = (at - self.starts[index], stop - self.starts[index]);
            self.shards[index].read(local.0 as usize..local.1 as usize, out);
            at = stop;
            index += 1;
        }
    }

    /// The tokens of `range` of the whole sequence.
    pub fn tokens(&self, range: Range<u64>) -> Vec<u32> {
        let mut out = Vec::with_capacity((range.end - range.start) as usize);
        self.read(range, &mut out);
        out
    }
}

impl Shard {
    fn read(&self, range: Range<usize>, out: &mut Vec<u32>) {
        if let Some(tokens) = &self.tokens {
            let width = self.width.bytes();
            self.width
                .decode(&tokens[range.start * width..range.end * width], out);
        }
    }
}

fn open_shard(directory: &Path) -> Result<Shard, Failure> {
    let path = directory.join(METADATA);
    let metadata = std::fs::read_to_string(&path).at(&path)?;
    let width = width_of(&metadata).ok_or_else(|| {
        Failure::input(format!(
            "`{}`: the first line should end in `|2` or `|4`, found `{}`",
            path.display(),
            metadata.lines().next().unwrap_or("")
        ))
    })?;
    let path = directory.join(INDEX);
    let index = std::fs::read(&path).at(&path)?;
    let ends: Vec<u64> = index
        .chunks_exact(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("chunks of eight")))
        .collect();
    if index.len() % 8 != 0 || ends.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(damaged(
            &path,
            "document ends must be u64 and never decrease",
        ));
    }
    let path = directory.join(TOKENS);
    let file = File::open(&path).at(&path)?;
    let length = file.metadata().at(&path)?.len();
    let expected = ends.last().copied().unwrap_or(0);
    let expected = expected.saturating_mul(width.bytes() as u64);
    if length != expected {
        let found = format!("the index says {expected} bytes, found {length}");
        return Err(damaged(&path, &found));
    }
    // An empty file cannot be mapped.
    let tokens = (length > 0).then(|| map(&file)).transpose().at(&path)?;
    Ok(Shard {
        tokens,
        width,
        ends,
    })
}

fn width_of(metadata: &str) -> Option<Width> {
    match metadata.lines().next()?.rsplit('|').next()? {
        "2" => Some(Width::U16),
        "4" => Some(Width::U32),
        _ => None,
    }
}

fn damaged(path: &Path, cause: &str) -> Failure {
    Failure::input(format!("`{}` is damaged: {cause}", path.display()))
        .help("make the tokens again from their documents")
}

/// Maps a shard. Its length is checked when it is opened and its ids are plain bytes.
#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: a shard is a finished artifact, written once and read-only from then on; any bytes are valid ids.
    unsafe { memmap2::Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, width: Width, documents: &[&[u32]]) {
        let mut writer = ShardWriter::create(directory, "t", width).unwrap();
        for document in documents {
            writer.push(document).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn shards_read_as_one_sequence_of_documents() {
        let root = tempfile::tempdir().unwrap();
        let parts = ["a", "b", "c"].map(|name| root.path().join(name));
        write(&parts[0], Width::U16, &[&[1, 2], &[65_535]]);
        write(&parts[1], Width::U16, &[]);
        write(&parts[2], Width::U32, &[&[70_000, 5, 6]]);
        let shards = TokenShards::open(&parts).unwrap();
        assert_eq!(shards.n_tokens(), 6);
        assert_eq!(
            shards.documents().collect::<Vec<_>>(),
            vec![0..2, 2..3, 3..6]
        );
        assert_eq!(shards.tokens(0..6), vec![1, 2, 65_535, 70_000, 5, 6]);
        assert_eq!(shards.tokens(2..4), vec![65_535, 70_000]);
        assert_eq!(shards.tokens(3..3), Vec::<u32>::new());
    }

    #[test]
    fn the_layout_is_datatroves() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), Width::U16, &[&[1, 2], &[3]]);
        let bytes = |name: &str| std::fs::read(root.path().join(name)).unwrap();
        assert_eq!(bytes("tokens.ds"), [1, 0, 2, 0, 3, 0]);
        assert_eq!(
            bytes("tokens.ds.index"),
            [2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(bytes("tokens.ds.metadata"), b"t|2\n3\n3.00 T");
    }

    #[test]
    fn human_counts_are_humanizes() {
        assert_eq!(metric(1_234_567), "1.23 MT");
        assert_eq!(metric(12_345), "12.3 kT");
        assert_eq!(metric(999), "999 T");
        assert_eq!(metric(999_999), "1.00 MT");
    }

    #[test]
    fn a_truncated_shard_is_refused() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), Width::U16, &[&[1, 2], &[3]]);
        std::fs::write(root.path().join("tokens.ds"), [1, 0]).unwrap();
        let failure = TokenShards::open(&[root.path()]).err().unwrap();
        assert!(failure.message.contains("damaged"), "{failure}");
    }
}
