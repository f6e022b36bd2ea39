//! Chat templates: the Jinja of `transformers`, rendered with minijinja.
//!
//! `{% generation %}` marks what the assistant says; it changes no text and is read as `{% if true %}`. Spans for the
//! loss are not taken from it (many templates have none) but from rendering prefixes.

use std::path::Path;

use kbuild_engine::runner::Failure;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::chat::Message;

/// A parsed chat template.
pub struct Template {
    source: String,
    environment: Environment<'static>,
}

const NAME: &str = "chat_template";

impl Template {
    /// `path` is for messages alone.
    pub fn parse(source: &str, path: &Path) -> Result<Self, Failure> {
        let mut environment = Environment::new();
        // As transformers sets Jinja up.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the standard delimiters");
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation(source))
            .map_err(|error| {
                Failure::input(format!("`{}`: {error:#}", path.display()))
                    .help("the chat template must be Jinja as transformers reads it")
            })?;
        Ok(Self {
            source: source.to_owned(),
            environment,
        })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        bos_token: &str,
        eos_token: &str,
    ) -> Result<String, Failure> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                let Message { role, content } = message;
                context! { role => role.as_str(), content => content.as_str() }
            })
            .collect();
        let template = self.environment.get_template(NAME);
        template
            .and_then(|template| {
                template.render(context! { messages, add_generation_prompt, bos_token, eos_token })
            })
            .map_err(|error| Failure::input(format!("the chat template refuses: {error:#}")))
    }
}

/// `{% generation %}` and `{%- endgeneration -%}` as a block that minijinja knows and that keeps its white-space marks.
fn without_generation(source: &str) -> String {
    let tag = regex::Regex::new(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})").expect("a pattern");
    tag.replace_all(source, |found: &regex::Captures<'_>| {
        let word = if found.get(2).is_some() {
            "endif"
        } else {
            "if true"
        };
        format!("{}{word}{}", &found[1], &found[3])
    })
    .into_owned()
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// A template that prints today's date would make another text every day.
fn strftime_now(_format: String) -> Result<String, Error> {
    Err(Error::new(
        ErrorKind::InvalidOperation,
        "the template asks for the date, and a build has no clock",
    ))
}

/// Python's `json.dumps(ensure_ascii=False)`: spaces after `,` and `:`, nothing escaped for HTML.
fn to_json(value: Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool | ValueKind::Number => Ok(value.to_string()),
        ValueKind::String => Ok(quoted(&value.to_string())),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Result<Vec<String>, Error> = value.try_iter()?.map(to_json).collect();
            Ok(format!("[{}]", items?.join(", ")))
        }
        ValueKind::Map => {
            let fields: Result<Vec<String>, Error> = value
                .try_iter()?
                .map(|name| {
                    let field = to_json(value.get_item(&name)?)?;
                    Ok(format!("{}: {field}", quoted(&name.to_string())))
                })
                .collect();
            Ok(format!("{{{}}}", fields?.join(", ")))
        }
        _ => Err(Error::new(
            ErrorKind::BadSerialization,
            format!("`{value}` has no JSON form"),
        )),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, generation_prompt: bool) -> Result<String, Failure> {
        let messages = [
            Message::new("user", "안녕?"),
            Message::new("assistant", " Hi <b> "),
        ];
        Template::parse(source, Path::new("t"))?.render(
            &messages,
            generation_prompt,
            "<bos>",
            "<eos>",
        )
    }

    #[test]
    fn generation_marks_leave_no_trace() {
        let source = "{% for m in messages %}{%- generation -%} {{ m.content.strip() }} \
                      {%- endgeneration %}\n{% endfor %}|{{ bos_token }}";
        assert_eq!(render(source, false).unwrap(), "안녕?Hi <b>|<bos>");
    }

    #[test]
    fn blocks_are_trimmed_as_transformers_trims_them() {
        let source =
            "{% if add_generation_prompt %}\n  x\n  {% endif %}\n{{ messages[0] | tojson }}";
        assert_eq!(
            render(source, true).unwrap(),
            "  x\n{\"role\": \"user\", \"content\": \"안녕?\"}"
        );
    }

    #[test]
    fn a_template_may_refuse() {
        let failure = render("{{ raise_exception('roles must alternate') }}", false).unwrap_err();
        assert!(
            failure.message.contains("roles must alternate"),
            "{failure}"
        );
        assert!(render("{{ strftime_now('%Y') }}", false).is_err());
        assert!(render("{% if %}", false).is_err());
    }
}
