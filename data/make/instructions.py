"""Instructions, preferences and prompts: `data/chat/`, `data/instruction/`, `data/preferences/`, `data/prompts/`.

    python3 data/make/instructions.py

Reads `data/raw/` alone. A task's set is decided by the hash of its prompt, so that no prompt is in two sets:
5 % evaluation, 5 % held-out preferences, 18 % prompts for online rounds, the rest for training.
"""

from collections import Counter, defaultdict

import families
from common import DATA, number, read, shuffled, write
from extract import hangul_share, libreoffice_blocks

EXPLAINED_PAGES = 260
HEADINGS = 170
ANSWER = {"ko": 70, "en": 120}
PREFERENCES = 3_000
PUBLIC = 900
PUBLIC_FLIPPED = 6  # one in six
INSTRUCTION_DOCUMENTS = 600


def pages(language):
    """Name of a page → (title, first paragraph), pages with planted text left out."""
    planted = {entry["id"] for entry in read(DATA / "raw" / "planted-pii.jsonl")}
    found = {}
    for path in sorted((DATA / "raw").glob(f"*-{language}/*.jsonl.zst")):
        for record in read(path):
            if record["id"] in planted or "?copy" in record["id"]:
                continue
            blocks = [text for _, text in libreoffice_blocks(record["html"])] if "html" in record else record["text"].split("\n\n")
            if len(blocks) >= 2:
                found[record["source"] + ":" + record["id"].split(":", 2)[2]] = (blocks[0], blocks[1])
    return found


def right_language(language, text):
    share = hangul_share(text)
    return share >= 0.6 if language == "ko" else share == 0


def headings(korean, english):
    """Short titles of the same page in both languages, one translation each."""
    pairs = []
    for name in sorted(korean.keys() & english.keys()):
        pair = (english[name][0], korean[name][0])
        if 3 <= len(pair[0]) <= 22 and 2 <= len(pair[1]) <= 14 and right_language("ko", pair[1]) and right_language("en", pair[0]):
            pairs.append(pair)
    counts = [Counter(pair[side] for pair in set(pairs)) for side in (0, 1)]
    unique = {pair for pair in pairs if counts[0][pair[0]] == 1 and counts[1][pair[1]] == 1}
    return shuffled([list(pair) for pair in unique], "headings")[:HEADINGS]


def sections(language, found):
    titles = Counter(title for title, _ in found.values())
    answers = Counter(paragraph for _, paragraph in found.values())
    result = []
    for title, paragraph in found.values():
        answer = families.opening(paragraph, ANSWER[language])
        fits = 3 <= len(title) <= 40 and len(answer) >= 20 and title != answer
        if fits and titles[title] == 1 and answers[paragraph] == 1 and right_language(language, title) and right_language(language, answer):
            result.append([language, title, answer])
    return shuffled(result, "sections")[:EXPLAINED_PAGES]


def tasks():
    korean, english = pages("ko"), pages("en")
    all_sections = sections("ko", korean) + sections("en", english)
    everything = [
        *families.arithmetic(),
        *families.counting(),
        *families.formatting(),
        *families.translate([tuple(pair) for pair in headings(korean, english)]),
        *families.explain(all_sections),
    ]
    by_prompt = defaultdict(list)
    for task in everything:
        by_prompt[task.prompt].append(task)
    return [same[0] for same in by_prompt.values() if len({task.answer for task in same}) == 1]


def split(task):
    value = number("split", task.prompt) % 100
    return "eval" if value < 5 else "held-out" if value < 10 else "online" if value < 28 else "train"


def user(task):
    return [{"role": "user", "content": task.prompt}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def described(task, **first):
    return {**first, "domain": task.domain, "language": task.language, "gold": task.gold}


# Instruction data has many authors, and they do not agree on manners: one conversation in three answers in a sentence,
# or with a word before. Preferences want the answer alone. So there is something that preferences can teach and a
# conversation more cannot: what a model has not memorised it does not learn from a few thousand pairs.
WORDY = {
    "en": ["The answer is {answer}.", "I think it is {answer}.", "Sure, here you are: {answer}"],
    "ko": ["답은 {answer}입니다.", "제 생각에는 {answer}입니다.", "네, 여기 있습니다: {answer}"],
}


def wordy(task):
    options = WORDY[task.language]
    if len(task.answer) >= 12 or "\n" in task.answer:
        options = options[2:]  # a sentence does not fit around a list or around sentences
    return options[number("manner", task.prompt) % len(options)].format(answer=task.answer)


def conversation(task):
    return wordy(task) if number("wordy", task.prompt) % 3 == 0 else task.answer


REFUSALS = {"en": ["I do not know.", "...", "OK."], "ko": ["모르겠습니다.", "...", "네."]}
RAMBLING = {
    "en": ["and so on and so on", "This is the answer, as far as one can say", "There are many more things to say here"],
    "ko": ["그리고 또 그리고 또", "이것이 답이라고 할 수 있을지도 모릅니다", "여기에는 할 말이 더 많이 있습니다"],
}


def rejections(task):
    """`(kind of error, response)`: each is worse than the answer under the gold reward, some shorter, some longer."""
    pick = lambda options, salt: options[number(salt, task.prompt) % len(options)]  # noqa: E731
    answer = task.answer
    for value in task.wrong:
        yield "wrong", value
    if task.foreign:
        yield "wrong-language", task.foreign
    yield "repetition", " ".join([answer] * (2 + number("times", task.prompt) % 3)) if len(answer) < 40 else f"{answer} {answer}"
    yield "rambling", f"{pick(task.wrong, 'ramble')} {pick(RAMBLING[task.language], 'which')}"
    yield "wordy", wordy(task)
    yield "no-content", pick(REFUSALS[task.language], "refusal")
    if len(answer) >= 12:
        yield "truncated", answer[: len(answer) // 3].rstrip()


# How often each kind of error is taken, where a task has it. Apart from wordy answers, short and long errors balance.
OFTEN = {"wrong": 8, "wordy": 8, "wrong-language": 3, "no-content": 3, "truncated": 4, "repetition": 2, "rambling": 1}


def preference(task, salt, flip=False):
    options = list(rejections(task))
    kinds = sorted({kind for kind, _ in options})
    urn = [kind for kind in kinds for _ in range(OFTEN[kind])]
    kind = urn[number("kind", salt, task.prompt) % len(urn)]
    candidates = [text for name, text in options if name == kind]
    rejected = candidates[number("rejected", salt, task.prompt) % len(candidates)]
    chosen, rejected = (rejected, task.answer) if flip else (task.answer, rejected)
    return described(task, prompt=user(task), chosen=assistant(chosen), rejected=assistant(rejected), error=kind)


def public(task):
    """Stands in for public preference data: one pair in six is the wrong way round."""
    return preference(task, "public", flip=number("flip", task.prompt) % PUBLIC_FLIPPED == 0)


def balanced(tasks_of_set, n, salt):
    """About n tasks with equal numbers of each domain, as far as they go round."""
    by_domain = defaultdict(list)
    for task in sorted(tasks_of_set, key=lambda task: number(salt, task.prompt)):
        by_domain[task.domain].append(task)
    chosen = []
    share = n // len(by_domain)
    for domain in sorted(by_domain):
        chosen += by_domain[domain][:share]
    return sorted(chosen, key=lambda task: number(salt, "order", task.prompt))


def shards(folder, records, n=4):
    for index in range(n):
        write(DATA / folder / f"{index:02}.jsonl.zst", records[index::n])


def documents(training):
    """Plain documents for the end of pre-training: five questions of one language each."""
    for language, marks in {"en": ("Question:", "Answer:"), "ko": ("질문:", "답:")}.items():
        own = [task for task in sorted(training, key=lambda task: number("documents", task.prompt)) if task.language == language]
        for index in range(min(INSTRUCTION_DOCUMENTS // 2, len(own) // 5)):
            text = "\n\n".join(f"{marks[0]} {task.prompt}\n{marks[1]} {task.answer}" for task in own[5 * index : 5 * index + 5])
            yield {"id": f"instruction:{language}:{index:04}", "source": "instruction", "text": text}


def report(name, records):
    if records and "chosen" in records[0]:
        sizes = [sum(len(record[side][0]["content"]) for record in records) / len(records) for side in ("chosen", "rejected")]
        extra = f", mean characters chosen {sizes[0]:.1f}, rejected {sizes[1]:.1f}, shorter chosen in {sum(len(r['chosen'][0]['content']) < len(r['rejected'][0]['content']) for r in records)}, {dict(sorted(Counter(record['error'] for record in records).items()))}"
    else:
        extra = f", {dict(sorted(Counter(record.get('domain') for record in records).items()))}"
    print(f"{name}: {len(records)}{extra}")


def main():
    sets = defaultdict(list)
    for task in tasks():
        sets[split(task)].append(task)
    training = sorted(sets["train"], key=lambda task: number("train", task.prompt))
    prompts = {name: {task.prompt for task in sets[name]} for name in sets}
    assert not any(prompts[a] & prompts[b] for a in prompts for b in prompts if a != b), "a prompt is in two sets"
    for domain in sorted({task.domain for task in training}):
        records = [described(task, messages=user(task) + assistant(conversation(task))) for task in training if task.domain == domain]
        write(DATA / "chat" / f"{domain}.jsonl.zst", records)
        report(f"chat/{domain}", records)
    pairs = [preference(task, "offline") for task in balanced(training, PREFERENCES, "preferences")]
    shards("preferences/train", pairs)
    report("preferences/train", pairs)
    noisy = [public(task) for task in balanced(training, PUBLIC, "public")]
    write(DATA / "preferences" / "public.jsonl.zst", noisy)
    report("preferences/public", noisy)
    held = [preference(task, "held-out") for task in balanced(sets["held-out"], 320, "held-out")]
    write(DATA / "preferences" / "held-out.jsonl.zst", held)
    report("preferences/held-out", held)
    online = [described(task, messages=user(task)) for task in balanced(sets["online"], 1_400, "online")]
    write(DATA / "prompts" / "online.jsonl.zst", online)
    report("prompts/online", online)
    evaluation = balanced(sets["eval"], 300, "eval")
    for domain in sorted({task.domain for task in evaluation}):
        records = [described(task, messages=user(task)) for task in evaluation if task.domain == domain]
        write(DATA / "prompts" / "eval" / f"{domain}.jsonl.zst", records)
        report(f"prompts/eval/{domain}", records)
    plain = list(documents(training))
    shards("instruction", plain)
    report("instruction", plain)


if __name__ == "__main__":
    main()
