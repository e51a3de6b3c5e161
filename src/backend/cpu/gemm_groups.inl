// x by groups of rows (GemmChunk.groups), for the words paths: after what says what a word is.

inline Groups groups_of(float* data, const GemmChunk& chunk, int64_t depth) {
  return {data, whole_groups(chunk.rows), depth, chunk.depth_block};
}

// A matrix by depth, columns [t, t + rows) of it, into rows [row, row + rows) of to; row is the
// first of a group. Squares of kSquare words by a group: lines are written in one go, and read from
// where L1 has them.
void copy_groups(const GemmMatrix& x, int64_t t, int64_t rows, const Groups& to, int64_t row) {
  constexpr int64_t kSquare = 16;
  const int64_t row_bytes = rows * elem_bytes(x.type);
  for (int64_t d0 = 0; d0 < to.depth; d0 += kSquare) {
    const int64_t end = min_of(d0 + kSquare, to.depth);
    const int64_t ahead = min_of((end + kSquare) * kWordElems, x.rows);
    for (int64_t k = end * kWordElems; k < ahead; ++k) {
      for (int64_t i = 0; i < row_bytes; i += 64) _mm_prefetch(at(x, k, t) + i, _MM_HINT_T0);
    }
    const bool block_ends = end % to.depth_block == 0 || end == to.depth;
    for (int64_t i = 0; i < rows; i += kMr) {
      float* out = to.at(row + i, d0);
      const int64_t columns = x.cols - t - i, last = end - 1;
      // lanes beyond kMr are what the next word writes over; behind the last one lies another group
      if (columns >= kLanes) {
        for (int64_t d = d0; d < last; ++d, out += kMr)
          store(out, column_words(x, 0, d, t + i, kLanes));
      } else {
        for (int64_t d = d0; d < last; ++d, out += kMr)
          store(out, column_words(x, 0, d, t + i, columns));
      }
      float line[kLanes];
      store(line, column_words(x, 0, last, t + i, min_of<int64_t>(kLanes, columns)));
      __builtin_memcpy(out, line, (block_ends ? kMr : kLanes) * 4);
    }
  }
}
