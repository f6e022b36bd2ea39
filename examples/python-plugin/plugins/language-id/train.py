#!/usr/bin/env python3
"""Trains a language identifier: softmax regression over hashed character n-grams.

A kbuild plugin in the standard library alone. It shows what a long task owes to a build:

* progress, metrics and notes are JSON lines on stdout; people's words go to stderr;
* after every epoch the state is saved to the `partial` directory, so that a later attempt goes on from there and
  ends with the same bytes as an attempt that nobody interrupted;
* SIGTERM means: save and leave;
* outputs are written at the paths of the request, and nowhere else.
"""

import json
import math
import os
import random
import signal
import sys
import zlib

STOP = False


def main():
    signal.signal(signal.SIGTERM, ask_to_stop)
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    if request["protocol"] != 1:
        fail("environment", f"this plugin speaks protocol 1, the request is of {request['protocol']}")
    params = request["params"]
    examples, labels = read_documents(request["inputs"]["documents"])
    features = [ngrams(text, params["buckets"]) for text, _ in examples]
    targets = [labels.index(label) for _, label in examples]

    state = load_state(request["partial"], len(labels), params["buckets"])
    while state["epoch"] < params["epochs"]:
        if STOP:
            fail("interrupted", "stopped after a checkpoint; the next attempt goes on from there")
        loss = train_epoch(state, features, targets, params)
        state["losses"].append(loss)
        state["epoch"] += 1
        save_state(request["partial"], state)
        say(event="checkpoint", step=state["epoch"])
        say(event="metric", step=state["epoch"], name="loss", value=loss)
        say(event="progress", done=state["epoch"], total=params["epochs"], unit="epochs")

    write_outputs(request["outputs"], state, labels, features, targets)


def read_documents(artifacts):
    """JSON lines with `text` and `language` → [(text, language)], and the sorted languages."""
    examples = []
    for artifact in artifacts:
        for path in artifact["parts"] or [artifact["path"]]:
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    try:
                        record = json.loads(line)
                        examples.append((record["text"], record["language"]))
                    except (ValueError, KeyError) as error:
                        name = os.path.basename(path)
                        fail("input", f"line {number} of `{name}` ({artifact['label']}): {error!r}",
                             "each line is a JSON object with `text` and `language`")
    labels = sorted({label for _, label in examples})
    if len(labels) < 2:
        fail("input", f"at least two languages are needed, found {labels}")
    return examples, labels


def ngrams(text, buckets):
    """Counts of hashed n-grams of 1 to 3 characters, scaled to length 1."""
    counts = {}
    padded = f" {text.lower()} "
    for n in (1, 2, 3):
        for start in range(len(padded) - n + 1):
            # crc32 is the same in every process; hash() of a str is not.
            bucket = zlib.crc32(padded[start:start + n].encode()) % buckets
            counts[bucket] = counts.get(bucket, 0) + 1
    norm = math.sqrt(sum(count * count for count in counts.values()))
    return [(bucket, count / norm) for bucket, count in sorted(counts.items())]


def train_epoch(state, features, targets, params):
    """One pass in an order that depends on seed and epoch alone; returns the mean loss in nats."""
    order = list(range(len(features)))
    random.Random(f"{params['seed']}/{state['epoch']}").shuffle(order)
    total = 0.0
    for index in order:
        probabilities = predict(state["weights"], features[index])
        total -= math.log(max(probabilities[targets[index]], 1e-12))
        for label, row in enumerate(state["weights"]):
            error = probabilities[label] - (1.0 if label == targets[index] else 0.0)
            for bucket, value in features[index]:
                row[bucket] -= params["learning_rate"] * error * value
    return total / len(features)


def predict(weights, feature):
    logits = [sum(row[bucket] * value for bucket, value in feature) for row in weights]
    top = max(logits)
    powers = [math.exp(logit - top) for logit in logits]
    return [power / sum(powers) for power in powers]


def load_state(partial, n_labels, buckets):
    path = os.path.join(partial, "state.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        say(event="note", text=f"goes on after epoch {state['epoch']}")
        return state
    return {"epoch": 0, "losses": [], "weights": [[0.0] * buckets for _ in range(n_labels)]}


def save_state(partial, state):
    """Whole or not at all: a kill in the middle leaves the state of the epoch before."""
    path = os.path.join(partial, "state.json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def write_outputs(outputs, state, labels, features, targets):
    rows = [predict(state["weights"], feature) for feature in features]
    right = sum(row.index(max(row)) == target for row, target in zip(rows, targets))
    report = {
        "labels": labels,
        "documents": len(features),
        "accuracy": right / len(features),
        "loss": state["losses"][-1],
        "weights": [[round(weight, 12) for weight in row] for row in state["weights"]],
    }
    with open(outputs["report"], "w", encoding="utf-8") as file:
        json.dump(report, file, sort_keys=True)
    with open(outputs["metrics"], "w", encoding="utf-8") as file:
        for step, loss in enumerate(state["losses"], 1):
            file.write(json.dumps({"step": step, "loss": loss}) + "\n")
    say(event="fact", port="report", name="accuracy", value=report["accuracy"])


def say(**event):
    print(json.dumps(event), flush=True)


def fail(reason, message, help=""):
    say(**{"event": "failed", "class": reason, "message": message, "help": help})
    sys.exit(1)


def ask_to_stop(_signal, _frame):
    global STOP
    STOP = True


if __name__ == "__main__":
    main()
