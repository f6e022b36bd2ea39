#!/usr/bin/env python3
"""The model of tasks/benches/gpu.rs in PyTorch on a card: bf16 autocast, SDPA, fused AdamW, torch.compile.

One JSON object on stdout, as the Rust benchmark prints it.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

SHAPES = {"m23": (6, 384, 6, 1024), "m124": (12, 768, 12, 2048), "m350": (24, 1024, 16, 2816)}
VOCABULARY = 32_000


class Layer(nn.Module):
    def __init__(self, width, heads, ffn):
        super().__init__()
        self.heads = heads
        self.before_attention = nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.before_mlp = nn.RMSNorm(width, eps=1e-5)
        self.gate_up = nn.Linear(width, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, width, bias=False)

    def forward(self, x, cos, sin):
        rows, length, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(rows, length, 3, self.heads, -1)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        gate, up = self.gate_up(self.before_mlp(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def turned(x, cos, sin):
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


class Llama(nn.Module):
    def __init__(self, layers, width, heads, ffn, length):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(Layer(width, heads, ffn) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        half = width // heads // 2
        angles = torch.outer(torch.arange(length), 10_000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.view(-1, VOCABULARY).float(), targets.view(-1))


def matmul_rate():
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(50):
        a @ b
    torch.cuda.synchronize()
    return 50 * 2 * 8192**3 / (time.perf_counter() - start)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("model", choices=SHAPES)
    options.add_argument("--length", type=int, default=1024)
    options.add_argument("--rows", type=int, default=32)
    options.add_argument("--seconds", type=float, default=15)
    options.add_argument("--eager", action="store_true")
    options = options.parse_args()
    torch.manual_seed(1)
    rate = matmul_rate()
    layers, width, heads, ffn = SHAPES[options.model]
    model = Llama(layers, width, heads, ffn, options.length).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0, fused=True)
    run = model if options.eager else torch.compile(model)
    tokens = torch.randint(VOCABULARY, (options.rows, options.length), device="cuda")
    targets = tokens.roll(-1, 1)
    losses, times = [], []
    torch.cuda.reset_peak_memory_stats()
    start = None
    while len(times) < 5 or time.perf_counter() - start < options.seconds:
        begun = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = run(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        times.append(time.perf_counter() - begun)
        # Compilation is not measured.
        if len(times) == 2:
            start = time.perf_counter()
        start = start or time.perf_counter()
    median = statistics.median(times[2:])
    parameters = sum(weight.numel() for weight in model.parameters())
    matrices = layers * (4 * width * width + 3 * width * ffn) + VOCABULARY * width
    count = options.rows * options.length
    flops = 6 * matrices * count + 6 * layers * width * options.length**2 * options.rows
    print(
        json.dumps(
            {
                "model": options.model,
                "parameters": parameters,
                "length": options.length,
                "rows": options.rows,
                "steps": len(times),
                "tokens_per_second": count / median,
                "flops_per_second": flops / median,
                "matmul_flops_per_second": rate,
                "share_of_matmul": flops / median / rate,
                "memory_bytes": torch.cuda.max_memory_allocated(),
                "first_loss": losses[0],
                "last_loss": losses[-1],
            }
        )
    )


if __name__ == "__main__":
    main()
