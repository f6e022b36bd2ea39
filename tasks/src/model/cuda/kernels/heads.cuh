// The shape of attention and its tiles.
//
// H query heads, G key/value heads, hd the width of a head. A row of qkv is [H hd | G hd | G hd], of out [H hd], of lse
// [H]. `tiles [count, 3]` cuts the sequences into tiles: first and last row of the sequence, first row of the tile. A
// tile never reaches into another sequence.
#pragma once
#include "common.cuh"

struct Heads {
    u32 heads, groups, width;
};

struct Tile {
    u32 start, end, first;
};

__device__ inline Tile tile_of(const u32 *tiles) {
    const u32 *tile = tiles + 3u * blockIdx.x;
    return Tile{tile[0], tile[1], tile[2]};
}

__device__ inline u32 row_width(Heads s) { return (s.heads + 2 * s.groups) * s.width; }
__device__ inline u32 key_column(Heads s, u32 group) { return (s.heads + group) * s.width; }
__device__ inline u32 value_column(Heads s, u32 group) { return (s.heads + s.groups + group) * s.width; }
