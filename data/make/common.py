"""Reading and writing of the records that ship: zstd JSONL with the same bytes every time.

Knows nothing of what the records mean.
"""

import hashlib
import json
import subprocess
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent
SHARDS = 8


def number(*parts):
    """A 64-bit number that depends on the given strings alone: every selection and shuffle is made with it."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big")


def shuffled(items, *salt):
    """The items in an order that depends on their content and the salt, not on the order they came in."""
    return sorted(items, key=lambda item: (number(*salt, json.dumps(item, sort_keys=True, ensure_ascii=False))))


def line(record):
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def write(path, records):
    """Writes JSONL; compressed when the name says so. One thread and one level: the bytes depend on the text alone."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(line(record) + "\n" for record in records).encode()
    if path.suffix == ".zst":
        body = subprocess.run(["zstd", "-q", "-19", "--single-thread", "-c"], input=body, stdout=subprocess.PIPE, check=True).stdout
    path.write_bytes(body)
    return len(body)


def read(path):
    path = Path(path)
    body = path.read_bytes()
    if path.suffix == ".zst":
        body = subprocess.run(["zstd", "-dqc"], input=body, stdout=subprocess.PIPE, check=True).stdout
    return [json.loads(text) for text in body.decode().split("\n") if text]


def write_shards(folder, records, key):
    """Eight shards; a record's shard depends on its key alone, so that both languages of a page fall into the same one."""
    parts = [[] for _ in range(SHARDS)]
    for record in sorted(records, key=lambda record: record["id"]):
        parts[number("shard", key(record)) % SHARDS].append(record)
    return sum(write(Path(folder) / f"{index:02}.jsonl.zst", part) for index, part in enumerate(parts))
