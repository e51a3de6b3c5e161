// The packed token stream: what crosses from data, rollout and objectives to models. Activations
// are [T, D]: no batch dimension, no padding.
#pragma once

#include <cstdint>
#include <vector>

namespace hone {

// A run of consecutive tokens of one sequence.
struct Segment {
  int32_t begin = 0;  // first token's index in the stream
  int32_t len = 0;
  int32_t parent = -1;  // earlier segment whose keys come first, or -1
  int32_t pos0 = 0;     // position of its first token in the sequence
  int32_t adapter = 0;  // -1 = base
  uint64_t key = 0;     // sample identity: names its random numbers
  float inv_temperature = 1;
};

struct Stream {
  std::vector<int32_t> tokens;     // [T]
  std::vector<int32_t> positions;  // [T]
  std::vector<Segment> segments;   // in ascending begin, covering all T tokens

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }

  // Appends one whole sequence that attends to itself only.
  void append(const std::vector<int32_t>& sequence, uint64_t key) {
    Segment s;
    s.begin = static_cast<int32_t>(tokens.size());
    s.len = static_cast<int32_t>(sequence.size());
    s.key = key;
    segments.push_back(s);
    for (int32_t i = 0; i < s.len; ++i) {
      tokens.push_back(sequence[static_cast<size_t>(i)]);
      positions.push_back(i);
    }
  }
};

}  // namespace hone
