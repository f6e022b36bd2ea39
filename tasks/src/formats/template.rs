//! Chat templates: the Jinja of `transformers`, rendered with minijinja.
//!
//! `{% generation %}` marks what the assistant says; it changes no text and is read as `{% if true %}`. Spans for the
//! loss are not taken from it (many templates have none) but from rendering prefixes.

use std::borrow::Cow;
use std::path::Path;

use kbuild_engine::runner::Failure;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value, context};

use super::chat::Message;
use crate::guard;

/// A parsed chat template.
pub struct Template {
    source: String,
    environment: Environment<'static>,
}

const NAME: &str = "chat_template";

/// Characters of a template at most: parsing goes as deep as a template is long.
const LONGEST_SOURCE: usize = 1 << 19;
/// Sources above this length are parsed on a large stack.
const SHALLOW_SOURCE: usize = 1 << 12;
/// Steps that a template may take with any conversation; with a long one, so many for each message and each byte.
const FUEL: u64 = 10_000_000;
const FUEL_OF_MESSAGE: u64 = 10_000;
const FUEL_OF_BYTE: u64 = 100;
/// Bytes that a method of a string may make.
const LONGEST_TEXT: usize = 1 << 26;

impl Template {
    /// `path` is for messages alone.
    pub fn parse(source: &str, path: &Path) -> Result<Self, Failure> {
        if source.len() > LONGEST_SOURCE {
            return Err(Failure::input(format!(
                "`{}`: the chat template has {} bytes, at most {LONGEST_SOURCE} are read",
                path.display(),
                source.len()
            ))
            .help("use the chat template that the model was published with"));
        }
        let parsed = match source.len() <= SHALLOW_SOURCE {
            true => guard::quietly(|| Self::parse_here(source, path)),
            false => guard::deeply(|| Self::parse_here(source, path)),
        };
        parsed.unwrap_or_else(|panic| {
            Err(Failure::input(format!(
                "`{}`: the chat template cannot be parsed: {panic}",
                path.display()
            ))
            .help("the chat template must be Jinja as transformers reads it"))
        })
    }

    fn parse_here(source: &str, path: &Path) -> Result<Self, Failure> {
        let mut environment = Environment::new();
        // As transformers sets Jinja up.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the standard delimiters");
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(bounded_method);
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
        let render = || self.render_here(messages, add_generation_prompt, bos_token, eos_token);
        // What lives on from one turn of a loop to the next may be nested as deep as there are turns.
        let rendered = match self.source.contains("namespace") {
            true => guard::deeply(render),
            false => guard::quietly(render),
        };
        rendered.unwrap_or_else(|panic| {
            Err(Failure::input(format!("the chat template fails: {panic}")).help(HELP))
        })
    }

    fn render_here(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        bos_token: &str,
        eos_token: &str,
    ) -> Result<String, Failure> {
        let fuel = fuel(messages);
        let environment = match fuel <= FUEL {
            true => Cow::Borrowed(&self.environment),
            false => {
                let mut larger = self.environment.clone();
                larger.set_fuel(Some(fuel));
                Cow::Owned(larger)
            }
        };
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                let Message { role, content } = message;
                context! { role => role.as_str(), content => content.as_str() }
            })
            .collect();
        let template = environment.get_template(NAME);
        template
            .and_then(|template| {
                template.render(context! { messages, add_generation_prompt, bos_token, eos_token })
            })
            .map_err(refusal)
    }
}

const HELP: &str = "use the chat template that the model was published with";

fn refusal(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::OutOfFuel => Failure::input(format!(
            "the chat template does far more than a conversation needs: {error:#}"
        ))
        .help(HELP),
        _ => Failure::input(format!("the chat template refuses: {error:#}")),
    }
}

/// Steps that a template may take over these messages.
fn fuel(messages: &[Message]) -> u64 {
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    FUEL_OF_MESSAGE * messages.len() as u64 + FUEL_OF_BYTE * bytes as u64
}

/// Python's methods; those that multiply texts make no more than a computer can hold.
fn bounded_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let made = match (method, value.as_str()) {
        ("replace", Some(text)) => {
            let new = args.get(1).and_then(Value::as_str).unwrap_or_default();
            (text.len() + 1).saturating_mul(new.len().max(1))
        }
        ("join", Some(separator)) => {
            let parts = args.first().and_then(|parts| parts.try_iter().ok());
            let length = |part: Value| part.as_str().map_or(0, str::len) + separator.len();
            parts.map_or(0, |parts| parts.map(length).sum())
        }
        _ => 0,
    };
    if made > LONGEST_TEXT {
        return Err(Error::new(
            ErrorKind::OutOfFuel,
            format!("`{method}` makes a text of {made} bytes"),
        ));
    }
    state.consume_fuel((made / 64) as u64)?;
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
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
    fn a_template_that_asks_for_too_much_is_told() {
        let many = "not ".repeat(20_000);
        let brackets = "(".repeat(20_000);
        let cases = [
            "{{ 'x' | indent(10000000000, true) }}".to_owned(),
            "{{ 'x' * 10 ** 10 }}".to_owned(),
            "{% for i in range(10 ** 12) %}x{% endfor %}".to_owned(),
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
                .to_owned(),
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
            "{% set x = 'x' * 9000000 %}{{ x.replace('', x) }}".to_owned(),
            format!("{{{{ {brackets} }}}}"),
            format!("{{{{ {many} }}}}"),
            "x".repeat(LONGEST_SOURCE + 1),
        ];
        for source in cases {
            let failure = render(&source, false).unwrap_err();
            assert!(
                failure.message.contains("template") || failure.message.contains("`t`"),
                "{failure}"
            );
        }
        // Valid, and deep.
        assert!(render(&format!("{{{{ {many} true }}}}"), false).is_ok());
        let nested = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}ok";
        assert_eq!(render(nested, false).unwrap(), "ok");
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
