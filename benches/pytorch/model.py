"""The model of kbuild's benchmark in plain PyTorch: a Llama with SDPA, trained with fused AdamW and clipping."""

import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

# name: layers, hidden, heads, key/value heads, ffn, vocabulary, length of a row, rows
SHAPES = {
    "tiny": (2, 64, 4, 2, 176, 512, 70, 2),
    "nano": (4, 128, 8, 4, 352, 2048, 256, 16),
    "small": (6, 256, 8, 4, 704, 8192, 256, 8),
    "m30": (8, 512, 8, 4, 1408, 8192, 512, 4),
}


def turn(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Layer(nn.Module):
    def __init__(self, d, heads, groups, ffn):
        super().__init__()
        self.heads, self.groups, self.hd = heads, groups, d // heads
        self.input_norm = nn.RMSNorm(d, eps=1e-6)
        self.qkv = nn.Linear(d, (heads + 2 * groups) * self.hd, bias=False)
        self.o = nn.Linear(heads * self.hd, d, bias=False)
        self.post_norm = nn.RMSNorm(d, eps=1e-6)
        self.gate_up = nn.Linear(d, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, d, bias=False)

    def forward(self, x, cos, sin, cache=None):
        b, t, _ = x.shape
        qkv = self.qkv(self.input_norm(x)).view(b, t, -1, self.hd).transpose(1, 2)
        q, k, v = qkv.split((self.heads, self.groups, self.groups), dim=1)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        if cache is not None:
            k, v = cache.add(k, v)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, -1))
        gate, up = self.gate_up(self.post_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Cache:
    """Keys and values of one layer, with room for all that will come."""

    def __init__(self, b, groups, room, hd):
        self.k, self.v = torch.empty(b, groups, room, hd), torch.empty(b, groups, room, hd)
        self.length = 0

    def add(self, k, v):
        first, self.length = self.length, self.length + k.shape[2]
        self.k[:, :, first : self.length] = k
        self.v[:, :, first : self.length] = v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


class Llama(nn.Module):
    def __init__(self, layers, d, heads, groups, ffn, vocabulary, room):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d)
        self.layers = nn.ModuleList(Layer(d, heads, groups, ffn) for _ in range(layers))
        self.norm = nn.RMSNorm(d, eps=1e-6)
        self.head = nn.Linear(d, vocabulary, bias=False)
        hd = d // heads
        angles = torch.outer(torch.arange(room).float(), 10000.0 ** (-torch.arange(0, hd, 2).float() / hd))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, tokens, first=0, caches=None):
        x, t = self.embed(tokens), tokens.shape[1]
        cos, sin = self.cos[first : first + t], self.sin[first : first + t]
        for at, layer in enumerate(self.layers):
            x = layer(x, cos, sin, caches[at] if caches else None)
        return self.head(self.norm(x if caches is None else x[:, -1:]))


def measured(step, seconds):
    """Wall and processor time of a step, medians, after one that does not count."""
    for _ in range(3):
        step()
    walls, cpus, begun = [], [], time.perf_counter()
    while len(walls) < 3 or time.perf_counter() - begun < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.mean(cpus)


def train(model, length, rows, vocabulary, compiled, seconds):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = (torch.arange(length) ** 2 + 7 * torch.arange(rows)[:, None]) % (vocabulary - 5)

    def loss_of(tokens):
        logits = model(tokens)[:, :-1]
        return F.cross_entropy(logits.reshape(-1, vocabulary), tokens[:, 1:].reshape(-1))

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(tokens).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return rows * length, measured(step, seconds)


@torch.inference_mode()
def sample(model, shape, batch, vocabulary, seconds):
    """Prompts of 64 tokens, 128 new ones each, drawn at temperature 1, with a preallocated cache."""
    layers, d, heads, groups = shape[:4]
    prompts = (torch.arange(64) ** 2 + 7 * torch.arange(batch)[:, None]) % (vocabulary - 5)

    def step():
        caches = [Cache(batch, groups, 64 + 128, d // heads) for _ in range(layers)]
        tokens, first = prompts, 0
        for _ in range(128):
            logits = model(tokens, first, caches)[:, -1]
            first += tokens.shape[1]
            tokens = torch.multinomial(logits.softmax(-1), 1)

    return batch * 128, measured(step, seconds)


def main():
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("what", choices=("train", "sample"))
    words.add_argument("shape", choices=SHAPES)
    words.add_argument("--threads", type=int, default=2)
    words.add_argument("--seconds", type=float, default=5)
    words.add_argument("--batch", type=int, default=32)
    words.add_argument("--compile", action="store_true")
    words = words.parse_args()
    torch.set_num_threads(words.threads)
    torch.manual_seed(1)
    shape = SHAPES[words.shape]
    *sizes, vocabulary, length, rows = shape
    model = Llama(*sizes, vocabulary, max(length, 1024))
    if words.what == "train":
        tokens, (wall, cpu) = train(model, length, rows, vocabulary, words.compile, words.seconds)
    else:
        tokens, (wall, cpu) = sample(model, shape, words.batch, vocabulary, words.seconds)
    print(
        json.dumps(
            {
                "tokens_per_second": tokens / wall,
                "tokens_per_cpu_second": tokens / cpu,
                "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
