//! The tree of an HTML page, for a page that may come from anywhere.
//!
//! The parser looks through the open elements for most tags, compares each attribute of a tag with those before it,
//! and opens formatting elements again after every block. A page of one megabyte can so cost minutes or gigabytes.
//! Here the page is handed over piece by piece, the work is counted, and a page that costs far more than its length
//! justifies is given up. Work is counted and not timed: the same page is given up on every machine.

use std::borrow::Cow;
use std::cell::Cell;

use ego_tree::iter::Edge;
use html5ever::tendril::{StrTendril, TendrilSink};
use html5ever::tree_builder::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::{Attribute, QualName};
use scraper::{Html, HtmlTreeSink};

/// Levels of elements within elements. Browsers stop at 512.
pub const DEEPEST: usize = 4096;

/// Attributes of one element.
pub const MOST_ATTRIBUTES: usize = 1024;

/// Elements of one page. The largest pages have some hundred thousand.
pub const MOST_ELEMENTS: usize = 2_000_000;

/// Looks at open elements that every page may cost, and those that it may cost for each of its bytes.
const LOOKS: u64 = 1 << 22;
const LOOKS_PER_BYTE: u64 = 64;

/// Bytes that the parser is given at once; the counts are judged between two pieces.
const PIECE: usize = 4096;

/// Why a page was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Elements lie in elements too many times.
    Deep,
    Attributes,
    Elements,
}

impl Refusal {
    /// The rule in the ledger.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Deep => "too_deep",
            Self::Attributes => "too_many_attributes",
            Self::Elements => "too_many_elements",
        }
    }
}

/// The tree of a page.
///
/// # Errors
/// A page that is nested too deep or has too many elements or attributes.
pub fn parse(page: &str) -> Result<Html, Refusal> {
    let mut parser = html5ever::parse_document(Sink::default(), Default::default());
    let most_looks = LOOKS + LOOKS_PER_BYTE * page.len() as u64;
    let mut open_tags = OpenTags::default();
    let mut before = "";
    let mut rest = page;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE.max(4)));
        let sink = &parser.tokenizer.sink.sink;
        let n_calls = sink.calls.get();
        parser.process(StrTendril::from_slice(piece));
        let sink = &parser.tokenizer.sink.sink;
        if let Some(refusal) = sink.refusal(most_looks) {
            return Err(refusal);
        }
        // The parser said nothing of a whole piece: it may be inside of a tag that has not ended.
        if sink.calls.get() == n_calls {
            if !open_tags.is_reading {
                open_tags.read(before);
            }
            if open_tags.read(piece) > MOST_ATTRIBUTES {
                return Err(Refusal::Attributes);
            }
        } else if open_tags.is_reading {
            open_tags = OpenTags::default();
        }
        (before, rest) = (piece, after);
    }
    let n_elements = parser.tokenizer.sink.sink.elements.get();
    let tree = parser.finish();
    match n_elements > DEEPEST && depth(&tree) > DEEPEST {
        true => Err(Refusal::Deep),
        false => Ok(tree),
    }
}

fn depth(tree: &Html) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for edge in tree.tree.root().traverse() {
        match edge {
            Edge::Open(_) => depth += 1,
            Edge::Close(_) => depth = depth.saturating_sub(1),
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Builds the tree and counts what is asked of it.
struct Sink {
    tree: HtmlTreeSink,
    /// Everything but errors, which also come from the middle of a tag.
    calls: Cell<u64>,
    /// Open elements that were looked at.
    looks: Cell<u64>,
    elements: Cell<usize>,
    /// The most attributes of one element.
    attributes: Cell<usize>,
    /// Attributes that were added to `html` and `body` by tags that come again.
    added: Cell<usize>,
}

impl Default for Sink {
    fn default() -> Self {
        Self {
            tree: HtmlTreeSink::new(Html::new_document()),
            calls: Cell::new(0),
            looks: Cell::new(0),
            elements: Cell::new(0),
            attributes: Cell::new(0),
            added: Cell::new(0),
        }
    }
}

impl Sink {
    fn refusal(&self, most_looks: u64) -> Option<Refusal> {
        if self.attributes.get() > MOST_ATTRIBUTES || self.added.get() > MOST_ATTRIBUTES {
            return Some(Refusal::Attributes);
        }
        if self.elements.get() > MOST_ELEMENTS {
            return Some(Refusal::Elements);
        }
        (self.looks.get() > most_looks).then_some(Refusal::Deep)
    }

    fn call(&self) -> &HtmlTreeSink {
        self.calls.set(self.calls.get() + 1);
        &self.tree
    }

    fn look(&self) -> &HtmlTreeSink {
        self.looks.set(self.looks.get() + 1);
        self.call()
    }
}

type Node = <HtmlTreeSink as TreeSink>::Handle;

impl TreeSink for Sink {
    type Output = Html;
    type Handle = Node;
    type ElemName<'a> = <HtmlTreeSink as TreeSink>::ElemName<'a>;

    fn finish(self) -> Html {
        self.tree.finish()
    }

    fn parse_error(&self, _message: Cow<'static, str>) {}

    fn set_quirks_mode(&self, mode: QuirksMode) {
        self.call().set_quirks_mode(mode);
    }

    fn get_document(&self) -> Node {
        self.call().get_document()
    }

    fn same_node(&self, x: &Node, y: &Node) -> bool {
        self.look().same_node(x, y)
    }

    fn elem_name<'a>(&'a self, target: &'a Node) -> Self::ElemName<'a> {
        self.look().elem_name(target)
    }

    fn create_element(
        &self,
        name: QualName,
        attributes: Vec<Attribute>,
        flags: ElementFlags,
    ) -> Node {
        self.elements.set(self.elements.get() + 1);
        self.attributes
            .set(self.attributes.get().max(attributes.len()));
        self.call().create_element(name, attributes, flags)
    }

    fn create_comment(&self, text: StrTendril) -> Node {
        self.call().create_comment(text)
    }

    fn create_pi(&self, target: StrTendril, data: StrTendril) -> Node {
        self.call().create_pi(target, data)
    }

    fn append(&self, parent: &Node, child: NodeOrText<Node>) {
        self.call().append(parent, child);
    }

    fn append_based_on_parent_node(
        &self,
        element: &Node,
        previous: &Node,
        child: NodeOrText<Node>,
    ) {
        self.call()
            .append_based_on_parent_node(element, previous, child);
    }

    fn append_doctype_to_document(
        &self,
        name: StrTendril,
        public_id: StrTendril,
        system_id: StrTendril,
    ) {
        self.call()
            .append_doctype_to_document(name, public_id, system_id);
    }

    fn append_before_sibling(&self, sibling: &Node, child: NodeOrText<Node>) {
        self.call().append_before_sibling(sibling, child);
    }

    fn remove_from_parent(&self, target: &Node) {
        self.call().remove_from_parent(target);
    }

    fn reparent_children(&self, node: &Node, parent: &Node) {
        self.call().reparent_children(node, parent);
    }

    fn add_attrs_if_missing(&self, target: &Node, attributes: Vec<Attribute>) {
        self.added.set(self.added.get() + attributes.len());
        self.call().add_attrs_if_missing(target, attributes);
    }

    fn get_template_contents(&self, target: &Node) -> Node {
        self.call().get_template_contents(target)
    }

    fn pop(&self, _node: &Node) {
        self.calls.set(self.calls.get() + 1);
    }
}

/// Where a reader of tags can be between `<a` and `>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Name,
    BeforeAttribute,
    Attribute,
    AfterAttribute,
    BeforeValue,
    Double,
    Single,
    Unquoted,
}

const PLACES: [At; 8] = [
    At::Name,
    At::BeforeAttribute,
    At::Attribute,
    At::AfterAttribute,
    At::BeforeValue,
    At::Double,
    At::Single,
    At::Unquoted,
];

/// The tags that may be open where the parser says nothing. Every `<a` may be the one that it reads, as it may lie in
/// a comment or in a value: all are followed at once, and of those in the same place the one with the most attributes.
#[derive(Debug, Default)]
struct OpenTags {
    is_reading: bool,
    /// Attributes by place.
    attributes: [Option<usize>; PLACES.len()],
    /// The two bytes before.
    last: [u8; 2],
}

impl OpenTags {
    /// Reads on; the most attributes that an open tag can have.
    fn read(&mut self, piece: &str) -> usize {
        self.is_reading = true;
        for byte in piece.bytes() {
            let mut after = [None; PLACES.len()];
            for place in PLACES {
                if let Some(n) = self.attributes[place as usize]
                    && let Some(next) = place.after(byte)
                {
                    let is_new = next == At::Attribute && place != At::Attribute;
                    let n = n + usize::from(is_new);
                    after[next as usize] = after[next as usize].max(Some(n));
                }
            }
            let begins = self.last[1] == b'<' || self.last == *b"</";
            if begins && byte.is_ascii_alphabetic() {
                after[At::Name as usize] = after[At::Name as usize].max(Some(0));
            }
            self.last = [self.last[1], byte];
            self.attributes = after;
        }
        self.attributes.iter().flatten().copied().max().unwrap_or(0)
    }
}

impl At {
    /// The place after one more byte; none where the tag has ended. As the HTML standard reads tags.
    fn after(self, byte: u8) -> Option<Self> {
        let is_space = matches!(byte, b' ' | b'\t' | b'\n' | b'\x0c' | b'\r');
        let next = match (self, byte) {
            (Self::Double, b'"') | (Self::Single, b'\'') => Self::BeforeAttribute,
            (Self::Double | Self::Single, _) => self,
            (_, b'>') => return None,
            (Self::Name | Self::BeforeAttribute | Self::Unquoted, _) if is_space => {
                Self::BeforeAttribute
            }
            (Self::Attribute | Self::AfterAttribute, _) if is_space => Self::AfterAttribute,
            (Self::BeforeValue, _) if is_space => self,
            (Self::BeforeValue, b'"') => Self::Double,
            (Self::BeforeValue, b'\'') => Self::Single,
            (Self::BeforeValue | Self::Unquoted, _) => Self::Unquoted,
            (_, b'/') => Self::BeforeAttribute,
            (Self::Attribute | Self::AfterAttribute, b'=') => Self::BeforeValue,
            (Self::Name, _) => Self::Name,
            (Self::BeforeAttribute | Self::Attribute | Self::AfterAttribute, _) => Self::Attribute,
        };
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(page: &str) -> Option<Refusal> {
        parse(page).err()
    }

    #[test]
    fn a_page_that_costs_too_much_is_given_up() {
        let many = |n: usize, tag: &dyn Fn(usize) -> String| (0..n).map(tag).collect::<String>();
        let deep = "<div>".repeat(100_000);
        assert_eq!(refusal(&deep), Some(Refusal::Deep));
        assert_eq!(refusal(&"<span>".repeat(100_000)), Some(Refusal::Deep));
        let lists = "<ul><li>".repeat(50_000);
        assert_eq!(refusal(&lists), Some(Refusal::Deep));
        // Formatting elements that no block closes are opened again in every one.
        let formatting = many(20_000, &|n| format!("<div><b id={n}></div>"));
        assert!(refusal(&formatting).is_some());
        let misnested = many(20_000, &|n| format!("<a id={n}><p><b id={n}>"));
        assert!(refusal(&misnested).is_some());
        let tables = "<table><b>x".repeat(50_000);
        // Of equal formatting elements the parser opens three again at most ("Noah's Ark"): this costs little.
        assert_eq!(refusal(&tables), None);
    }

    #[test]
    fn attributes_are_counted_before_their_tag_ends() {
        let attributes: String = (0..500_000).map(|n| format!(" a{n}='>'")).collect();
        for page in [
            format!("<p{attributes}>"),
            format!("<p></p{attributes}>"),
            format!("<frameset><p{attributes}>"),
        ] {
            assert_eq!(refusal(&page), Some(Refusal::Attributes));
        }
        let again: String = (0..2000).map(|n| format!("<html a{n}>")).collect();
        assert_eq!(refusal(&again), Some(Refusal::Attributes));
        let image = format!("<img alt=\"{}\">", "a b/c ".repeat(100_000));
        let comment = format!("<p>x<!-- {} -->", "<p class='a b'> a b c ".repeat(50_000));
        assert_eq!((refusal(&image), refusal(&comment)), (None, None));
    }

    #[test]
    fn pieces_make_the_same_tree_as_the_whole() {
        let row = "<tr><td>a &amp; 가나\r\n<p>b &notit; <b>c<table>d</p></b></table><pre>\n x\n</pre><script>if (a<b) '</p>'</script>";
        for shift in 0..7 {
            let page = "x".repeat(shift) + &row.repeat(60);
            assert_eq!(
                parse(&page).unwrap().html(),
                Html::parse_document(&page).html()
            );
        }
    }
}
