//! The arguments of a command: placeholders become paths, in one pass, so that a path is never read as a placeholder.

use std::ffi::OsString;

use crate::runner::Request;

/// The arguments of a command with its placeholders filled in. An argument that is nothing but `{inputs.NAME}` becomes
/// one argument for each artifact of the port.
pub fn arguments(argv: &[String], request: &Request) -> Vec<OsString> {
    argv.iter()
        .flat_map(|argument| match inputs_alone(argument, request) {
            Some(paths) => paths,
            None => vec![filled(argument, request)],
        })
        .collect()
}

fn inputs_alone(argument: &str, request: &Request) -> Option<Vec<OsString>> {
    let port = argument.strip_prefix("{inputs.")?.strip_suffix('}')?;
    if port.contains(['{', '}']) {
        return None;
    }
    let inputs = request.inputs.get(port).map_or(&[][..], Vec::as_slice);
    Some(
        inputs
            .iter()
            .map(|input| input.path.clone().into_os_string())
            .collect(),
    )
}

fn filled(argument: &str, request: &Request) -> OsString {
    let mut text = OsString::new();
    let mut rest = argument;
    while let Some(start) = rest.find('{') {
        text.push(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find('}').map_or(rest.len(), |end| end + 1);
        match meaning(&rest[..end], request) {
            Some(value) => {
                text.push(value);
                rest = &rest[end..];
            }
            None => {
                text.push("{");
                rest = &rest[1..];
            }
        }
    }
    text.push(rest);
    text
}

/// What a placeholder stands for; `None` for braces that are the program's own.
fn meaning(placeholder: &str, request: &Request) -> Option<OsString> {
    let inside = placeholder.strip_prefix('{')?.strip_suffix('}')?;
    if inside == "partial" {
        return Some(request.partial.clone().into_os_string());
    }
    if let Some(port) = inside.strip_prefix("outputs.") {
        return Some(request.outputs.get(port)?.clone().into_os_string());
    }
    let inputs = request.inputs.get(inside.strip_prefix("inputs.")?)?;
    let paths: Vec<OsString> = inputs
        .iter()
        .map(|input| input.path.clone().into())
        .collect();
    Some(paths.join(std::ffi::OsStr::new(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Shape;
    use crate::runner::RequestInput;
    use serde_json::Value;
    use std::collections::BTreeMap;

    #[test]
    fn placeholders_are_filled_once() {
        let mut request = crate::runner::request("command", Value::Null, "/p".into());
        let input = |path: &str| RequestInput {
            label: String::new(),
            digest: crate::digest::Digest::of(b""),
            shape: Shape::File,
            path: path.into(),
            parts: Vec::new(),
            facts: BTreeMap::new(),
        };
        let inputs = vec![input("/i/{partial}"), input("/i/2")];
        request.inputs.insert("a".to_owned(), inputs);
        request.outputs.insert("o".to_owned(), "/o".into());
        let argv = [
            "{inputs.a}",
            "x={inputs.a}",
            "{outputs.o}/{partial}",
            "{ {k} }",
            "${",
        ];
        let filled = arguments(&argv.map(str::to_owned), &request);
        let expected = [
            "/i/{partial}",
            "/i/2",
            "x=/i/{partial} /i/2",
            "/o//p",
            "{ {k} }",
            "${",
        ];
        assert_eq!(filled, expected.map(OsString::from));
    }
}
