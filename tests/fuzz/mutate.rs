//! From inputs to other inputs.
//!
//! Our own, since crates for it (`mutatis`, `arbitrary`, `bolero`) change typed values, or need a coverage-guided
//! engine; here a format is bytes, with JSON and words of the format in it.

use serde_json::Value;

use crate::random::Random;

/// Longest input.
const LONGEST: usize = 1 << 16;
const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "-0.0",
    "0.1",
    "99999999999999999999999",
];
const INTEGERS: [u64; 14] = [
    0,
    1,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 40,
    i64::MAX.cast_unsigned(),
    u64::MAX,
];
/// What opens something, for depth.
const OPENINGS: [&str; 8] = ["[", "{\"a\":", "(", "<div>", "{a=", "[[", "{{", "\""];

/// One of the inputs, changed in a few places.
pub fn mutate(random: &mut Random, inputs: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut bytes = inputs[random.below(inputs.len())].clone();
    let n_changes = 1 << random.below(4);
    for _ in 0..n_changes {
        change(random, &mut bytes, inputs, words);
        bytes.truncate(LONGEST);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, inputs: &[Vec<u8>], words: &[&str]) {
    match random.below(16) {
        0 => flip(random, bytes),
        1 => set_byte(random, bytes),
        2 => insert_noise(random, bytes),
        3 => drop(bytes.drain(range(random, bytes.len()))),
        4 => duplicate(random, bytes),
        5 => splice(random, bytes, inputs),
        6 | 7 => set_integer(random, bytes),
        8 => insert_word(random, bytes, words),
        9 | 10 => replace_number(random, bytes),
        11 | 12 => change_json(random, bytes),
        13 => swap_lines(random, bytes),
        14 => bytes.truncate(random.below(bytes.len() + 1)),
        _ => nest(random, bytes),
    }
}

/// Mostly short, anywhere.
fn range(random: &mut Random, length: usize) -> std::ops::Range<usize> {
    let start = random.below(length + 1);
    let most = match random.below(4) {
        0 => length,
        _ => 16,
    };
    let size = random.below((length - start).min(most) + 1);
    start..start + size
}

fn insert(bytes: &mut Vec<u8>, at: usize, new: impl IntoIterator<Item = u8>) {
    bytes.splice(at..at, new);
}

fn flip(random: &mut Random, bytes: &mut [u8]) {
    if !bytes.is_empty() {
        bytes[random.below(bytes.len())] ^= 1 << random.below(8);
    }
}

fn set_byte(random: &mut Random, bytes: &mut [u8]) {
    if !bytes.is_empty() {
        let byte = random.choice(b"\0\n\r\t \"'\\{}[]<>%#:,=-9\x7F\x80\xC0\xFF");
        bytes[random.below(bytes.len())] = byte;
    }
}

fn insert_noise(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    let count = 1 + random.below(8);
    let noise: Vec<u8> = (0..count).map(|_| random.next().to_le_bytes()[0]).collect();
    insert(bytes, at, noise);
}

fn duplicate(random: &mut Random, bytes: &mut Vec<u8>) {
    let copied = bytes[range(random, bytes.len())].to_vec();
    let at = random.below(bytes.len() + 1);
    let times = random.choice(&[1, 1, 1, 2, 100]);
    insert(bytes, at, copied.repeat(times));
}

/// The head of this one and the tail of another, or a piece of it in between.
fn splice(random: &mut Random, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
    let other = &inputs[random.below(inputs.len())];
    let piece = other[range(random, other.len())].to_vec();
    let at = random.below(bytes.len() + 1);
    if random.below(2) == 0 {
        bytes.truncate(at);
        bytes.extend(&other[at.min(other.len())..]);
    } else {
        insert(bytes, at, piece);
    }
}

fn set_integer(random: &mut Random, bytes: &mut [u8]) {
    let width = random.choice(&[1, 2, 4, 8, 8]);
    if bytes.len() < width {
        return;
    }
    let at = random.below(bytes.len() - width + 1);
    let length = bytes.len() as u64;
    let near = random.choice(&[0, 0, 0, 1, u64::MAX]);
    let mut numbers = INTEGERS.to_vec();
    numbers.extend([length, length - at as u64]);
    let number = random.choice(&numbers).wrapping_add(near);
    bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
}

fn insert_word(random: &mut Random, bytes: &mut Vec<u8>, words: &[&str]) {
    if !words.is_empty() {
        let at = random.below(bytes.len() + 1);
        insert(bytes, at, random.choice(words).bytes());
    }
}

/// Another number where there is one in decimal digits.
fn replace_number(random: &mut Random, bytes: &mut Vec<u8>) {
    let starts: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes[*at].is_ascii_digit())
        .filter(|at| *at == 0 || !bytes[*at - 1].is_ascii_digit())
        .collect();
    if starts.is_empty() {
        return;
    }
    let start = random.choice(&starts);
    let digits = bytes[start..].iter().take_while(|b| b.is_ascii_digit());
    let end = start + digits.count();
    bytes.splice(start..end, random.choice(&NUMBERS).bytes());
}

fn swap_lines(random: &mut Random, bytes: &mut Vec<u8>) {
    let mut lines: Vec<Vec<u8>> = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    if lines.len() > 1 {
        let (a, b) = (random.below(lines.len()), random.below(lines.len()));
        lines.swap(a, b);
        *bytes = lines.concat();
    }
}

/// So deep that what recurs without a limit runs out of stack.
fn nest(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    let times = random.choice(&[3, 100, 300, 10_000]);
    let opening = random.choice(&OPENINGS);
    insert(bytes, at, opening.repeat(times).into_bytes());
}

/// Changes a value of the JSON that the input is, or that one of its lines is.
fn change_json(random: &mut Random, bytes: &mut Vec<u8>) {
    let whole = 0..bytes.len();
    let range = match serde_json::from_slice::<Value>(bytes) {
        Ok(_) => whole,
        Err(_) => line(random, bytes),
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(&bytes[range.clone()]) else {
        return;
    };
    let other = nodes(&mut value).len();
    let other = nodes(&mut value)[random.below(other)].clone();
    change_node(random, &mut value, other);
    if let Ok(text) = serde_json::to_vec(&value) {
        bytes.splice(range, text);
    }
}

/// A line without its end.
fn line(random: &mut Random, bytes: &[u8]) -> std::ops::Range<usize> {
    let at = random.below(bytes.len() + 1);
    let start = bytes[..at].iter().rposition(|byte| *byte == b'\n');
    let start = start.map_or(0, |before| before + 1);
    let end = bytes[at..].iter().position(|byte| *byte == b'\n');
    start..end.map_or(bytes.len(), |length| at + length)
}

/// Every value of a document, copied.
fn nodes(value: &mut Value) -> Vec<Value> {
    let mut found = vec![value.clone()];
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| found.extend(nodes(item))),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|item| found.extend(nodes(item))),
        _ => {}
    }
    found
}

/// Walks down to a value by chance, and changes it.
fn change_node(random: &mut Random, value: &mut Value, other: Value) {
    let goes_down = random.below(5) > 0;
    match value {
        Value::Array(items) if goes_down && !items.is_empty() => {
            let at = random.below(items.len());
            match random.below(8) {
                0 => drop(items.remove(at)),
                1 => items.insert(at, items[at].clone()),
                2 => items.push(other),
                _ => change_node(random, &mut items[at], other),
            }
        }
        Value::Object(fields) if goes_down && !fields.is_empty() => {
            let at = random.below(fields.len());
            let Some(name) = fields.keys().nth(at).cloned() else {
                return;
            };
            match random.below(8) {
                0 => drop(fields.remove(&name)),
                1 => drop(fields.insert(format!("{name}2"), fields[&name].clone())),
                _ => change_node(random, &mut fields[&name], other),
            }
        }
        _ => *value = another(random, value, other),
    }
}

fn another(random: &mut Random, value: &Value, other: Value) -> Value {
    let number = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    match random.below(8) {
        0 => Value::Null,
        1 => Value::Bool(random.below(2) == 0),
        2 | 3 => number(random.choice(&NUMBERS)),
        4 => Value::from(random.choice(&["", "\u{0}", "한국어", "../..", "\\", "{", "a b"])),
        5 => Value::Array(vec![value.clone(); random.below(3)]),
        6 => serde_json::json!({ "a": value }),
        _ => other,
    }
}
