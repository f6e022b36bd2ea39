#!/usr/bin/env bash
# Everything that needs a card, in one call of under ten minutes: operations, vectors, determinism and properties on
# the card, then training beside PyTorch and sampling, and one table.
#
#     benches/gpu-pack FOLDER          # where cargo is
#     FOLDER/gpu.sh                    # where the card is: the driver, CUDA 13, Python with PyTorch; no cargo, no network
#
# PYTHON names another Python, SECONDS_EACH how long a measurement runs. Exit code 1: a test failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
seconds=${SECONDS_EACH:-12}
results=${OUT:-$(mktemp -d)}
failed=0

# PyTorch's own CUDA libraries serve kbuild as well.
libraries=$("$python" -c 'import os, nvidia
root = list(nvidia.__path__)[0]
print(":".join(sorted(os.path.join(root, p, "lib") for p in os.listdir(root) if os.path.isdir(os.path.join(root, p, "lib")))))' 2>/dev/null)
export LD_LIBRARY_PATH="${libraries:+$libraries:}${LD_LIBRARY_PATH:-}"

echo '== machine'
"$here/kbuild" doctor
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null

# A test that finds no card says so and passes: here that is a failure.
tests() {
    echo "== $1"
    timeout "$3" env KBUILD_VECTORS="$here/numbers" "$here/$2" cuda --test-threads=1 --nocapture >"$results/$2.txt" 2>&1
    local code=$?
    grep -E '^test |^test result|panicked|not run' "$results/$2.txt"
    if [ $code -ne 0 ] || grep -q 'not run on a GPU' "$results/$2.txt"; then
        failed=1
        tail -n 40 "$results/$2.txt"
    fi
}

tests 'operations, determinism, properties' operations 120
tests 'vectors' vectors 120

echo '== agreement with the processor (relative), and the same bits twice'
timeout 60 "$here/gpu" agreement | tee "$results/agreement.json"
[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1

# A row of the table, from what both wrote.
row() {
    "$python" - "$results" "$1" "$2" <<'PYTHON'
import json, pathlib, sys

# The dense bf16 peak of data sheets (H100, H200), for MFU; the measured rate of the card stands beside it.
PEAK = 989e12
folder, model, length = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]


def read(who):
    try:
        return json.loads((folder / f"{who}-{model}-{length}.json").read_text())
    except (OSError, ValueError):
        return None


own, torch = read("kbuild"), read("pytorch") or {}
if not own:
    sys.exit(f"{model:6}{length:>6}  did not run")
other, memory = torch.get("tokens_per_second", float("nan")), torch.get("memory_bytes", float("nan"))
print(
    f"{model:6}{length:>6}{own['rows']:>6}{own['tokens_per_second']:>14,.0f}{other:>15,.0f}"
    f"{own['tokens_per_second'] / other:>7.2f}{own['flops_per_second'] / PEAK:>7.1%}{own['share_of_matmul']:>11.1%}"
    f"{own['memory_bytes'] / 2**30:>7.1f}{own['predicted_bytes'] / 2**30:>11.1f}{memory / 2**30:>7.1f}"
    f"{own['sampled_tokens_per_second']:>11,.0f}{'yes' if own['sampled_alike_alone'] else 'NO':>7}"
)
PYTHON
}

echo "== training: MFU against 989 TFLOP/s, FLOPs of causal attention (Megatron-LM's formula); memory in GiB"
printf '%-6s%6s%6s%14s%15s%7s%7s%11s%7s%11s%7s%11s%7s\n' model T rows 'kbuild tok/s' 'PyTorch tok/s' ratio MFU \
    'of matmul' kbuild predicted torch sampled/s alike
for shape in 'm23 256 16' 'm124 1024 32' 'm124 2048 16' 'm350 1024 16' 'm350 2048 8'; do
    read -r model length rows <<<"$shape"
    words=("$model" --length "$length" --rows "$rows" --seconds "$seconds")
    timeout 60 "$here/gpu" "${words[@]}" >"$results/kbuild-$model-$length.json" 2>"$results/kbuild-$model-$length.log" ||
        { failed=1; tail -n 5 "$results/kbuild-$model-$length.log"; }
    timeout 90 "$python" "$here/pytorch_gpu.py" "${words[@]}" >"$results/pytorch-$model-$length.json" \
        2>"$results/pytorch-$model-$length.log" || tail -n 5 "$results/pytorch-$model-$length.log"
    row "$model" "$length"
done

echo "results: $results"
exit $failed
