//! Data of strangers: what would fill the memory is refused with its place.

use std::fs;
use std::io::Write;

use kbuild_tasks::formats::documents::{Document, Records};

/// A file of a few KiB that unpacks to one line of 1 GiB.
fn bomb() -> Vec<u8> {
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let spaces = vec![b' '; 1 << 20];
    for _ in 0..1024 {
        packed.write_all(&spaces).unwrap();
    }
    packed.finish().unwrap()
}

#[test]
fn a_line_without_an_end_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.jsonl.zst");
    let bytes = bomb();
    assert!(bytes.len() < 1 << 20);
    fs::write(&path, bytes).unwrap();
    let read =
        Records::<Document>::open(&path).and_then(|rows| rows.collect::<Result<Vec<_>, _>>());
    let failure = read.map(|rows| rows.len()).unwrap_err();
    assert!(failure.message.contains("bomb.jsonl.zst"), "{failure:?}");
    assert!(failure.message.contains("64 MiB"), "{failure:?}");
}
