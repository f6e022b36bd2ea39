"""Noise with a known truth: personal data put into ordinary pages, and copies of pages.

Everything is invented. The numbers look right (checksums hold) and belong to nobody: mobile numbers from the unassigned
010-0 block and 555-01xx, mail domains under the reserved `.example`, resident numbers of people born in the 2090s, card
numbers from a test range.
"""

import re

from common import DATA, number, write

TRUTH, COPIES = [], []
PAGES_WITH_PERSONAL_DATA = {"libreoffice-help": 16, "gnome-help": 8}
EXACT, NEAR = 24, 24
PARTICLES = ["으로", "로", "에게", ""]
KO = [
    "이 페이지에 대한 문의는 메일 {email}{particle} 보내거나 전화 {phone}번으로 연락해 주십시오.",
    "번역 담당자: 김하늘 ({email}), 연락처 {phone}.",
    "예를 들어 고객 카드에는 이름 박서준, 주민등록번호 {rrn}, 전화 {phone}이 적혀 있습니다.",
    "결제에 쓴 카드 번호는 {card}이며 영수증은 {email}{particle} 보냈습니다.",
]
EN = [
    "Questions about this page go to {email} or by telephone to {phone}.",
    "Reviewed by Jane Doe <{email}>, phone {phone}.",
    "The sample customer paid with card {card}; the receipt went to {email}.",
    "The sheet holds the resident number {rrn} and the phone number {phone} of the customer.",
]
DECOYS = {
    "ko": "주문 번호 2041-1377-0032-118, 부품 번호 991342-10, 판 7.4.7.2.",
    "en": "Order 2041-1377-0032-118, part 991342-10, build 7.4.7.2.",
}


def start():
    TRUTH.clear()
    COPIES.clear()


def finish():
    write(DATA / "raw" / "planted-pii.jsonl", TRUTH)
    write(DATA / "raw" / "planted-duplicates.jsonl", COPIES)
    kinds = {}
    for entry in TRUTH:
        kinds[entry["kind"]] = kinds.get(entry["kind"], 0) + 1
    print(f"planted: {kinds} in {len({entry['id'] for entry in TRUTH})} records, {len(COPIES)} copies")


def email(seed, _):
    name = ["minseo.kim", "jihoon_lee", "haneul88", "a.park", "j.doe", "mary-ann", "helpdesk"][seed % 7]
    host = ["hanbit-post.example", "mail.dosan.example", "office.example", "northwind.example"][seed // 7 % 4]
    return f"{name}{seed // 28 % 90 + 10}@{host}"


def phone(seed, language):
    if language == "ko":
        return f"010-0{seed % 900 + 100}-{seed // 900 % 9000 + 1000}"
    return f"({seed % 700 + 201}) 555-01{seed // 700 % 90 + 10}"


def resident_number(seed, _):
    digits = f"{90 + seed % 10}{seed // 10 % 12 + 1:02}{seed // 120 % 28 + 1:02}{3 + seed % 2}{seed // 3360 % 90 + 1:02}{seed // 302400 % 1000:03}"
    weights = [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]
    check = (11 - sum(int(digit) * weight for digit, weight in zip(digits, weights)) % 11) % 10
    return f"{digits[:6]}-{digits[6:]}{check}"


def card(seed, _):
    digits = f"400000{seed % 10**9:09}"
    double = [int(digit) * (2 if index % 2 == 0 else 1) for index, digit in enumerate(digits)]
    digits += str(-sum(value - 9 if value > 9 else value for value in double) % 10)
    return "-".join(digits[i : i + 4] for i in range(0, 16, 4))


MAKERS = {"email": email, "phone": phone, "rrn": resident_number, "card": card}


def name_of(record):
    return record["id"].split(":", 2)[2]


def personal(records, rated, language, source):
    """Puts a sentence with personal data after the first block of some pages, and writes down where it is."""
    sentences = KO if language == "ko" else EN
    free = [record for record in records if name_of(record) not in rated and "copy" not in record["id"]]
    free = free or records
    chosen = sorted(free, key=lambda record: number("personal", record["id"]))[: PAGES_WITH_PERSONAL_DATA[source]]
    for index, record in enumerate(chosen):
        field = "html" if "html" in record else "text"
        sentence = sentences[index % len(sentences)]
        found = {kind: make(number("value", kind, record["id"]), language) for kind, make in MAKERS.items() if "{" + kind + "}" in sentence}
        text = sentence.format(particle=PARTICLES[number("particle", record["id"]) % 4], **found)
        if index % 4 == 3:
            text += " " + DECOYS[language]
        put(record, field, text)
        for kind, value in sorted(found.items()):
            start = record[field].index(value.replace("<", "&lt;"))
            TRUTH.append({"id": record["id"], "source": source, "language": language, "field": field, "kind": kind, "start": start, "end": start + len(value), "value": value})


def put(record, field, text):
    if field == "html":
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        at = record[field].index("</h1>") + len("</h1>") if "</h1>" in record[field] else record[field].index("</p>", record[field].index("DisplayArea")) + 4
        record[field] = f'{record[field][:at]}\n      <p class="paragraph" dir="auto">{escaped}</p>{record[field][at:]}'
    else:
        first, gap, rest = record[field].partition("\n\n")
        record[field] = f"{first}\n\n{text}{gap}{rest}"


def duplicates(records, rated, language):
    """Copies of pages under another name: some equal byte by byte, some with a stamp put in and a paragraph taken out."""
    free = sorted((record for record in records if name_of(record) not in rated), key=lambda record: number("copy", name_of(record)))
    copies = []
    for index, record in enumerate(free[: EXACT + NEAR]):
        exact = index < EXACT
        copy = dict(record, id=record["id"] + ("?copy" if exact else "?copy-edited"))
        if not exact:
            copy["html"] = edited(copy["html"], language, index)
        copies.append(copy)
        COPIES.append({"id": copy["id"], "of": record["id"], "exact": exact})
    return copies


def edited(html, language, index):
    paragraphs = list(re.finditer(r'<p id="par_id\d+" class="paragraph"[^>]*>.{20,120}?</p>', html, re.DOTALL))
    if len(paragraphs) > 3:
        last = paragraphs[-1]
        html = html[: last.start()] + html[last.end() :]
    if "</h1>" not in html:
        return html
    stamp = f"{index % 12 + 1}월에 고친 판입니다." if language == "ko" else f"Edition of month {index % 12 + 1}."
    at = html.index("</h1>") + len("</h1>")
    return f'{html[:at]}<p class="paragraph" dir="auto">{stamp}</p>{html[at:]}'
