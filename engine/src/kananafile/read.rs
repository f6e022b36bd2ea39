//! TOML straight into nodes: the fast way, for files that are right.
//!
//! Knows valid from invalid, as the `toml` crate does, and nothing of messages: what is not TOML, or holds a value that
//! has no place in a Kananafile, is read again by [`super::node::parse`] with that crate, which says what is wrong.

use std::borrow::Cow;

use rustc_hash::FxHashMap;
use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, parse_document};
use toml_parser::{ErrorSink, ParseError, Raw, Source};

use super::node::{Key, Node, Span, Val};

/// The table that a file holds; `None` if anything about it has to be reported.
pub fn read(file: u32, text: &str) -> Option<Node> {
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut reader = Reader::new(file, source);
    let mut wrong: Option<ParseError> = None;
    parse_document(&tokens, &mut reader, &mut wrong);
    wrong.is_none().then(|| reader.node(ROOT))
}

/// How deep arrays and inline tables may lie in each other, and how many parts a key may have, as in the `toml` crate.
const DEEPEST: usize = 80;

/// From this many entries on, a table is searched by hash.
const LARGE: usize = 16;

/// Index of the table that is the file.
const ROOT: usize = 0;

/// A table that may still grow.
#[derive(Default)]
struct Table<'t> {
    span: Span,
    defined: Defined,
    entries: Vec<(Name<'t>, Item)>,
}

/// By what a table came to be, which decides what may extend it.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Defined {
    /// By a header of its own, or braces.
    #[default]
    Itself,
    /// By a header of something below it.
    Header,
    /// By a dotted key of something below it.
    Dotted,
}

/// A part of a key.
struct Name<'t> {
    text: Cow<'t, str>,
    span: Span,
}

/// What stands behind a key.
enum Item {
    /// Closed: nothing extends it.
    Value(Node),
    Table(usize),
    /// An array of tables; the last one may still grow.
    Tables(Vec<usize>),
}

/// What the next value goes into.
enum Open<'t> {
    Array {
        start: usize,
        /// Index of its first item.
        first: usize,
    },
    Table {
        start: usize,
        table: usize,
        /// The table and the key that wait for a value.
        slot: Option<(usize, Name<'t>)>,
    },
}

struct Reader<'t> {
    file: u32,
    source: Source<'t>,
    tables: Vec<Table<'t>>,
    /// Positions of the entries of large tables.
    positions: FxHashMap<(usize, Cow<'t, str>), usize>,
    /// The key that is being read, part by part.
    path: Vec<Name<'t>>,
    /// Innermost last; the first is the table of the last header.
    open: Vec<Open<'t>>,
    /// What is in the open arrays so far, those of the innermost last.
    items: Vec<Node>,
    header: usize,
}

impl<'t> Reader<'t> {
    fn new(file: u32, source: Source<'t>) -> Self {
        let mut reader = Self {
            file,
            source,
            tables: Vec::new(),
            positions: FxHashMap::default(),
            path: Vec::new(),
            open: Vec::new(),
            items: Vec::new(),
            header: 0,
        };
        let table = reader.add(Span::new(file, 0..0), Defined::Itself);
        debug_assert_eq!(table, ROOT);
        reader.enter(table);
        reader
    }

    fn span(&self, span: toml_parser::Span) -> Span {
        Span::new(self.file, span.start()..span.end())
    }

    fn raw(&self, span: toml_parser::Span, encoding: Option<Encoding>) -> Raw<'t> {
        let text = self.source.get(span).map_or("", |raw| raw.as_str());
        Raw::new_unchecked(text, encoding, span)
    }

    fn add(&mut self, span: Span, defined: Defined) -> usize {
        self.tables.push(Table {
            span,
            defined,
            entries: Vec::new(),
        });
        self.tables.len() - 1
    }

    /// From here on, keys belong to this table.
    fn enter(&mut self, table: usize) {
        self.open.clear();
        let (start, slot) = (0, None);
        self.open.push(Open::Table { start, table, slot });
    }

    fn position(&self, table: usize, name: &str) -> Option<usize> {
        let entries = &self.tables[table].entries;
        if entries.len() < LARGE {
            return entries.iter().position(|(key, _)| key.text == name);
        }
        self.positions.get(&(table, Cow::Borrowed(name))).copied()
    }

    fn insert(&mut self, table: usize, name: Name<'t>, item: Item) {
        let Table {
            entries, defined, ..
        } = &mut self.tables[table];
        if entries.is_empty() && *defined == Defined::Dotted {
            // For each `params.x = …` there is such a table, and most of them hold nothing else.
            entries.reserve_exact(1);
        }
        entries.push((name, item));
        let first_new = match entries.len() {
            ..LARGE => return,
            LARGE => 0,
            more => more - 1,
        };
        for (position, (name, _)) in entries.iter().enumerate().skip(first_new) {
            self.positions.insert((table, name.text.clone()), position);
        }
    }

    /// The table that a path leads to, which is made where it is not there yet; `None` if a value is in the way.
    fn descend(
        &mut self,
        mut table: usize,
        path: &mut Vec<Name<'t>>,
        by: Defined,
    ) -> Option<usize> {
        for name in path.drain(..) {
            let Some(position) = self.position(table, &name.text) else {
                let below = self.add(name.span, by);
                self.insert(table, name, Item::Table(below));
                table = below;
                continue;
            };
            table = match &self.tables[table].entries[position].1 {
                Item::Value(_) => return None,
                Item::Tables(tables) => *tables.last()?,
                Item::Table(below) => self.pass(*below, by)?,
            };
        }
        Some(table)
    }

    /// A table on the way to another: a dotted key does not lead through one with a header of its own, and what it does
    /// lead through gets none any more.
    fn pass(&mut self, table: usize, by: Defined) -> Option<usize> {
        let defined = &mut self.tables[table].defined;
        match (by, *defined) {
            (Defined::Dotted, Defined::Itself) => return None,
            (Defined::Dotted, _) => *defined = Defined::Dotted,
            _ => {}
        }
        Some(table)
    }

    /// The table that the last part of the key belongs to, and that part; `None` if something is in the way.
    fn parent(&mut self, table: usize, by: Defined) -> Option<(usize, Name<'t>)> {
        let name = self.path.pop().filter(|_| self.path.len() < DEEPEST)?;
        let mut path = std::mem::take(&mut self.path);
        let table = self.descend(table, &mut path, by);
        // Its memory serves the next key.
        self.path = path;
        Some((table?, name))
    }

    /// Where the value of the key goes; `None` if it must not stand here.
    fn slot(&mut self, table: usize) -> Option<(usize, Name<'t>)> {
        let is_dotted = self.path.len() > 1;
        let (table, name) = self.parent(table, Defined::Dotted)?;
        let is_closed = is_dotted && self.tables[table].defined == Defined::Itself;
        let is_new = self.position(table, &name.text).is_none();
        (is_new && !is_closed).then_some((table, name))
    }

    /// Begins the table of a header; `None` if it must not stand here.
    fn begin(&mut self, span: Span, is_array: bool) -> Option<()> {
        let (parent, name) = self.parent(ROOT, Defined::Header)?;
        let table = match self.position(parent, &name.text) {
            None => {
                let table = self.add(span, Defined::Itself);
                let item = match is_array {
                    true => Item::Tables(vec![table]),
                    false => Item::Table(table),
                };
                self.insert(parent, name, item);
                table
            }
            Some(position) if is_array => {
                let table = self.add(span, Defined::Itself);
                let Item::Tables(tables) = &mut self.tables[parent].entries[position].1 else {
                    return None;
                };
                tables.push(table);
                table
            }
            Some(position) => {
                let (key, item) = &mut self.tables[parent].entries[position];
                let Item::Table(table) = *item else {
                    return None;
                };
                key.span = name.span;
                self.define(table, span)?;
                table
            }
        };
        self.enter(table);
        Some(())
    }

    /// Gives a table that only headers below it have mentioned its own header.
    fn define(&mut self, table: usize, span: Span) -> Option<()> {
        let table = &mut self.tables[table];
        if table.defined != Defined::Header {
            return None;
        }
        (table.defined, table.span) = (Defined::Itself, span);
        Some(())
    }

    fn put(&mut self, node: Node) {
        match self.open.last_mut() {
            Some(Open::Array { .. }) => self.items.push(node),
            Some(Open::Table { slot, .. }) => {
                if let Some((table, name)) = slot.take() {
                    self.insert(table, name, Item::Value(node));
                }
            }
            None => {}
        }
    }

    /// A table that nothing extends any more, in written order.
    fn node(&mut self, table: usize) -> Node {
        let Table {
            span, mut entries, ..
        } = std::mem::take(&mut self.tables[table]);
        entries.sort_by_key(|(key, _)| key.span);
        let entry = |(key, item): (Name<'t>, Item)| {
            let (name, span) = (key.text.into_owned(), key.span);
            (Key { name, span }, self.item(item))
        };
        let value = Val::Table(entries.into_iter().map(entry).collect());
        Node { span, value }
    }

    fn item(&mut self, item: Item) -> Node {
        match item {
            Item::Value(node) => node,
            Item::Table(table) => self.node(table),
            Item::Tables(tables) => {
                let span = self.tables[tables[0]].span;
                let value = Val::List(tables.into_iter().map(|table| self.node(table)).collect());
                Node { span, value }
            }
        }
    }
}

/// Where events come from after the first error is of no interest: nothing is made of them, but they must do no harm.
impl EventReceiver for Reader<'_> {
    fn std_table_open(&mut self, span: toml_parser::Span, _: &mut dyn ErrorSink) {
        self.path.clear();
        self.header = span.start();
    }

    fn std_table_close(&mut self, span: toml_parser::Span, error: &mut dyn ErrorSink) {
        let span = Span::new(self.file, self.header..span.end());
        refuse_none(self.begin(span, false), error);
    }

    fn array_table_open(&mut self, span: toml_parser::Span, error: &mut dyn ErrorSink) {
        self.std_table_open(span, error);
    }

    fn array_table_close(&mut self, span: toml_parser::Span, error: &mut dyn ErrorSink) {
        let span = Span::new(self.file, self.header..span.end());
        refuse_none(self.begin(span, true), error);
    }

    fn inline_table_open(&mut self, span: toml_parser::Span, error: &mut dyn ErrorSink) -> bool {
        let table = self.add(self.span(span), Defined::Itself);
        let (start, slot) = (span.start(), None);
        self.open.push(Open::Table { start, table, slot });
        self.is_shallow(error)
    }

    fn inline_table_close(&mut self, span: toml_parser::Span, _: &mut dyn ErrorSink) {
        if let Some(Open::Table { start, table, .. }) = self.close() {
            self.tables[table].span = Span::new(self.file, start..span.end());
            let node = self.node(table);
            self.put(node);
        }
    }

    fn array_open(&mut self, span: toml_parser::Span, error: &mut dyn ErrorSink) -> bool {
        let (start, first) = (span.start(), self.items.len());
        self.open.push(Open::Array { start, first });
        self.is_shallow(error)
    }

    fn array_close(&mut self, span: toml_parser::Span, _: &mut dyn ErrorSink) {
        if let Some(Open::Array { start, first }) = self.close() {
            let span = Span::new(self.file, start..span.end());
            let value = Val::List(self.items.drain(first..).collect());
            self.put(Node { span, value });
        }
    }

    fn simple_key(
        &mut self,
        span: toml_parser::Span,
        encoding: Option<Encoding>,
        error: &mut dyn ErrorSink,
    ) {
        let mut text = Cow::Borrowed("");
        self.raw(span, encoding).decode_key(&mut text, error);
        let span = self.span(span);
        self.path.push(Name { text, span });
    }

    fn key_val_sep(&mut self, _: toml_parser::Span, error: &mut dyn ErrorSink) {
        let Some(Open::Table { table, .. }) = self.open.last() else {
            return;
        };
        let found = self.slot(*table);
        if let (Some(found), Some(Open::Table { slot, .. })) = (found, self.open.last_mut()) {
            *slot = Some(found);
        } else {
            refuse_none(None, error);
        }
    }

    fn scalar(
        &mut self,
        span: toml_parser::Span,
        encoding: Option<Encoding>,
        error: &mut dyn ErrorSink,
    ) {
        let mut text = Cow::Borrowed("");
        let value = match self.raw(span, encoding).decode_scalar(&mut text, error) {
            ScalarKind::String => Some(Val::Text(text.into_owned())),
            ScalarKind::Boolean(flag) => Some(Val::Bool(flag)),
            ScalarKind::Integer(radix) => {
                let number = i64::from_str_radix(&text, radix.value());
                number.ok().map(Val::Int)
            }
            ScalarKind::Float => {
                let number = text.parse().ok().filter(|number: &f64| number.is_finite());
                number.map(Val::Float)
            }
            ScalarKind::DateTime => None,
        };
        let span = self.span(span);
        match value {
            Some(value) => self.put(Node { span, value }),
            None => refuse_none(None, error),
        }
    }

    fn comment(&mut self, span: toml_parser::Span, error: &mut dyn ErrorSink) {
        self.raw(span, None).decode_comment(error);
    }

    fn newline(&mut self, span: toml_parser::Span, error: &mut dyn ErrorSink) {
        self.raw(span, None).decode_newline(error);
    }
}

impl<'t> Reader<'t> {
    /// What closes, if it is not the table of a header.
    fn close(&mut self) -> Option<Open<'t>> {
        (self.open.len() > 1).then(|| self.open.pop())?
    }

    fn is_shallow(&self, error: &mut dyn ErrorSink) -> bool {
        let is_shallow = self.open.len() <= DEEPEST + 1;
        refuse_none(is_shallow.then_some(()), error);
        is_shallow
    }
}

/// Nobody reads the message: the `toml` crate writes a better one.
fn refuse_none(found: Option<()>, error: &mut dyn ErrorSink) {
    if found.is_none() {
        error.report_error(ParseError::new("not read"));
    }
}
