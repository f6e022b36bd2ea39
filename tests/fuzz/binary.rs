//! What the engine keeps as bytes: memos, seals and books. Their checksums are put right, or nothing else would ever be
//! looked at.

use std::fs;
use std::path::{Path, PathBuf};

use kbuild_engine::digest::Digest;
use kbuild_engine::store::{Grounds, Sealed, Stamp, Store};

const MEMO: &[u8] = b"kbmemo2\n";
const SEAL: &[u8] = b"kbseal2\n";

fn store(folder: &Path) -> Store {
    let store = Store::new(folder);
    store.create().expect("the folder is writable");
    store
}

fn checksum(bytes: &[u8]) -> [u8; 32] {
    *Digest::of(bytes).as_bytes()
}

/// A memo without its checksum; where it is none, the entries of each of its buckets.
pub fn memos(folder: &Path, bytes: &[u8]) -> String {
    let mut file = bytes.to_vec();
    if !bytes.starts_with(b"kbmemo") {
        let length = (bytes.len() as u64).to_le_bytes();
        file = [MEMO, &[&length, bytes].concat().repeat(64)].concat();
    }
    file.extend(checksum(&file));
    let store = store(folder);
    let path = folder.join("memo").join("sources");
    fs::write(&path, file).expect("the folder is writable");
    let (mut memo, warning) = store.memo("sources");
    let count = memo.len().min(3);
    let digest = memo.last(Path::new("a")).unwrap_or(Digest::of(bytes));
    let stamp = Stamp {
        size: 1,
        mtime_ns: 1,
        ctime_ns: 1,
        inode: 1,
    };
    memo.note(PathBuf::from("a"), stamp, digest, 0);
    store
        .save_memo("sources", &memo)
        .expect("the folder is writable");
    format!("{count} {}", warning.is_some())
}

/// A seal without its two checksums, asked its own question.
pub fn seals(folder: &Path, bytes: &[u8]) -> String {
    let store = store(folder);
    let (question, file) = sound_seal(bytes);
    let name = format!("seal-{}", &question.to_hex()[..32]);
    let path = folder.join("memo").join(name);
    fs::write(&path, file).expect("the folder is writable");
    let sealed = store.sealed(&question);
    let said = match &sealed {
        None => "nothing".to_owned(),
        Some(Sealed::Holds(_)) => "holds".to_owned(),
        Some(Sealed::Moved(moved)) => {
            let again = store.seal_again(&question, moved, b"notes", Grounds::default(), 0);
            format!("moved {} {:?}", moved.tasks.len().min(3), again.is_ok())
        }
    };
    let _ = fs::remove_file(path);
    said
}

/// The question, and the bytes with lengths that fit where they do not and checksums that are right.
fn sound_seal(bytes: &[u8]) -> (Digest, Vec<u8>) {
    let Some((head, parts)) = bytes.split_at_checked(SEAL.len() + 16) else {
        return (Digest::of(b""), bytes.to_vec());
    };
    let length = |at: usize| {
        let number = head[at..at + 8].try_into().expect("eight bytes");
        usize::try_from(u64::from_le_bytes(number)).expect("a usize has eight bytes")
    };
    let body_length = length(SEAL.len());
    let (body, rest) = parts.split_at(body_length.min(parts.len()));
    let question = body.first_chunk::<32>().copied().unwrap_or_default();
    let mut file = head[..SEAL.len()].to_vec();
    // A length that is wrong by far stays: it is looked at before any checksum.
    for (said, is) in [(body_length, body), (length(SEAL.len() + 8), rest)] {
        let said = if said > 1 << 20 { said } else { is.len() };
        file.extend((said as u64).to_le_bytes());
    }
    for part in [body, rest] {
        file.extend(part);
        file.extend(checksum(part));
    }
    (Digest::from_bytes(question), file)
}

/// A book with the name that its table has.
pub fn books(folder: &Path, bytes: &[u8]) -> String {
    let store = store(folder);
    let question = Digest::of(b"question");
    fs::write(book_path(folder, &question), bytes).expect("the folder is writable");
    let Some(book) = store.book(&question, &name_of(bytes)) else {
        return "no book".to_owned();
    };
    let pages = (0..5).chain([usize::MAX]).map(|index| book.page(index));
    let pages: Vec<Option<usize>> = pages.map(|page| Some(page?.len())).collect();
    format!("{pages:?}")
}

fn book_path(folder: &Path, question: &Digest) -> PathBuf {
    let name = format!("book-{}", &question.to_hex()[..32]);
    folder.join("memo").join(name)
}

/// The digest of the last rows, as many as the last eight bytes say.
fn name_of(bytes: &[u8]) -> Digest {
    let name = || {
        let (rest, count) = bytes.split_last_chunk::<8>()?;
        let length = u64::from_le_bytes(*count).checked_mul(40)?;
        let begin = rest.len().checked_sub(usize::try_from(length).ok()?)?;
        Some(Digest::of(&rest[begin..]))
    };
    name().unwrap_or_else(|| Digest::of(b""))
}
