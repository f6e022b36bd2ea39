//! Documents on disk: JSON lines (plain or zstd) and plain text, read and written one record at a time.
//!
//! What a file holds is told by its first bytes, not by its name: the name of a shard says nothing. Every error names
//! the file, the line and the cause. Knows nothing of what is done to a document.
//!
//! A file may come from anywhere, and a few kilobytes of zstd can hold gigabytes: no line is longer than
//! [`LONGEST_LINE`], no plain text longer than [`LONGEST_TEXT`], and what is longer is refused before it is in memory.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use kbuild_engine::runner::{AtPath, Failure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One text with its identity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    /// Made from the content where the record has none; never from a path or a position.
    pub id: String,
    pub text: String,
    /// Whatever else is known. Fields of a record that are neither `id`, `text` nor `meta` end up here.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub meta: Map<String, Value>,
}

impl Document {
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            id: content_id(&text),
            text,
            meta: Map::new(),
        }
    }
}

/// The id of a text that has none: 24 hexadecimal digits of its BLAKE3.
pub fn content_id(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..24].to_owned()
}

/// A record as other programs write it.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    id: Option<Value>,
    text: String,
    #[serde(default, alias = "metadata")]
    meta: Option<Map<String, Value>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = Record::deserialize(deserializer)?;
        let id = match record.id {
            Some(Value::String(id)) => id,
            Some(Value::Number(number)) => number.to_string(),
            None | Some(Value::Null) => content_id(&record.text),
            Some(_) => {
                return Err(serde::de::Error::custom(
                    "`id` is neither text nor a number",
                ));
            }
        };
        let mut meta = record.meta.unwrap_or_default();
        for (name, value) in record.rest {
            meta.entry(name).or_insert(value);
        }
        Ok(Self {
            id,
            text: record.text,
            meta,
        })
    }
}

/// Bytes of the longest line, and so of the longest record: 64 MiB.
pub const LONGEST_LINE: usize = 64 << 20;

/// Bytes of the longest file of plain text, which is one document: 256 MiB.
pub const LONGEST_TEXT: usize = 256 << 20;

/// Zstd frames may look back as far as `zstd --long` does (2^27 bytes, 128 MiB): a reader must keep that much.
const WINDOW_LOG: u32 = 27;

/// The lines of a file, zstd or plain, with their numbers.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    number: u64,
}

impl Lines {
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self {
            path: path.to_owned(),
            reader: open_text(path)?,
            number: 0,
        })
    }

    /// The failure of the line that was read last.
    fn failure(&self, cause: impl std::fmt::Display) -> Failure {
        let place = format!("`{}`, line {}", self.path.display(), self.number);
        Failure::input(format!("{place}: {cause}"))
    }

    fn damaged(&self, error: &std::io::Error) -> Failure {
        if error.to_string().contains("too much memory") {
            let cause = format!(
                "the zstd window is larger than {} MiB",
                (1 << WINDOW_LOG) >> 20
            );
            return self
                .failure(cause)
                .help("compress it again without `--ultra` and with `--long=27` at most");
        }
        self.failure(format!("the file is damaged: {error}")).help(
            "lines before it are readable; restore the file, or cut it there and compress it again",
        )
    }

    fn too_long(&self) -> Failure {
        let cause = format!("the line is longer than {} MiB", LONGEST_LINE >> 20);
        self.failure(cause)
            .help("a record is one line: split its text into several records, or remove the line")
    }
}

impl Iterator for Lines {
    type Item = Result<String, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.number += 1;
        let mut bytes = Vec::new();
        let limit = LONGEST_LINE as u64 + 1;
        match (&mut self.reader).take(limit).read_until(b'\n', &mut bytes) {
            Ok(0) => None,
            Ok(n) if n > LONGEST_LINE && bytes.last() != Some(&b'\n') => Some(Err(self.too_long())),
            Ok(_) => Some(String::from_utf8(trim_end(bytes)).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                self.failure(format!("invalid UTF-8 at byte {at} of the line"))
                    .help("convert the file to UTF-8 (iconv) or remove the line")
            })),
            Err(error) => Some(Err(self.damaged(&error))),
        }
    }
}

fn trim_end(mut line: Vec<u8>) -> Vec<u8> {
    while line
        .last()
        .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
    {
        line.pop();
    }
    line
}

/// The records of a file of JSON lines, as `T`. Blank lines are skipped.
pub struct Records<T> {
    lines: Lines,
    record: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Records<T> {
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self {
            lines: Lines::open(path)?,
            record: PhantomData,
        })
    }
}

impl<T: DeserializeOwned> Iterator for Records<T> {
    type Item = Result<T, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.lines.next()? {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => line,
                Err(failure) => return Some(Err(failure)),
            };
            return Some(serde_json::from_str(&line).map_err(|error| {
                self.lines
                    .failure(format!("not a record as expected: {error}"))
                    .help("every line is one JSON object; see the format of the port in `kbuild kinds`")
            }));
        }
    }
}

/// The documents of a shard: JSON lines, or one document where the file is plain text.
pub fn read(path: &Path) -> Result<Box<dyn Iterator<Item = Result<Document, Failure>>>, Failure> {
    if looks_like_json(path)? {
        return Ok(Box::new(Records::<Document>::open(path)?));
    }
    let text = read_text(path)?;
    let document = (!text.is_empty()).then(|| Ok(Document::new(text)));
    Ok(Box::new(document.into_iter()))
}

/// Every document of a shard, for what needs them all at once.
pub fn read_all(path: &Path) -> Result<Vec<Document>, Failure> {
    read(path)?.collect()
}

/// The whole text of a file, zstd or plain.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    for (number, line) in Lines::open(path)?.enumerate() {
        let line = line?;
        if text.len() + line.len() >= LONGEST_TEXT {
            let limit = LONGEST_TEXT >> 20;
            let place = format!("`{}`, line {}", path.display(), number + 1);
            return Err(
                Failure::input(format!("{place}: the text is longer than {limit} MiB"))
                    .help("split it into several files, or write it as JSON lines"),
            );
        }
        if number > 0 {
            text.push('\n');
        }
        text.push_str(&line);
    }
    Ok(text)
}

/// True where the first line that is not blank begins a JSON object (an empty file counts as JSON).
///
/// # Errors
/// What was surely meant to be records and is none: a JSON array, or records of which the first is cut.
pub fn looks_like_json(path: &Path) -> Result<bool, Failure> {
    let lines = Lines::open(path)?;
    let mut filled =
        lines.filter(|line| line.as_ref().map_or(true, |line| !line.trim().is_empty()));
    let Some(first) = filled.next().transpose()? else {
        return Ok(true);
    };
    let first = first.trim_start();
    if first.starts_with('{') {
        return Ok(true);
    }
    let wrong = |what: &str, help: &str| {
        Err(Failure::input(format!("`{}` {what}", path.display())).help(help))
    };
    let second = filled.next().transpose()?.unwrap_or_default();
    let inside = first.strip_prefix('[').map(|rest| {
        if rest.trim().is_empty() {
            second.as_str()
        } else {
            rest
        }
    });
    if inside.is_some_and(|inside| inside.trim_start().starts_with('{')) {
        return wrong(
            "is one JSON array",
            "write one object a line: `jq -c '.[]' FILE`",
        );
    }
    let is_record = |line: &str| {
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line).is_ok()
    };
    if is_record(&second) {
        return wrong(
            "holds JSON lines, and the first is none",
            "the file is cut at its beginning, or has a line too many there",
        );
    }
    Ok(false)
}

const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const GZIP: &[u8] = &[0x1f, 0x8b];
const PARQUET: &[u8] = b"PAR1";
/// The byte order mark that some programs write before UTF-8.
const BOM: &[u8] = "\u{feff}".as_bytes();

fn open_text(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).at(path)?);
    let start = file.fill_buf().at(path)?;
    if start.starts_with(GZIP) {
        return Err(Failure::input(format!("`{}` is gzip", path.display()))
            .help("compress it with zstd instead: gzip -dc FILE.gz | zstd > FILE.zst"));
    }
    if start.starts_with(PARQUET) {
        return Err(Failure::input(format!("`{}` is Parquet", path.display()))
            .help("write it as JSON lines: pandas.read_parquet(FILE).to_json(OUT, orient=\"records\", lines=True)"));
    }
    let mut text: Box<dyn BufRead> = match start.starts_with(ZSTD) {
        true => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file).at(path)?;
            decoder.window_log_max(WINDOW_LOG).at(path)?;
            Box::new(BufReader::with_capacity(1 << 16, decoder))
        }
        false => Box::new(file),
    };
    // What is damaged is told with its line by whoever reads on.
    if text.fill_buf().is_ok_and(|start| start.starts_with(BOM)) {
        text.consume(BOM.len());
    }
    Ok(text)
}

/// Level of every shard that is written: part of the bytes, so part of a kind's version.
const LEVEL: i32 = 6;

/// Writes records as zstd JSON lines: the same records give the same bytes.
pub struct Writer {
    path: PathBuf,
    encoder: zstd::stream::write::Encoder<'static, BufWriter<File>>,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let file = BufWriter::new(File::create(path).at(path)?);
        let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL).at(path)?;
        encoder.include_checksum(true).at(path)?;
        Ok(Self {
            path: path.to_owned(),
            encoder,
        })
    }

    pub fn write<T: Serialize>(&mut self, record: &T) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(record)
            .map_err(|error| Failure::input(format!("a record cannot be written: {error}")))?;
        line.push(b'\n');
        self.encoder.write_all(&line).at(&self.path)
    }

    pub fn finish(self) -> Result<(), Failure> {
        let mut file = self.encoder.finish().at(&self.path)?;
        file.flush().at(&self.path)
    }
}

/// Writes `records` to one shard.
pub fn write_all<'a, T: Serialize + 'a>(
    path: &Path,
    records: impl IntoIterator<Item = &'a T>,
) -> Result<(), Failure> {
    let mut writer = Writer::create(path)?;
    for record in records {
        writer.write(record)?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(lines: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl.zst");
        std::fs::write(&path, zstd::encode_all(lines.as_bytes(), 3).unwrap()).unwrap();
        (directory, path)
    }

    #[test]
    fn records_of_other_programs_become_documents() {
        let lines = "{\"id\":7,\"text\":\"가나\",\"source\":\"x\"}\n\n{\"text\":\"b\",\"metadata\":{\"k\":1}}\n";
        let (_directory, path) = shard(lines);
        let documents = read_all(&path).unwrap();
        assert_eq!(documents[0].id, "7");
        assert_eq!(documents[0].meta["source"], "x");
        assert_eq!(documents[1].id, content_id("b"));
        assert_eq!(documents[1].meta["k"], 1);
    }

    #[test]
    fn what_was_meant_to_be_records_is_not_read_as_text() {
        let texts = |content: &str| {
            let (_folder, path) = shard(content);
            let read = read(&path)?.collect::<Result<Vec<Document>, Failure>>()?;
            Ok(read.into_iter().map(|document| document.text).collect())
        };
        let wrong = |content: &str| -> String {
            let read: Result<Vec<String>, Failure> = texts(content);
            read.unwrap_err().message
        };
        let records = "\u{feff}{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
        let read: Result<Vec<String>, Failure> = texts(records);
        assert_eq!(read.unwrap(), ["one", "two"], "after a byte order mark");
        let text = "[1] A reference.\n\n{braces} in a text\n";
        let read: Result<Vec<String>, Failure> = texts(text);
        assert_eq!(read.unwrap(), [text.trim_end()]);
        assert!(wrong("[{\"text\": \"one\"}]").contains("JSON array"));
        assert!(wrong("[\n  {\"text\": \"one\"}\n]").contains("JSON array"));
        assert!(wrong("cated\"}\n{\"text\": \"two\"}\n").contains("the first is none"));
        let (folder, _) = shard("");
        let path = folder.path().join("table.parquet");
        std::fs::write(&path, "PAR1\u{15}").unwrap();
        let told = super::read(&path).err().map(|failure| failure.message);
        assert!(told.unwrap().contains("Parquet"));
    }

    #[test]
    fn what_is_written_is_read_and_always_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let documents = vec![Document::new("one\ntwo"), Document::new("셋")];
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        for path in &paths {
            write_all(path, &documents).unwrap();
        }
        assert_eq!(read_all(&paths[0]).unwrap(), documents);
        assert_eq!(
            std::fs::read(&paths[0]).unwrap(),
            std::fs::read(&paths[1]).unwrap()
        );
    }

    #[test]
    fn a_plain_text_file_is_one_document() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.txt");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(read_all(&path).unwrap(), vec![Document::new("one\ntwo")]);
    }

    #[test]
    fn an_empty_shard_has_no_documents() {
        let (_directory, path) = shard("");
        assert_eq!(read_all(&path).unwrap(), vec![]);
    }

    #[test]
    fn bad_lines_are_named_by_file_line_and_cause() {
        let good = "{\"text\":\"a\"}\n";
        let (_directory, path) = shard(&format!("{good}{{\"text\": }}\n"));
        let failure = read_all(&path).unwrap_err();
        assert!(failure.message.contains("line 2"), "{failure}");
        assert!(failure.message.contains("a.jsonl.zst"), "{failure}");

        std::fs::write(&path, [good.as_bytes(), b"{\"text\":\"\xff\"}"].concat()).unwrap();
        let failure = read_all(&path).unwrap_err();
        assert!(
            failure.message.contains("line 2: invalid UTF-8 at byte 9"),
            "{failure}"
        );
    }

    #[test]
    fn a_damaged_frame_is_named_with_the_line_it_breaks_at() {
        let lines: String = (0..20_000)
            .map(|n| {
                format!(
                    "{{\"text\":\"{}\"}}\n",
                    blake3::hash(&[n as u8, (n >> 8) as u8])
                )
            })
            .collect();
        let (_directory, path) = shard(&lines);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let failure = read_all(&path).unwrap_err();
        assert!(failure.message.contains("the file is damaged"), "{failure}");
        assert!(!failure.message.contains("line 1:"), "{failure}");
        assert!(!failure.help.is_empty());
    }
}
