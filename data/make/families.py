"""Families of short tasks with a checkable answer: each task is a prompt, its answer and how a response is judged.

All of them are small enough for a model of under a million parameters: one-digit numbers, counts to nine, two dozen
words, short headings. A family yields `Task`s; which set a task belongs to is decided elsewhere, by its prompt.
"""

import re
from dataclasses import dataclass, field

from common import number
from extract import hangul_share

WORDS = [
    ("dog", "개", "animal"), ("cat", "고양이", "animal"), ("bird", "새", "animal"), ("fish", "물고기", "animal"), ("horse", "말", "animal"),
    ("apple", "사과", "food"), ("bread", "빵", "food"), ("milk", "우유", "food"), ("rice", "쌀", "food"), ("egg", "달걀", "food"),
    ("book", "책", "thing"), ("pen", "펜", "thing"), ("desk", "책상", "thing"), ("chair", "의자", "thing"), ("door", "문", "thing"),
    ("car", "자동차", "vehicle"), ("bus", "버스", "vehicle"), ("train", "기차", "vehicle"), ("ship", "선박", "vehicle"), ("bicycle", "자전거", "vehicle"),
    ("sun", "해", "sky"), ("moon", "달", "sky"), ("star", "별", "sky"), ("cloud", "구름", "sky"),
]  # fmt: skip
CATEGORIES = {"animal": ("an animal", "동물"), "food": ("food", "음식"), "vehicle": ("a vehicle", "탈것"), "sky": ("in the sky", "하늘에 있는 것"), "thing": ("in a room", "방 안의 물건")}
PLURALS = {"animal": ("animals", "동물"), "food": ("kinds of food", "음식"), "vehicle": ("vehicles", "탈것")}


@dataclass
class Task:
    domain: str
    language: str
    prompt: str
    answer: str
    gold: dict
    wrong: list = field(default_factory=list)  # other answers of the same shape, all wrong
    foreign: str = ""  # the answer in the other language


def word(index, language):
    return WORDS[index][0 if language == "en" else 1]


def exact(answer):
    return {"check": "exact", "answer": answer}


def arithmetic():
    plus = {
        "en": ["{a} + {b} = ?", "What is {a} plus {b}?", "Add {a} and {b}.", "Compute {a} + {b}.", "How much is {a} + {b}?"],
        "ko": ["{a} + {b} = 얼마인가요?", "{a} 더하기 {b}는 얼마인가요?", "{a}와 {b}의 합을 쓰세요.", "{a} + {b}를 계산하세요.", "덧셈: {a} + {b}"],
    }
    minus = {
        "en": ["{a} - {b} = ?", "What is {a} minus {b}?", "Take {b} from {a}.", "Compute {a} - {b}."],
        "ko": ["{a} - {b} = 얼마인가요?", "{a} 빼기 {b}는 얼마인가요?", "{a} - {b}를 계산하세요.", "뺄셈: {a} - {b}"],
    }
    larger = {
        "en": ["Which is larger, {a} or {b}?", "The larger of {a} and {b}:"],
        "ko": ["{a}, {b} 중 더 큰 수는 무엇인가요?", "더 큰 수를 쓰세요: {a}, {b}"],
    }
    for templates, result in ((plus, lambda a, b: a + b), (minus, lambda a, b: a - b), (larger, max)):
        for a in range(10):
            for b in range(10):
                if (templates is minus and b > a) or (templates is larger and a == b):
                    continue
                answer = result(a, b)
                wrong = [str(value) for value in {answer + 1, answer - 1, answer + 2, a + b + 3} if value != answer and value >= 0]
                if templates is larger:
                    wrong = [str(min(a, b))]
                for language, texts in templates.items():
                    for text in texts:
                        yield Task("arithmetic", language, text.format(a=a, b=b), str(answer), exact(str(answer)), sorted(wrong))


def counting():
    templates = {
        "en": ["How many words: {items}?", "Count the words: {items}", "Count: {items}"],
        "ko": ["단어가 몇 개인가요? {items}", "단어를 세어 보세요: {items}", "개수: {items}"],
    }
    for language, texts in templates.items():
        for index in range(len(WORDS)):
            for n in range(1, 10):
                if number("counting", language, index, n) % 3 == 0:
                    continue
                wrong = [str(value) for value in (n - 1, n + 1, n + 2) if value > 0]
                for text in texts:
                    items = " ".join([word(index, language)] * n)
                    yield Task("counting", language, text.format(items=items), str(n), exact(str(n)), wrong)


def copy_list(language, salt):
    indices = sorted(range(len(WORDS)), key=lambda index: number("list", language, salt, index))[:3]
    return [word(index, language) for index in indices]


def formatting():
    lists = {
        "en": ["Write as a list: {items}", "Put a dash before each: {items}"],
        "ko": ["목록으로 쓰세요: {items}", "항목마다 줄표를 붙이세요: {items}"],
    }
    for language, texts in lists.items():
        for salt in range(450):
            items = copy_list(language, salt)
            answer = "\n".join(f"- {item}" for item in items)
            wrong = ["\n".join(f"- {item}" for item in copy_list(language, salt + 1000)), ", ".join(items), f"- {items[0]}"]
            text = texts[salt % 2]
            yield Task("format", language, text.format(items=", ".join(items)), answer, exact(answer), wrong)
    yield from naming()
    yield from repeating()
    yield from one_word()


def naming():
    templates = {
        "en": ["Name {n} {what}, one a line with a dash.", "Give me a list of {n} {what}.", "List {n} {what}."],
        "ko": ["{what} {n}가지를 줄표 목록으로 쓰세요.", "{what} {n}개를 나열하세요.", "{what} {n}가지 목록을 주세요."],
    }
    counts = {"en": {2: "two", 3: "three"}, "ko": {2: "두", 3: "세"}}
    for category, names in PLURALS.items():
        members = [index for index, entry in enumerate(WORDS) if entry[2] == category]
        for language, texts in templates.items():
            for n in (2, 3):
                for text in texts:
                    order = sorted(members, key=lambda index: number("naming", text, n, index))
                    chosen = [word(index, language) for index in order[:n]]
                    prompt = text.format(n=counts[language][n], what=names[0 if language == "en" else 1])
                    answer = "\n".join(f"- {item}" for item in chosen)
                    gold = {"check": "lines", "n": n, "prefix": "- "} if language == "en" else exact(answer)
                    wrong = [", ".join(chosen), "\n".join(chosen), "\n".join(f"- {chosen[0]}" for _ in range(n))]
                    yield Task("format", language, prompt, answer, gold, wrong)


def repeating():
    templates = {
        ("en", 2): ["Write {w} twice.", "Say {w} two times.", "Repeat twice: {w}"],
        ("en", 3): ["Write {w} three times.", "Repeat three times: {w}"],
        ("ko", 2): ["{w}, 두 번 쓰세요.", "두 번 반복하세요: {w}", "다음 단어를 두 번 쓰세요: {w}"],
        ("ko", 3): ["{w}, 세 번 쓰세요.", "세 번 반복하세요: {w}"],
    }
    for (language, n), texts in templates.items():
        for index in range(len(WORDS)):
            item = word(index, language)
            other = word((index + 7) % len(WORDS), language)
            for text in texts:
                answer = " ".join([item] * n)
                wrong = [item, " ".join([item] * (5 - n)), " ".join([other] * n)]
                yield Task("format", language, text.format(w=item), answer, exact(answer), wrong)
    for index in range(len(WORDS)):
        item = word(index, "en")
        for text in ["Write {w} in capitals.", "Capital letters: {w}", "Upper case: {w}", "대문자로 쓰세요: {w}"]:
            language = "ko" if hangul_share(text) > 0.3 else "en"
            gold = {"check": "pattern", "regex": f"^{item.upper()}[.!]?$"}
            wrong = [item, item.capitalize(), word((index + 5) % len(WORDS), "en").upper()]
            yield Task("format", language, text.format(w=item), item.upper(), gold, wrong)


def one_word():
    templates = {
        "en": ["One word: which is {what}, {x} or {y}?", "Answer with one word. Which is {what}: {x} or {y}?"],
        "ko": ["한 단어로 답하세요. {what}: {x}, {y}?", "{what}은 무엇인가요? {x}, {y} 중 하나만 쓰세요."],
    }
    for index, (_, _, category) in enumerate(WORDS):
        others = [other for other in range(len(WORDS)) if WORDS[other][2] != category]
        for other in sorted(others, key=lambda other: number("one word", index, other))[:8]:
            for language, texts in templates.items():
                right, wrong = word(index, language), word(other, language)
                what = CATEGORIES[category][0 if language == "en" else 1]
                for text in texts:
                    x, y = (right, wrong) if number(text, right, wrong) % 2 else (wrong, right)
                    yield Task("format", language, text.format(what=what, x=x, y=y), right, exact(right), [wrong, f"{right} {wrong}"])


def translate(headings):
    """`headings`: pairs (English, Korean) of short page titles; the two dozen words are translated as well."""
    templates = {
        "en": ["Translate to English: {x}", "In English: {x}", "What is {x} in English?", "영어로 옮기세요: {x}", "{x}, 영어로 무엇인가요?"],
        "ko": ["Translate to Korean: {x}", "In Korean: {x}", "한국어로 옮기세요: {x}", "{x}, 한국어로 무엇인가요?", "우리말로 쓰세요: {x}"],
    }
    pairs = [(english, korean, 5) for english, korean, _ in WORDS] + [(english, korean, 4) for english, korean in headings]
    for index, (english, korean, n_templates) in enumerate(pairs):
        for language, (source, target) in {"ko": (english, korean), "en": (korean, english)}.items():
            other = pairs[(index + 11) % len(pairs)][1 if language == "ko" else 0]
            for text in sorted(templates[language], key=lambda text: number(text, english))[:n_templates]:
                yield Task("translate", language, text.format(x=source), target, exact(target), [other], source)


def explain(sections):
    """`sections`: (language, title, first sentences); the answer is judged by its likeness to the page's own words."""
    templates = {
        "en": ["Explain: {t}", "Tell me about \"{t}\".", "{t}: what is it about?", "Help me with this: {t}"],
        "ko": ["설명해 주세요: {t}", "'{t}'에 대해 알려 주세요.", "{t}: 어떤 내용인가요?", "도와주세요: {t}"],
    }
    for index, (language, title, answer) in enumerate(sections):
        other = next(section for section in sections[index + 1 :] + sections if section[0] == language and section[1] != title)
        for text in sorted(templates[language], key=lambda text: number(text, title))[:4]:
            yield Task("explain", language, text.format(t=title), answer, {"check": "reference", "answer": answer}, [other[2]])


def sentences(text):
    return re.split(r"(?<=[.!?])\s+", text)


def opening(text, limit):
    """The first whole sentences of a paragraph, up to `limit` characters; empty when there are none."""
    taken = ""
    for sentence in sentences(text):
        longer = f"{taken} {sentence}".strip()
        if len(longer) > limit or not re.search(r"[.!?]$", sentence):
            break
        taken = longer
    return taken
