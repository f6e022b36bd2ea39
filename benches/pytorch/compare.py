"""Runs kbuild's benchmark and PyTorch's in turn and prints the ratio of their medians.

    cargo bench -p kbuild-tasks --bench training-core --no-run      # prints the path of the program
    python -m venv /tmp/venv && /tmp/venv/bin/pip install torch
    /tmp/venv/bin/python benches/pytorch/compare.py PROGRAM train small m30 --modes eager compile
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def run(argv):
    last = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return json.loads(last.splitlines()[-1])


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("program")
    words.add_argument("what", choices=("train", "sample"))
    words.add_argument("shapes", nargs="+")
    words.add_argument("--modes", nargs="+", default=["eager"], choices=("eager", "compile"))
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--threads", type=int, default=2)
    words.add_argument("--seconds", type=float, default=5)
    words.add_argument("--batch", type=int, default=32)
    words = words.parse_args()
    common = ["--threads", words.threads, "--seconds", words.seconds, "--batch", words.batch]
    common = [str(word) for word in common]
    for shape in words.shapes:
        runs = {"kbuild": [words.program, words.what, shape, "--json", *common]}
        for mode in words.modes:
            argv = [sys.executable, HERE / "model.py", words.what, shape, *common]
            runs[mode] = argv + (["--compile"] if mode == "compile" else [])
        found = {name: [] for name in runs}
        for _ in range(words.rounds):
            for name, argv in runs.items():
                found[name].append(run(argv))

        def median(name, key):
            return statistics.median(result[key] for result in found[name])

        for name in runs:
            rate, cpu = (median(name, f"tokens_per_{per}") for per in ("second", "cpu_second"))
            memory = median(name, "peak_memory") / 2**20 if "peak_memory" in found[name][0] else 0
            ours = [median("kbuild", f"tokens_per_{per}") for per in ("second", "cpu_second")]
            print(
                f"{words.what} {shape:6} {name:8} {rate:9.0f} tokens/s {cpu:9.0f} per CPU second {memory:6.0f} MiB"
                f"   kbuild is {ours[0] / rate:5.2f}x, {ours[1] / cpu:5.2f}x per CPU second",
                flush=True,
            )


if __name__ == "__main__":
    main()
