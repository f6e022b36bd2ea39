"""Text of help pages: Mallard XML (GNOME) and the HTML of LibreOffice's help.

The HTML side is for titles, first sentences and selection alone; what is trained on comes from the `extract` kind.
"""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

MALLARD = "{http://projectmallard.org/1.0/}"
MALLARD_BLOCKS = {"p", "title", "code", "screen"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "tr", "pre", "dt", "dd", "div", "table", "ul", "ol", "br"}
SKIPPED = {"script", "style", "header", "footer", "aside", "nav", "noscript", "button", "form"}


def words(text):
    return " ".join(text.split())


def mallard_inline(element):
    """Text of a block; the words inside `media` stand for a picture and are left out."""
    text = element.text or ""
    for child in element:
        if isinstance(child.tag, str) and child.tag != MALLARD + "media":
            text += mallard_inline(child)
        text += child.tail or ""
    return text


def mallard_blocks(element):
    for child in element:
        if not isinstance(child.tag, str):
            continue
        tag = child.tag.removeprefix(MALLARD)
        if tag in MALLARD_BLOCKS or (tag == "desc" and element.tag == MALLARD + "figure"):
            text = words(mallard_inline(child))
            if text:
                yield text
        elif tag == "comment":  # writers' notes to themselves: real noise, left in
            text = "\n".join(words(mallard_inline(part)) for part in child)
            if text.strip():
                yield text
        elif tag not in ("info", "media"):
            yield from mallard_blocks(child)


def mallard(path):
    """A Mallard page as text: title first, blocks apart by an empty line."""
    return "\n\n".join(mallard_blocks(ElementTree.parse(path).getroot()))


class LibreOffice(HTMLParser):
    """Collects the blocks of the content area, headings with their level."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.stack, self.blocks, self.text, self.level = [], [], "", 0

    def flush(self):
        text = words(self.text)
        if text:
            self.blocks.append((self.level, text))
        self.text = ""

    def inside(self):
        return any(name == "DisplayArea" for _, name, _ in self.stack) and not any(skip for _, _, skip in self.stack)

    def handle_starttag(self, tag, attributes):
        if tag in BLOCKS and self.inside():
            self.flush()
            self.level = int(tag[1]) if re.fullmatch("h[1-6]", tag) else 0
        if tag in VOID:
            return
        values = dict(attributes)
        skip = tag in SKIPPED or "hidden" in values or values.get("class") in ("relatedtopics", "howtoget", "noteicon")
        self.stack.append((tag, values.get("id"), skip))

    def handle_endtag(self, tag):
        if tag in BLOCKS and self.inside():
            self.flush()
            self.level = 0
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index][0] == tag:
                del self.stack[index:]
                break

    def handle_data(self, data):
        if self.inside():
            self.text += data


def libreoffice_blocks(html):
    """`(heading level or 0, text)` of each block of a page."""
    parser = LibreOffice()
    parser.feed(html)
    parser.close()
    parser.flush()
    return parser.blocks


def libreoffice(html):
    return "\n\n".join(text for _, text in libreoffice_blocks(html))


def hangul_share(text):
    letters = [c for c in text if c.isalpha()]
    return sum("가" <= c <= "힣" for c in letters) / max(1, len(letters))
