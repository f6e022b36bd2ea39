"""Selects the raw text that ships: `data/raw/`, `data/heldout/`, `data/development/`, `data/make/pages.json`.

    python3 data/make/corpus.py WORK

WORK is an empty or earlier work folder; see README.md for what it must hold (unpacked Debian packages and crates).
Selection is by hashes of page names, so a page's fate does not depend on other pages.
"""

import json
import re
import sys
from pathlib import Path

import plant
from common import DATA, number, read, write, write_shards
from extract import hangul_share, libreoffice, mallard

LIBREOFFICE = {"ko": ("libreoffice-help-ko", "ko"), "en": ("libreoffice-help-en-us", "en-US")}
GNOME = {"ko": "ko", "en": "C"}
CRATES = ["aho-corasick-1.1.5", "bytes-1.12.2", "either-1.19.0", "memchr-2.8.3", "regex-syntax-0.8.12", "serde_json-1.0.154", "smallvec-1.16.6"]
CODE_BYTES = 1_250_000
CODE_DOCUMENT = 8_000
CODE_FILE = 64_000
HTML_BYTES = 32_000
TEXT_CHARACTERS = 300
HELD_OUT = {"help": 12, "gnome": 7, "code": 12}
EVALUATION_BYTES = {"heldout": 64_000, "development": 48_000}


def libreoffice_pages(work, language):
    package, locale = LIBREOFFICE[language]
    root = work / package / "usr/share/libreoffice/help" / locale / "text"
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*.html"))}


def gnome_pages(work, language):
    root = work / "gnome-user-docs/usr/share/help" / GNOME[language]
    pages = {}
    for path in sorted(root.glob("*/*.page")):
        text = mallard(path)
        if len(text) >= 60:
            pages[f"{path.parent.name}/{path.name}"] = text
    return pages


def rated():
    """Names of all rated pages: they are in the corpus whatever the other rules say."""
    names = set()
    for language in ("ko", "en"):
        for rating in read(DATA / "ratings" / language / "ratings.jsonl"):
            names.add(rating["page"].split(":", 2)[2])
    return names


def held_out(group, name):
    return number("held-out", group, name) % HELD_OUT[group] == 0


def choose_libreoffice(pages, texts, keep):
    """Rated pages; pages whose Korean side is Korean; one in six of the others (part-translated pages are real noise)."""
    for name in sorted(pages["ko"].keys() & pages["en"].keys()):
        if name in keep:
            yield name
        elif any(len(pages[language][name].encode()) > HTML_BYTES or len(texts[language][name]) < TEXT_CHARACTERS for language in pages):
            continue
        elif hangul_share(texts["ko"][name]) >= 0.5 or number("untranslated", name) % 6 == 0:
            yield name


def text_of(record):
    return record["text"] if "text" in record else libreoffice(record["html"])


def shingles(text, n=8):
    words = text.split()
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def clean_held_out(candidates, training):
    """Held-out pages that no training page repeats: at most a quarter of their 8-word runs occur in the corpus."""
    seen = set()
    for text in training:
        seen |= shingles(text)
    for record in candidates:
        own = shingles(text_of(record))
        if len(own & seen) <= len(own) / 4:
            yield record


def evaluation_page(language, text):
    return 400 <= len(text) <= 8_000 and (language == "en" or hangul_share(text) >= 0.6)


def build_libreoffice(work, pages_out):
    pages = {language: libreoffice_pages(work, language) for language in ("ko", "en")}
    texts = {language: {name: libreoffice(html) for name, html in pages[language].items()} for language in pages}
    names = list(choose_libreoffice(pages, texts, rated()))
    for language, (_, locale) in LIBREOFFICE.items():
        wanted = sorted(set(names) | (rated() & pages[language].keys()))
        write(work / "pages" / f"{language}.jsonl", [{"id": f"libreoffice-help:{locale}:{name}", "html": pages[language][name]} for name in wanted])
    pages_out["libreoffice-help"] = [name for name in names if not held_out("help", name)]
    for language, (_, locale) in LIBREOFFICE.items():
        records = [{"id": f"libreoffice-help:{locale}:{name}", "source": "libreoffice-help", "html": pages[language][name]} for name in pages_out["libreoffice-help"]]
        records += plant.duplicates(records, rated(), language)
        plant.personal(records, rated(), language, "libreoffice-help")
        save(f"libreoffice-help-{language}", records)
        candidates = [
            {"id": f"libreoffice-help:{locale}:{name}", "source": "libreoffice-help", "html": pages[language][name]}
            for name in names
            if held_out("help", name) and evaluation_page(language, texts[language][name])
        ]
        training = [texts[language][name] for name in pages_out["libreoffice-help"]]
        save_held_out(f"help-{language}", clean_held_out(candidates, training))


def build_gnome(work, pages_out):
    pages = {language: gnome_pages(work, language) for language in ("ko", "en")}
    everywhere = sorted(pages["ko"].keys() | pages["en"].keys())
    pages_out["gnome-help"] = [name for name in everywhere if not held_out("gnome", name)]
    for language, locale in GNOME.items():
        records = [
            {"id": f"gnome-user-docs:{locale}:{name}", "source": "gnome-help", "text": pages[language][name]}
            for name in pages_out["gnome-help"]
            if name in pages[language]
        ]
        training = [record["text"] for record in records]
        plant.personal(records, rated(), language, "gnome-help")
        save(f"gnome-help-{language}", records)
        candidates = [
            {"id": f"gnome-user-docs:{locale}:{name}", "source": "gnome-help", "text": text}
            for name, text in pages[language].items()
            if held_out("gnome", name) and evaluation_page(language, text)
        ]
        save_held_out(f"gnome-{language}", clean_held_out(candidates, training))


ITEM = re.compile(r"(?:///|//!|#\[|#!\[|pub |fn |impl|struct |enum |trait |mod |use |const |static |unsafe |macro_rules|type )")


def code_documents(text):
    """Pieces of a file of at most about CODE_DOCUMENT characters, cut before an item that follows an empty line."""
    piece, before = "", "\n"
    for line in text.splitlines(keepends=True):
        border = before.strip() == "" and ITEM.match(line)
        if piece and ((border and len(piece) + 1_500 > CODE_DOCUMENT) or len(piece) + len(line) > CODE_DOCUMENT):
            yield piece
            piece = ""
        piece += line
        before = line
    if piece.strip():
        yield piece


def build_code(work):
    files = {}
    for crate in CRATES:
        root = work / "crates" / crate
        for path in sorted(root.rglob("src/**/*.rs")):
            text = path.read_text()
            if 300 <= len(text.encode()) <= CODE_FILE:
                files[f"{crate}:{path.relative_to(root)}"] = text
    records, held, size = [], [], 0
    for name in sorted(files, key=lambda name: number("code", name)):
        documents = [
            {"id": f"crate:{name}#{index:02}", "source": "rust-code", "text": piece} for index, piece in enumerate(code_documents(files[name]))
        ]
        if held_out("code", name):
            held += documents
        elif size < CODE_BYTES:
            records += documents
            size += len(files[name].encode())
    save("rust-code", records)
    save_held_out("code", clean_held_out(held, [record["text"] for record in records]))


def save(name, records):
    size = write_shards(DATA / "raw" / name, records, lambda record: record["id"].split(":")[-1].split("#")[0])
    text = sum(len(text_of(record).encode()) for record in records)
    print(f"raw/{name}: {len(records)} records, {text} bytes of text, {size} bytes on disk")


def save_held_out(name, records):
    """Three in five pages for evaluation, the others for decisions along the way; pieces of a file stay together."""
    records = sorted(records, key=lambda record: number("held-out order", record["id"]))
    development = lambda record: number("development", record["id"].split(":", 2)[2].split("#")[0]) % 5 < 2  # noqa: E731
    for folder, wanted in (("heldout", False), ("development", True)):
        kept, size = [], 0
        for record in records:
            if development(record) == wanted and size < EVALUATION_BYTES[folder]:
                kept.append(record)
                size += len(text_of(record).encode())
        kept.sort(key=lambda record: record["id"])
        write(DATA / folder / f"{name}.jsonl.zst", kept)
        print(f"{folder}/{name}: {len(kept)} records, {size} bytes")


def main():
    work = Path(sys.argv[1])
    pages = {}
    plant.start()
    build_libreoffice(work, pages)
    build_gnome(work, pages)
    build_code(work)
    plant.finish()
    (DATA / "make" / "pages.json").write_text(json.dumps(pages, indent=0, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
