//! What a child writes to its standard output, line by line, with a limit on each.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::protocol::{Event, FailureClass};

/// Longest line that is read as an event; what is longer goes to the log in pieces.
pub const LONGEST: usize = 1 << 20;

/// The next line without its end, cut at [`LONGEST`] bytes; `None` at the end of the stream.
pub async fn next<R: AsyncBufRead + Unpin>(reader: &mut R) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok((!line.is_empty()).then_some(line));
        }
        let room = LONGEST - line.len();
        let window = &available[..available.len().min(room)];
        if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&window[..end]);
            reader.consume(end + 1);
            return Ok(Some(line));
        }
        let taken = window.len();
        line.extend_from_slice(window);
        reader.consume(taken);
        if line.len() == LONGEST {
            return Ok(Some(line));
        }
    }
}

/// The event of a line, if it is one.
pub fn event(line: &[u8]) -> Option<Event> {
    if line.first() != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(line).ok().or_else(|| unclear(line))
}

/// A failure that is told in a way that nobody here understands is a failure all the same.
fn unclear(line: &[u8]) -> Option<Event> {
    let said: serde_json::Value = serde_json::from_slice(line).ok()?;
    (said.get("event")?.as_str()? == "failed").then(|| {
        let text = |name: &str| said.get(name).and_then(serde_json::Value::as_str);
        Event::Failed {
            class: FailureClass::Bug,
            message: text("message")
                .map_or_else(|| String::from_utf8_lossy(line).into_owned(), str::to_owned),
            help: text("help").unwrap_or_default().to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(bytes: &[u8]) -> Vec<usize> {
        let mut reader = tokio::io::BufReader::with_capacity(7, bytes);
        let mut lengths = Vec::new();
        while let Some(line) = next(&mut reader).await.unwrap() {
            lengths.push(line.len());
        }
        lengths
    }

    #[tokio::test]
    async fn splits_and_limits() {
        assert_eq!(all(b"ab\n\ncdefghijkl\nno end").await, [2, 0, 10, 6]);
        let long = vec![b'x'; LONGEST + 3];
        assert_eq!(all(&long).await, [LONGEST, 3]);
    }

    #[test]
    fn a_failure_of_an_unknown_class_is_a_failure() {
        let failed = |message: &str, help: &str| {
            Some(Event::Failed {
                class: FailureClass::Bug,
                message: message.to_owned(),
                help: help.to_owned(),
            })
        };
        let line = br#"{"event":"failed","class":"weather","message":"rain","help":"wait"}"#;
        assert_eq!(event(line), failed("rain", "wait"));
        let line = r#"{"event":"failed"}"#;
        assert_eq!(event(line.as_bytes()), failed(line, ""));
    }

    #[test]
    fn only_events_are_events() {
        assert_eq!(
            event(br#"{"event":"part","index":3}"#),
            Some(Event::Part { index: 3 })
        );
        for line in ["", "hello", "{", r#"{"event":"nonsense"}"#, "\u{0}"] {
            assert_eq!(event(line.as_bytes()), None, "{line:?}");
        }
    }
}
