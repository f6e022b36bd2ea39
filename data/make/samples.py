"""Labels of the quality classifiers, and the frozen samples that tokenizer and classifiers learn from.

    python3 data/make/samples.py WORK

Reads `data/raw/`, `data/ratings/`, and in WORK the text of LibreOffice's pages as the `extract` kind gives it
(`extracted/*`); writes `data/labels/`, `data/samples/`. The samples are sources of their own: an edited document does
not change them.
"""

import sys
from pathlib import Path

import corpus
from common import DATA, number, read, write
from extract import hangul_share

TOKENIZER_BYTES = {"ko": 480_000, "en": 360_000, "code": 240_000}
POOL_PAGES = 600


def extracted(work):
    """Id → text of every LibreOffice page that is in use, as the pipeline extracts it."""
    return {record["id"]: record["text"] for path in sorted((work / "extracted").iterdir()) for record in read(path)}


def raw(texts, *names):
    """Text of every record of the named sets, planted and copied pages left out."""
    planted = {entry["id"] for entry in read(DATA / "raw" / "planted-pii.jsonl")}
    for name in names:
        for path in sorted((DATA / "raw" / name).glob("*.jsonl.zst")):
            for record in read(path):
                if record["id"] not in planted and "?copy" not in record["id"]:
                    yield {"id": record["id"], "source": record["source"], "text": record.get("text") or texts[record["id"]]}


def labels(work, pages, language):
    """Every rated page that has text, with its score; the text is what the pipeline's extraction gives for it."""
    texts = dict(pages)
    wanted = {rating["page"]: rating for rating in read(DATA / "ratings" / language / "ratings.jsonl")}
    for name, text in corpus.gnome_pages(work, language).items():
        texts[f"gnome-user-docs:{corpus.GNOME[language]}:{name}"] = text
    records = [
        {"id": page, "source": rating["source"], "score": rating["score"], "split": rating["split"], "text": texts[page]}
        for page, rating in sorted(wanted.items())
        if texts.get(page)
    ]
    missing = len(wanted) - len(records)
    size = write(DATA / "labels" / f"{language}.jsonl.zst", records)
    print(f"labels/{language}: {len(records)} pages ({missing} rated pages without text), {size} bytes")


def sample(records, budget, salt):
    chosen, size = [], 0
    for record in sorted(records, key=lambda record: number(salt, record["id"])):
        if size >= budget:
            break
        chosen.append(record)
        size += len(record["text"].encode())
    return sorted(chosen, key=lambda record: record["id"])


def save(name, records):
    size = write(DATA / "samples" / f"{name}.jsonl.zst", records)
    print(f"samples/{name}: {len(records)} records, {sum(len(r['text'].encode()) for r in records)} bytes of text, {size} on disk")


def main():
    work = Path(sys.argv[1])
    pages = extracted(work)
    web = {language: list(raw(pages, f"gnome-help-{language}", f"libreoffice-help-{language}")) for language in ("ko", "en")}
    korean = [record for record in web["ko"] if hangul_share(record["text"]) >= 0.5]
    save("tokenizer-ko", sample(korean, TOKENIZER_BYTES["ko"], "tokenizer"))
    save("tokenizer-en", sample(web["en"], TOKENIZER_BYTES["en"], "tokenizer"))
    save("tokenizer-code", sample(raw(pages, "rust-code"), TOKENIZER_BYTES["code"], "tokenizer"))
    for language in ("ko", "en"):
        labels(work, pages, language)
        rated = {rating["page"] for rating in read(DATA / "ratings" / language / "ratings.jsonl")}
        pool = [record for record in web[language] if record["id"] not in rated]
        save(f"pool-{language}", sorted(sorted(pool, key=lambda record: number("pool", record["id"]))[:POOL_PAGES], key=lambda record: record["id"]))


if __name__ == "__main__":
    main()
