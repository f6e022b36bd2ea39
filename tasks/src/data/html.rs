//! The main text of an HTML page: headings, paragraphs, list items, table rows and code, one block a line.
//!
//! Menus, scripts, hidden and boilerplate parts are left out: by element, by role, by the words of class and id, and
//! by what a selector names. Runs of list items that are links alone are menus. Knows nothing of files or documents.

use std::collections::HashSet;

use ego_tree::iter::Edge;
use scraper::node::Element;
use scraper::{ElementRef, Html, Node, Selector};
use unicode_normalization::UnicodeNormalization;

use super::page::{self, Refusal};

/// What a page says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub title: String,
    /// Language that the page claims (`ko`, `en-US`).
    pub language: Option<String>,
    /// Level (1-6) and text of each heading that is in `text`.
    pub headings: Vec<(u8, String)>,
    pub text: String,
}

/// What to take for the main part and what to leave out, besides the built-in rules.
#[derive(Debug, Default)]
pub struct Selectors {
    pub main: Option<Selector>,
    pub drop: Vec<Selector>,
}

/// The main text of a page; empty where there is none.
///
/// # Errors
/// A page that is nested too deep or has too many elements or attributes.
pub fn extract(html: &str, selectors: &Selectors) -> Result<Page, Refusal> {
    let document = page::parse(html)?;
    let select = |css: &str| Selector::parse(css).expect("a selector");
    let title = document
        .select(&select("title"))
        .next()
        .map(|title| clean(&title.text().collect::<String>()))
        .unwrap_or_default();
    let language = document.root_element().attr("lang").map(str::to_owned);
    let mut blocks = Walk::new(selectors).blocks(main_part(&document, selectors));
    drop_menus(&mut blocks);
    drop_trailing_links(&mut blocks);
    drop_repeats(&mut blocks);
    let headings = blocks
        .iter()
        .filter_map(|block| match block.kind {
            Kind::Heading(level) => Some((level, block.text.clone())),
            _ => None,
        })
        .collect();
    let texts: Vec<String> = blocks.iter().map(Block::line).collect();
    Ok(Page {
        title,
        language,
        headings,
        text: texts.join("\n"),
    })
}

/// Where the main text of a page usually is, the surest first.
const MAIN: &[&str] = &[
    "main",
    "[role=main]",
    "#DisplayArea",
    "#content",
    "#main",
    "article",
];

/// The part named by the caller, else the one usual place that holds most of the text, else the body.
fn main_part<'a>(document: &'a Html, selectors: &Selectors) -> ElementRef<'a> {
    if let Some(main) = &selectors.main
        && let Some(found) = document.select(main).next()
    {
        return found;
    }
    let body = Selector::parse("body").expect("a selector");
    let body = document
        .select(&body)
        .next()
        .unwrap_or(document.root_element());
    let length = |element: ElementRef<'_>| -> usize { element.text().map(str::len).sum() };
    let total = length(body);
    MAIN.iter()
        .filter_map(|css| {
            let selector = Selector::parse(css).expect("a selector");
            let mut found = document.select(&selector);
            let only = found.next()?;
            found.next().is_none().then_some(only)
        })
        .find(|found| length(*found) * 4 >= total)
        .unwrap_or(body)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Heading(u8),
    Text,
    Item,
    Row,
    Code,
}

#[derive(Debug)]
struct Block {
    kind: Kind,
    /// `- ` or `3. ` before a list item.
    mark: String,
    text: String,
    /// Characters of the text that are in links.
    n_linked: usize,
}

impl Block {
    fn line(&self) -> String {
        format!("{}{}", self.mark, self.text)
    }

    fn is_link(&self) -> bool {
        self.n_linked * 10 >= self.text.chars().filter(|c| !c.is_whitespace()).count() * 9
    }
}

/// A walk over the tree that gathers blocks. Iterative: no page is too deep for it.
struct Walk<'a> {
    selectors: &'a Selectors,
    blocks: Vec<Block>,
    text: String,
    mark: String,
    n_linked: usize,
    /// Elements above that are links, code, or list items.
    links: usize,
    code: usize,
    items: usize,
    /// Numbers of the ordered lists above; `None` for an unordered one.
    lists: Vec<Option<usize>>,
    /// Cells of the table row above.
    row: Option<Vec<String>>,
}

impl<'a> Walk<'a> {
    fn new(selectors: &'a Selectors) -> Self {
        Self {
            selectors,
            blocks: Vec::new(),
            text: String::new(),
            mark: String::new(),
            n_linked: 0,
            links: 0,
            code: 0,
            items: 0,
            lists: Vec::new(),
            row: None,
        }
    }

    fn blocks(mut self, root: ElementRef<'_>) -> Vec<Block> {
        let mut skipped = None;
        for edge in root.traverse() {
            match edge {
                Edge::Open(node) if skipped.is_none() => match node.value() {
                    Node::Text(text) => self.text(text),
                    Node::Element(element) => {
                        let reference = ElementRef::wrap(node).expect("an element");
                        if node.id() != root.id() && self.leaves_out(reference) {
                            skipped = Some(node.id());
                        } else {
                            self.open(element);
                        }
                    }
                    _ => {}
                },
                Edge::Close(node) if skipped == Some(node.id()) => skipped = None,
                Edge::Close(node) if skipped.is_none() => {
                    if let Node::Element(element) = node.value() {
                        self.close(element);
                    }
                }
                _ => {}
            }
        }
        self.flush(Kind::Text);
        self.blocks
    }

    fn leaves_out(&self, element: ElementRef<'_>) -> bool {
        is_boilerplate(element.value())
            || self
                .selectors
                .drop
                .iter()
                .any(|drop| drop.matches(&element))
    }

    fn text(&mut self, text: &str) {
        if self.links > 0 {
            self.n_linked += text.chars().filter(|c| !c.is_whitespace()).count();
        }
        self.text.push_str(text);
    }

    fn open(&mut self, element: &Element) {
        match element.name() {
            "a" => self.links += 1,
            "br" => self.text.push(if self.code > 0 { '\n' } else { ' ' }),
            "pre" => {
                self.flush(Kind::Text);
                self.code += 1;
            }
            "ul" | "menu" => self.open_list(None),
            "ol" => {
                let start = element.attr("start").and_then(|start| start.parse().ok());
                self.open_list(Some(start.unwrap_or(1)));
            }
            "li" => {
                self.flush(Kind::Text);
                self.items += 1;
                self.mark = self.next_mark();
            }
            "tr" => {
                self.flush(Kind::Text);
                self.close_row();
                self.row = Some(Vec::new());
            }
            "td" | "th" => self.flush(Kind::Text),
            name if is_block(name) => self.flush(Kind::Text),
            _ => {}
        }
    }

    fn close(&mut self, element: &Element) {
        match element.name() {
            "a" => self.links = self.links.saturating_sub(1),
            "pre" => {
                self.flush(Kind::Code);
                self.code = self.code.saturating_sub(1);
            }
            "ul" | "ol" | "menu" => {
                self.flush(Kind::Text);
                self.lists.pop();
            }
            "li" => {
                self.flush(Kind::Text);
                self.items = self.items.saturating_sub(1);
                self.mark.clear();
            }
            "td" | "th" => self.flush(Kind::Text),
            "tr" => {
                self.flush(Kind::Text);
                self.close_row();
            }
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                let level = element.name().as_bytes()[1] - b'0';
                self.flush(Kind::Heading(level));
            }
            name if is_block(name) => self.flush(Kind::Text),
            _ => {}
        }
    }

    fn open_list(&mut self, start: Option<usize>) {
        self.flush(Kind::Text);
        self.lists.push(start);
    }

    fn next_mark(&mut self) -> String {
        match self.lists.last_mut() {
            Some(Some(number)) => {
                *number += 1;
                format!("{}. ", *number - 1)
            }
            _ => "- ".to_owned(),
        }
    }

    /// A row of one cell is a paragraph: tables are used for layout, too.
    fn close_row(&mut self) {
        let Some(cells) = self.row.take() else {
            return;
        };
        let kind = if cells.len() > 1 {
            Kind::Row
        } else {
            Kind::Text
        };
        if !cells.is_empty() {
            let text = cells.join(" | ");
            let n_linked = std::mem::take(&mut self.n_linked);
            self.push(kind, text, n_linked);
        }
    }

    /// Ends a block. Inside a row it is a cell, inside a list item an item.
    fn flush(&mut self, kind: Kind) {
        let raw = std::mem::take(&mut self.text);
        let text = if self.code > 0 {
            clean_code(&raw)
        } else {
            clean(&raw)
        };
        if text.is_empty() {
            return;
        }
        if let Some(cells) = &mut self.row
            && !matches!(kind, Kind::Heading(_))
        {
            cells.push(clean(&text));
            return;
        }
        let kind = match kind {
            Kind::Text if self.code > 0 => Kind::Code,
            Kind::Text if self.items > 0 => Kind::Item,
            kind => kind,
        };
        let n_linked = std::mem::take(&mut self.n_linked);
        self.push(kind, text, n_linked);
    }

    fn push(&mut self, kind: Kind, text: String, n_linked: usize) {
        let mark = match kind {
            Kind::Item => std::mem::take(&mut self.mark),
            _ => String::new(),
        };
        self.blocks.push(Block {
            kind,
            mark,
            text,
            n_linked,
        });
    }
}

fn is_block(name: &str) -> bool {
    matches!(
        name,
        "address"
            | "article"
            | "blockquote"
            | "body"
            | "caption"
            | "center"
            | "dd"
            | "details"
            | "div"
            | "dl"
            | "dt"
            | "figcaption"
            | "figure"
            | "h1"
            | "h2"
            | "h3"
            | "h4"
            | "h5"
            | "h6"
            | "header"
            | "hr"
            | "main"
            | "p"
            | "section"
            | "summary"
            | "table"
            | "tbody"
            | "thead"
    )
}

/// Elements that never hold the text of a page.
const LEFT_OUT: &[&str] = &[
    "script", "style", "noscript", "template", "nav", "footer", "aside", "form", "button", "input",
    "select", "textarea", "label", "svg", "math", "iframe", "object", "head", "title", "dialog",
    "audio", "video", "canvas",
];

/// Words in a class or id that mark navigation and the like.
const MARKS: &[&str] = &[
    "nav",
    "navbar",
    "navigation",
    "menu",
    "breadcrumb",
    "breadcrumbs",
    "sidebar",
    "footer",
    "cookie",
    "cookies",
    "banner",
    "advert",
    "advertisement",
    "ads",
    "social",
    "share",
    "sharing",
    "pagination",
    "pager",
    "toc",
    "debug",
    "skip",
    "popup",
    "modal",
    "newsletter",
    "subscribe",
];

const ROLES: &[&str] = &[
    "navigation",
    "banner",
    "contentinfo",
    "search",
    "complementary",
    "menu",
    "dialog",
];

fn is_boilerplate(element: &Element) -> bool {
    let attr = |name: &str| element.attr(name).unwrap_or("");
    let style = attr("style").replace(' ', "").to_ascii_lowercase();
    LEFT_OUT.contains(&element.name())
        || element.attr("hidden").is_some()
        || attr("aria-hidden") == "true"
        || style.contains("display:none")
        || style.contains("visibility:hidden")
        || ROLES.contains(&attr("role"))
        || (element.name() == "header" && attr("id").to_ascii_lowercase().contains("top"))
        || is_marked(attr("class"))
        || is_marked(attr("id"))
}

/// True where one of the names (`site-nav`, `mainMenu`) has a word of [`MARKS`].
fn is_marked(names: &str) -> bool {
    let mut spaced = String::with_capacity(names.len());
    let mut before_lower = false;
    for c in names.chars() {
        if c.is_uppercase() && before_lower {
            spaced.push(' ');
        }
        before_lower = c.is_lowercase();
        spaced.extend(c.to_lowercase());
    }
    spaced
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| MARKS.contains(&word))
}

/// White space one space, composed, without marks that no reader sees.
fn clean(text: &str) -> String {
    let visible: String = text.nfc().filter(|c| !is_invisible(*c)).collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Code keeps its lines and indentation.
fn clean_code(text: &str) -> String {
    let visible: String = text.nfc().filter(|c| !is_invisible(*c)).collect();
    let lines: Vec<&str> = visible.lines().map(str::trim_end).collect();
    let first = lines.iter().position(|line| !line.is_empty());
    let last = lines.iter().rposition(|line| !line.is_empty());
    match (first, last) {
        (Some(first), Some(last)) => lines[first..=last].join("\n"),
        _ => String::new(),
    }
}

/// Zero-width and soft marks, and control characters other than white space.
pub fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'
    ) || (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

/// Runs of at least three items that are links alone.
fn drop_menus(blocks: &mut Vec<Block>) {
    let is_link = |block: &Block| block.kind == Kind::Item && block.is_link();
    let mut keep = vec![true; blocks.len()];
    let mut at = 0;
    while at < blocks.len() {
        let run = blocks[at..]
            .iter()
            .take_while(|block| is_link(block))
            .count();
        if run >= 3 {
            keep[at..at + run].fill(false);
        }
        at += run.max(1);
    }
    let mut keep = keep.into_iter();
    blocks.retain(|_| keep.next().unwrap_or(true));
}

/// Links at the end of a page, with the short label above them (`Related topics`).
fn drop_trailing_links(blocks: &mut Vec<Block>) {
    const LABEL: usize = 20;
    let n_before = blocks.len();
    while blocks.len() > 1
        && blocks
            .last()
            .is_some_and(|block| matches!(block.kind, Kind::Text | Kind::Item) && block.is_link())
    {
        blocks.pop();
    }
    let is_label = |block: &Block| {
        block.text.chars().count() <= LABEL && !block.text.ends_with(super::text::is_terminal)
    };
    if blocks.len() < n_before && blocks.len() > 1 && blocks.last().is_some_and(is_label) {
        blocks.pop();
    }
}

/// A paragraph or heading that was there before is a template's; a short one (`Example:`) may come again.
fn drop_repeats(blocks: &mut Vec<Block>) {
    const SHORT: usize = 20;
    let mut seen = HashSet::new();
    let mut before: Option<String> = None;
    blocks.retain(|block| {
        let line = block.line();
        let is_long =
            matches!(block.kind, Kind::Text | Kind::Heading(_)) && line.chars().count() >= SHORT;
        let repeats = before.as_ref() == Some(&line) || (is_long && !seen.insert(line.clone()));
        before = Some(line);
        !repeats
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(html: &str) -> String {
        extract(html, &Selectors::default()).unwrap().text
    }

    #[test]
    fn blocks_become_lines() {
        let page = "<html lang=ko><head><title> 도움\n말 </title></head><body><h1>Title</h1><p>One <b>two</b>\n three.\
            <ul><li><p>first</p></li><li>second<p>more</p></li></ul><ol start=3><li>third</ol>\
            <pre><code>\nfor x:\n    y\n</code></pre>\
            <table><tr><th>a</th><th></th><th>b</th></tr><tr><td>only</td></tr></table></body></html>";
        let found = extract(page, &Selectors::default()).unwrap();
        assert_eq!(
            found.text,
            "Title\nOne two three.\n- first\n- second\nmore\n3. third\nfor x:\n    y\na | b\nonly"
        );
        assert_eq!(found.title, "도움 말");
        assert_eq!(found.language.as_deref(), Some("ko"));
        assert_eq!(found.headings, vec![(1, "Title".to_owned())]);
    }

    #[test]
    fn what_is_no_text_of_the_page_is_left_out() {
        let page = "<body><nav>menu</nav><div class='site-nav'>menu</div><div id=sideBar>kept</div>\
            <p hidden>h</p><p style='display: none'>h</p><span aria-hidden=true>h</span>\
            <script>s()</script><header id=TopLeft>logo</header><p>body<span class=MAC hidden=true>Cmd</span></p>\
            <footer>f</footer></body>";
        assert_eq!(text(page), "kept\nbody");
    }

    #[test]
    fn menus_and_repeats_go() {
        let link = "<li><a href=x>somewhere</a></li>";
        let page = format!("<ul>{}</ul><ul>{link}{link}</ul>", link.repeat(4));
        // Six links in a row are one menu.
        assert_eq!(text(&page), "");
        let paragraph = "<p>This sentence stands on the page twice.</p>";
        let page =
            format!("<ul>{link}</ul>{paragraph}<p>Example:</p><p>a</p><p>Example:</p>{paragraph}");
        assert_eq!(
            text(&page),
            "- somewhere\nThis sentence stands on the page twice.\nExample:\na\nExample:"
        );
    }

    #[test]
    fn links_at_the_end_go_with_their_label() {
        let links = "<p><a href=x>Opening a file</a></p>".repeat(2);
        let page =
            format!("<p>Text of the page.</p>{links}<p>More.</p><p>Related Topics</p>{links}");
        assert_eq!(text(&page), "Text of the page.\nOpening a file\nMore.");
    }

    #[test]
    fn the_main_part_is_taken_where_it_holds_most_of_the_text() {
        let page = "<body><div>chrome</div><main><p>the long text of the page</p></main></body>";
        assert_eq!(text(page), "the long text of the page");
        let page =
            "<body><div>the long text of the page, outside of all</div><main>x</main></body>";
        assert_eq!(text(page), "the long text of the page, outside of all\nx");
    }

    #[test]
    fn selectors_name_more() {
        let selectors = Selectors {
            main: Some(Selector::parse(".body").unwrap()),
            drop: vec![Selector::parse(".howtoget").unwrap()],
        };
        let page = "<p>out</p><div class=body><div class=howtoget>Choose Edit</div><p>in</p></div>";
        assert_eq!(extract(page, &selectors).unwrap().text, "in");
    }

    proptest::proptest! {
        #[test]
        fn no_page_makes_it_panic(page in "(<(p|div|tr|td|li|ul|ol|pre|h2|a|/p|/div|/tr|/td|/li|/ul|/pre|/a)>|[a-z가 \n]{0,8}){0,40}") {
            extract(&page, &Selectors::default()).unwrap();
        }
    }
}
