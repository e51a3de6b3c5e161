#include "backend/bf16t.h"

#include <algorithm>

#include "core/error.h"

namespace hone {
namespace {
#include "backend/bf16t.inl"

constexpr int64_t kTaskStrips = 16;

// 16 rows of 32 numbers as lines: pair (2 d, 2 d + 1) of row n is pair n of line d.
void load_tile(const char* from, int64_t row_bytes, uint16_t* out) {
  for (int64_t n = 0; n < kStripCols; ++n) {
    uint32_t pairs[kTileLines];
    __builtin_memcpy(pairs, from + n * row_bytes, sizeof pairs);
    for (int64_t d = 0; d < kTileLines; ++d)
      __builtin_memcpy(out + d * kLineNumbers + n * 2, &pairs[d], 4);
  }
}

// The base of a tile, 0 where its exponents span too much.
uint8_t base_of(const uint16_t* tile) {
  // signed 16 bits: what vectors have a minimum of everywhere
  int16_t low = 0x7f00, high = 0;
  for (int64_t i = 0; i < kTileLines * kLineNumbers; ++i) {
    const auto e = static_cast<int16_t>(tile[i] & 0x7f00);
    low = std::min(low, e);
    high = std::max(high, e);
  }
  const int base = std::max(1, (high >> 8) - 7);
  return static_cast<uint8_t>((low >> 8) < base ? 0 : base);
}

void pack_short(const uint16_t* tile, int base, char* out) {
  uint8_t bytes[kShortTile];
  for (int64_t line = 0; line < kTileLines; ++line) {
    for (int64_t number = 0; number < kLineNumbers; number += 8) {
      const uint16_t* from = tile + line * kLineNumbers + number;
      uint8_t* lower = bytes + lower_at(line, number);
      uint8_t* upper = bytes + kUpperBytes + upper_at(line, number);
      const int64_t shift = upper_shift(line);
      for (int64_t j = 0; j < 8; ++j) {
        const int high = from[j] >> 8;
        const int half = ((high & 0x80) >> 4) | ((high & 0x7f) - base);
        lower[j] = static_cast<uint8_t>(from[j]);
        upper[j] = static_cast<uint8_t>((shift ? upper[j] : 0) | (half << shift));
      }
    }
  }
  __builtin_memcpy(out, bytes, kShortTile);
}

}  // namespace

Bf16tPacker::Bf16tPacker(const void* data, int64_t rows, int64_t cols, ThreadPool& pool)
    : data_(static_cast<const char*>(data)), rows_(rows), cols_(cols), pool_(pool) {
  HONE_CHECK(fits(rows, cols));
  const int64_t strips = rows / kStripCols, tiles = cols / kStripDepth;
  bases_.resize(static_cast<size_t>(strips * tiles));
  raw_before_.resize(static_cast<size_t>(strips) + 1);
  pool.run((strips + kTaskStrips - 1) / kTaskStrips, [&](int64_t task, int) {
    const int64_t end = std::min(strips, (task + 1) * kTaskStrips);
    for (int64_t s = task * kTaskStrips; s < end; ++s) {
      for (int64_t t = 0; t < tiles; ++t) {
        uint16_t tile[kTileLines * kLineNumbers];
        load_tile(data_ + s * kStripCols * cols * 2 + t * kStripDepth * 2, cols * 2, tile);
        const uint8_t base = base_of(tile);
        bases_[static_cast<size_t>(s * tiles + t)] = base;
        raw_before_[static_cast<size_t>(s) + 1] += base == 0;
      }
    }
  });
  for (size_t s = 1; s < raw_before_.size(); ++s) raw_before_[s] += raw_before_[s - 1];
}

int64_t Bf16tPacker::bytes() const {
  return rows_ * format_row_bytes(Format::bf16t, cols_) + raw_before_.back() * kRawTile;
}

void Bf16tPacker::pack(void* out) const {
  const int64_t strips = rows_ / kStripCols, tiles = cols_ / kStripDepth;
  const int64_t strip_bytes = kStripCols * format_row_bytes(Format::bf16t, cols_);
  const int64_t header = strip_header(cols_);
  pool_.run((strips + kTaskStrips - 1) / kTaskStrips, [&](int64_t task, int) {
    const int64_t end = std::min(strips, (task + 1) * kTaskStrips);
    for (int64_t s = task * kTaskStrips; s < end; ++s) {
      char* strip = static_cast<char*>(out) + s * strip_bytes;
      char* raw = static_cast<char*>(out) + strips * strip_bytes +
                  raw_before_[static_cast<size_t>(s)] * kRawTile;
      __builtin_memset(strip, 0, static_cast<size_t>(header));
      __builtin_memcpy(strip, &bases_[static_cast<size_t>(s * tiles)], static_cast<size_t>(tiles));
      for (int64_t t = 0; t < tiles; ++t) {
        uint16_t tile[kTileLines * kLineNumbers];
        load_tile(data_ + s * kStripCols * cols_ * 2 + t * kStripDepth * 2, cols_ * 2, tile);
        char* to = strip + header + t * kShortTile;
        if (const int base = static_cast<uint8_t>(strip[t]); base != 0) {
          pack_short(tile, base, to);
          continue;
        }
        const int64_t distance = raw - to;
        __builtin_memset(to, 0, kShortTile);
        __builtin_memcpy(to, &distance, 8);
        __builtin_memcpy(raw, tile, kRawTile);
        raw += kRawTile;
      }
    }
  });
}

std::unique_ptr<CompactPacker> bf16t_compact(const void* data, int64_t rows, int64_t cols,
                                             ThreadPool& pool) {
  if (!Bf16tPacker::fits(rows, cols)) return nullptr;
  auto packer = std::make_unique<Bf16tPacker>(data, rows, cols, pool);
  if (!packer->worth()) return nullptr;
  return packer;
}

void bf16t_to_fp32(const WeightView& w, int64_t row, int64_t col, int64_t count, float* out) {
  const int64_t n = row % kStripCols;
  const char* strip = static_cast<const char*>(w.data) + (row - n) * w.stride_bytes;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t t = (col + i) / kStripDepth, j = (col + i) % kStripDepth;
    const int64_t line = j / 2, number = n * 2 + j % 2;
    const char* tile = strip + strip_header(w.cols) + t * kShortTile;
    const int base = static_cast<uint8_t>(strip[t]);
    bf16 value;
    if (base == 0) {
      __builtin_memcpy(&value.bits, raw_tile(tile) + (line * kLineNumbers + number) * 2, 2);
    } else {
      const int lower = static_cast<uint8_t>(tile[lower_at(line, number)]);
      const int both = static_cast<uint8_t>(tile[kUpperBytes + upper_at(line, number)]);
      const int half = both >> upper_shift(line);
      const int upper = ((half & 8) << 4) | (base + (half & 7));
      value.bits = static_cast<uint16_t>((upper << 8) | lower);
    }
    out[i] = static_cast<float>(value);
  }
}

}  // namespace hone
