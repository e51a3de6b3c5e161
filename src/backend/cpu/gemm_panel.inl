// A panel of y by a w that is packed, for the words paths: after gemm_words.inl.

// A panel of w on its way: pieces of the sum, packed a pass over the rows at a time.
struct PanelOfW {
  const GemmJob& job;
  int64_t n0, cols, depth_block, pass_words;
  float* packed;  // [strips][pass_words][kNr]
  Piece pieces[kMaxPieces] = {};
  int count = 0;
  // not 0: the two parts of a narrow fp32 w are columns of one strip, so far apart
  int64_t both = 0;
  // where the next pass begins
  int piece = 0;
  int64_t depth = 0;
  bool scaled = job.alpha == 1;

  // What a pass multiplies: words of x from the d-th of a piece with packed ones of w.
  struct Part {
    const Piece* piece;
    int64_t d, steps;
    const float* packed;
  };
  struct Pass {
    Part parts[kMaxRuns];
    int count, scaled;  // as in Tile
    int64_t words;
  };

  void list(const GemmChunk& chunk, int64_t t0) {
    const int listed = list_pieces(job, chunk, t0, pieces);
    for (int p = 0; p < listed; ++p) {  // but those without depth
      if (pieces[p].depth > 0) pieces[count++] = pieces[p];
    }
    const bool narrow = job.w.type == GemmElem::f32 && job.n <= kGemmBothCols;
    if (kSecondParts == 2 && narrow && count == 2) {
      both = job.n <= kLanes / 2 ? kLanes / 2 : kLanes;
      count = 1;
    }
  }
  int64_t strips() const { return (cols + kNr - 1) / kNr; }
  bool done() const { return piece == count; }
  // Whether what comes next is not w any more.
  bool behind_w() const { return done() || pieces[piece].second; }
  bool one_pass() const {
    int64_t words = 0;
    bool whole = true;
    for (int p = 0; p < count; ++p) {
      words += pieces[p].depth;
      whole &= pieces[p].depth <= depth_block;
    }
    return whole && words <= pass_words;
  }

  Pass next_pass() {
    Pass pass = {};
    pass.scaled = -1;
    while (!done() && pass.count < kMaxRuns) {
      const Piece& p = pieces[piece];
      const int64_t steps = min_of(depth_block, p.depth - depth);
      if (pass.count > 0 && pass.words + steps > pass_words) break;
      if (p.second && !scaled) {
        pass.scaled = pass.count;
        scaled = true;
      }
      float* to = packed + pass.words * strips() * kNr;
      pack(p, steps, to);
      pass.parts[pass.count++] = {&p, depth, steps, to};
      pass.words += steps;
      depth += steps;
      if (depth == p.depth) {
        depth = 0;
        ++piece;
      }
    }
    return pass;
  }
  void pack(const Piece& p, int64_t steps, float* to) const {
    if (both != 0) return pack_both(job.w, job.w_by_depth, cols, both, depth, steps, to);
    const auto pack_words = p.w->type == GemmElem::bf16t ? pack_expanded
                            : job.w_by_depth             ? pack_columns
                                                         : pack_rows;
    pack_words(*p.w, p.part, n0, cols, depth, steps, to);
  }
};

// The block of w that is packed next, fetched some rows at a time: behind the last of a panel the
// first of the worker's next panel.
struct NextBlock {
  const GemmMatrix& w;
  bool by_depth;
  int64_t n, d, row, rows;  // row: of the block, the next to be fetched
  int lines;                // of a row, by depth

  NextBlock(const PanelOfW& panel, int64_t next_panel)
      : w(panel.job.w), by_depth(panel.job.w_by_depth) {
    const bool behind = panel.behind_w();
    n = behind ? panel.n0 + next_panel : panel.n0;
    d = behind ? 0 : panel.depth;
    const int64_t cols = min_of(panel.cols, panel.job.n - n);
    lines = static_cast<int>((cols * elem_bytes(w.type) + 127) / 128 * 2);
    rows = by_depth ? min_of(panel.depth_block * kWordElems, w.rows - d * kWordElems) : cols;
    row = behind || by_depth ? 0 : kLanes;  // pack_rows asks for the first itself
    if (w.type == GemmElem::bf16t || cols <= 0 || panel.depth_block <= 32) rows = 0;
  }
  bool more() const { return row < rows; }
  // What a register tile of so many words fetches.
  Ahead take(int64_t words) {
    const int64_t from = row;
    row += by_depth ? (words / kWordsPerFetch + lines - 1) / lines : kRowsAhead;
    return by_depth ? Ahead{at(w, d * kWordElems + from, n), 64, w.stride, lines}
                    : rows_ahead(at(w, n + from, d * kWordElems), w.stride);
  }
};

// scratch: packed words of w (whole strips of pass_words), a block of x, then fp32 sums: [blocks of
// rows][strips][rows of a block][kNr]. A block of w meets a block of x of block_rows: the one of a
// tile stays in L1 while it meets the strips of w, the one of many tiles in L2 while each strip
// stays in L1. Low-rank words follow the product's last block in the registers.
void panel(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows, int64_t n0,
           int64_t cols, int64_t depth_block, void* scratch) {
  PanelOfW w = {.job = *job,
                .n0 = n0,
                .cols = cols,
                .depth_block = depth_block,
                .pass_words = chunk->pass_words,
                .packed = static_cast<float*>(scratch)};
  w.list(*chunk, t0);
  const int64_t strips = w.strips();
  float* copy = w.packed + strips * chunk->pass_words * kNr;
  float* sums = copy + (depth_block + 16) * chunk->block_rows;
  const bool one_pass = w.one_pass();
  // rows of a tile, as even as they can be
  const int64_t tiles = (rows + kMr - 1) / kMr;
  const int64_t mr = chunk->groups ? kMr : (rows + tiles - 1) / tiles;
  const int64_t block_rows = chunk->block_rows / kMr * mr;
  const int y_lines = static_cast<int>((cols * elem_bytes(job->y.type) + 127) / 128 * 2);
  bool go_on = false;
  while (!w.done()) {
    const PanelOfW::Pass pass = w.next_pass();
    const bool last = w.done();
    Tile tile = {.count = pass.count, .scaled = pass.scaled, .alpha = job->alpha, .ldc = kNr};
    tile.go_on = go_on;
    NextBlock next(w, chunk->next_panel);
    const int64_t steps = pass.parts[0].steps;
    const int64_t line_words = ((steps + 15) / 16 | 1) * 16;  // an odd number of lines
    float* c = sums;
    for (int64_t block = 0; block < rows; block += block_rows) {
      const int64_t end = min_of(rows, block + block_rows);
      for (int64_t s = 0; s < strips; ++s) {
        const int64_t n = n0 + s * kNr, strip_cols = min_of(kNr, cols - s * kNr);
        // of each run: where this tile's x lies, and how far on the next one's
        const char* x_data[kMaxRuns];
        int64_t x_next[kMaxRuns];
        for (int i = 0; i < pass.count; ++i) {
          const PanelOfW::Part& part = pass.parts[i];
          const Broadcast x = tile_of(part.piece->x, block, part.d);
          tile.runs[i] = {x, part.packed + s * part.steps * kNr, part.steps};
          x_data[i] = x.data;
          x_next[i] = x.group_bytes ? x.group_bytes : mr * x.row_bytes;
        }
        const Broadcast x = tile.runs[0].a;
        const bool copied = x.raw || (strips > 1 && crowded(x));
        const GemmElem x_type = x.raw ? GemmElem::bf16 : GemmElem::f32;
        if (copied) tile.runs[0].a = by_rows(nullptr, line_words * 4);
        // the next tiles of x and y and the next block of w are on their way meanwhile
        const auto ahead_of = [&](int64_t t, int64_t m) -> Ahead {
          const bool more = t + m < rows;
          if (s == 0 && more)
            return x.group_bytes ? Ahead{x_data[0], 64, 64 * 16, 16}
                                 : rows_ahead(x_data[0], x.row_bytes);
          if (s == 1 && more && last && block_rows == mr)
            return {at(job->y, t0 + t + m, n0), 64, job->y.stride, y_lines};
          if (next.more()) return next.take(pass.words);
          if (last && block_rows > mr && more)
            return {at(job->y, t0 + t + m, n), job->y.stride, 0, kMr};
          // short blocks: these columns in rows that pack_columns hasn't asked for
          if (job->w_by_depth && t == 0 && steps <= 32 && !w.behind_w())
            return rows_ahead(at(job->w, (w.depth + kColumnsAhead) * kWordElems, n), job->w.stride);
          return {x_data[0], 0, 0, 16};
        };
        for (int64_t t = block; t < end; t += mr) {
          const int64_t m = min_of(mr, rows - t);
          for (int i = 0; i < pass.count; ++i) {
            tile.runs[i].a.data = x_data[i];
            x_data[i] += x_next[i];
          }
          const char* const x_rows = tile.runs[0].a.data;
          tile.ahead = ahead_of(t, m);
          if (copied) {
            float* to = copy + (strips > 1 ? (t - block) * line_words : 0);
            for (int64_t i = 0; s == 0 && i < m; ++i)
              expand_row(x_type, x_rows + i * x.row_bytes, steps, to + i * line_words);
            tile.runs[0].a.data = reinterpret_cast<const char*>(to);
          }
          if (go_on) {
            for (int64_t i = 0; i < m * kNr; i += 16) _mm_prefetch(c + m * kNr + i, _MM_HINT_T0);
          }
          tile.c = c;
          multiply_tile(tile, m, w.both != 0 ? 2 * w.both : strip_cols);
          if (last && w.both != 0) fold(c, m, w.both);
          if (last) finish(*job, c, kNr, t0 + t, m, n, strip_cols);
          if (!one_pass) c += m * kNr;
        }
      }
    }
    go_on = true;
  }
  if (!go_on) {
    for (int64_t i = 0; i < rows * kNr; i += kLanes) store(sums + i, zero());
    for (int64_t n = 0; n < cols; n += kNr)
      finish(*job, sums, kNr, t0, rows, n0 + n, min_of(kNr, cols - n));
  }
}
