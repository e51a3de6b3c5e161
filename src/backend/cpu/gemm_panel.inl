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
    const auto pack_words = p.w->strips ? pack_strips : job.w_by_depth ? pack_columns : pack_rows;
    pack_words(*p.w, p.part, n0, cols, depth, steps, to);
  }
};

// The block of w that is packed next, fetched some rows at a time by the last tiles of a pass (what
// the first ones asked for would be gone again): behind the last block of a panel the first of the
// worker's next panel.
struct NextBlock {
  const GemmMatrix& w;
  bool by_depth;
  int64_t n, d, row, rows;  // row: of the block, the next to be fetched
  int lines;                // of a row, by depth
  int64_t at_once;          // rows that a register tile fetches
  int64_t tiles;            // the last so many of the pass fetch; half have other things to fetch

  // behind a pass of so many words
  NextBlock(const PanelOfW& panel, int64_t words, int64_t next_panel)
      : w(panel.job.w), by_depth(panel.job.w_by_depth) {
    const bool behind = panel.behind_w();
    n = behind ? panel.n0 + next_panel : panel.n0;
    d = behind ? 0 : panel.depth;
    const int64_t cols = min_of(panel.cols, panel.job.n - n);
    lines = static_cast<int>((cols * elem_bytes(w.type) + 127) / 128 * 2);
    rows = by_depth ? min_of(panel.depth_block * kWordElems, w.rows - d * kWordElems) : cols;
    row = behind || by_depth ? 0 : kLanes;  // pack_rows asks for the first itself
    if (w.strips || cols <= 0 || panel.depth_block <= 32) row = rows = 0;
    at_once = by_depth && rows > 0 ? (words / kWordsPerFetch + lines - 1) / lines : kRowsAhead;
    tiles = 2 * ((rows - row + at_once - 1) / at_once);
  }
  bool due(int64_t tiles_left) const { return tiles_left <= tiles && row < rows; }
  Ahead take() {
    const int64_t from = row;
    row += at_once;
    return by_depth ? Ahead{at(w, d * kWordElems + from, n), 64, w.stride, lines}
                    : rows_ahead(at(w, n + from, d * kWordElems), w.stride);
  }
};

// A pass of a packed block of w over the rows of a panel. A block of w meets a block of x of
// block_rows: the one of a tile stays in L1 while it meets the strips of w, the one of many tiles
// in L2 while each strip stays in L1.
struct PassOverRows {
  const GemmJob& job;
  const PanelOfW& w;
  const PanelOfW::Pass& pass;
  NextBlock next;
  int64_t t0, rows, mr, block_rows;  // mr: rows of a tile
  bool go_on, last, one_pass;
  float* copy;  // a block of x, where it is copied
  float* sums;
  int64_t tiles_left = (rows + mr - 1) / mr * w.strips();
  int64_t steps = pass.parts[0].steps;
  int64_t line_words = ((steps + 15) / 16 | 1) * 16;  // of a copied row: an odd number of lines
  bool plain = w.both == 0 && plain_sums(job);
  Tile tile = {.count = pass.count, .scaled = pass.scaled, .alpha = job.alpha, .ld_from = kNr};

  void run() {
    const int64_t strips = w.strips();
    for (int64_t block = 0; block < rows; block += block_rows) {
      for (int64_t s = 0; s < strips; ++s) strip(block, s);
    }
  }

  // What the tiles of a strip fetch: first, where there is a next tile; else the next block of w,
  // when it is due; else rest. Steps: from a tile to the next one.
  struct Fetches {
    Ahead first, rest;
    int64_t first_step, rest_step;
  };
  Fetches fetches(int64_t block, int64_t s, const Broadcast& x, int64_t x_step) const {
    const bool many = block_rows > mr;
    const int64_t n = w.n0 + s * kNr, t = t0 + block + mr, y_step = mr * job.y.stride;
    Fetches f = {{nullptr, 0, 0, 0}, {x.data, 0, 0, 16}, 0, 0};
    if (s == 0) {
      f.first = x.groups ? Ahead{x.data + x_step, 64, 64 * 16, 16}
                         : rows_ahead(x.data + x_step, x.row_bytes);
      f.first_step = x_step;
    } else if (s == 1 && last && !many) {
      const int lines = static_cast<int>((w.cols * elem_bytes(job.y.type) + 127) / 128 * 2);
      f.first = {at(job.y, t, w.n0), 64, job.y.stride, lines};
      f.first_step = y_step;
    }
    if (last && many) {
      f.rest = {at(job.y, t, n), job.y.stride, 0, kMr};
      f.rest_step = y_step;
    } else if (job.w_by_depth && steps <= 32 && !w.behind_w()) {
      // short blocks: these columns in rows that pack_columns hasn't asked for
      f.rest = rows_ahead(at(job.w, (w.depth + kColumnsAhead) * kWordElems, n), job.w.stride);
      f.rest_step = kRowsAhead * job.w.stride;
    }
    return f;
  }

  // The tiles of a block of x and a strip of w.
  void strip(int64_t block, int64_t s) {
    const int64_t n = w.n0 + s * kNr, cols = min_of(kNr, w.cols - s * kNr);
    int64_t x_step[kMaxRuns];
    for (int i = 0; i < pass.count; ++i) {
      const PanelOfW::Part& part = pass.parts[i];
      const Broadcast x = part.piece->x_from(block, part.d);
      tile.runs[i] = {x, part.packed + s * part.steps * kNr, part.steps};
      x_step[i] = mr * (x.groups ? part.steps * 4 : x.row_bytes);
    }
    const Broadcast x = tile.runs[0].a;
    const bool copied = x.raw || (w.strips() > 1 && crowded(x));
    if (copied) tile.runs[0].a = by_rows(nullptr, line_words * 4);
    const bool to_y = last && plain && cols == kNr;
    tile.add = nullptr;
    if (to_y) {
      tile.c = floats(job.y, t0 + block, n);
      tile.ldc = job.y.stride / 4;
      if (job.add.data != nullptr) tile.add = floats(job.add, t0 + block, n);
      tile.ld_add = job.add.stride / 4;
    } else {
      tile.ldc = kNr;
    }
    Fetches f = fetches(block, s, x, x_step[0]);
    const char* x_rows = x.data;
    const MultiplyRows& multiply_rows = multiply_of(tile, w.both != 0 ? 2 * w.both : cols);
    const int64_t end = min_of(rows, block + block_rows);
    for (int64_t t = block; t < end; t += mr) {
      const int64_t m = min_of(mr, rows - t);
      const bool more = t + m < rows;
      tile.ahead = more && f.first.count > 0 ? f.first
                   : next.due(tiles_left)    ? next.take()
                                             : f.rest;
      f.first.data += f.first_step;
      f.rest.data += f.rest_step;
      --tiles_left;
      if (copied) {
        float* to = copy + (w.strips() > 1 ? (t - block) * line_words : 0);
        for (int64_t i = 0; s == 0 && i < m; ++i)
          expand_row(x.raw ? GemmElem::bf16 : GemmElem::f32, x_rows + i * x.row_bytes, steps,
                     to + i * line_words);
        tile.runs[0].a.data = reinterpret_cast<const char*>(to);
      }
      if (go_on) {
        tile.from = sums;
        for (int64_t i = 0; i < m * kNr; i += 16) _mm_prefetch(sums + m * kNr + i, _MM_HINT_T0);
      }
      if (!to_y) tile.c = sums;
      multiply_rows.of[m - 1](tile);
      if (last && w.both != 0) fold(sums, m, w.both);
      if (last && !to_y) finish(job, sums, kNr, t0 + t, m, n, cols);
      if (!one_pass) sums += m * kNr;
      x_rows += x_step[0];
      for (int i = 0; i < pass.count; ++i) tile.runs[i].a.data += x_step[i];
      if (to_y) {
        tile.c += mr * tile.ldc;
        if (tile.add != nullptr) tile.add += mr * tile.ld_add;
      }
    }
  }
};

// scratch: packed words of w (whole strips of pass_words), a block of x, then fp32 sums: [blocks of
// rows][strips][rows of a block][kNr]. Low-rank words follow the product's last block in the
// registers.
void panel(const GemmJob* job, const GemmChunk* chunk, int64_t t0, int64_t rows, int64_t n0,
           int64_t cols, void* scratch) {
  PanelOfW w = {.job = *job,
                .n0 = n0,
                .cols = cols,
                .depth_block = chunk->depth_block,
                .pass_words = chunk->pass_words,
                .packed = static_cast<float*>(scratch)};
  w.list(*chunk, t0);
  float* copy = w.packed + w.strips() * chunk->pass_words * kNr;
  float* sums = copy + (chunk->depth_block + 16) * chunk->block_rows;
  const bool one_pass = w.one_pass();
  // rows of a tile, as even as they can be
  const int64_t tiles = (rows + kMr - 1) / kMr;
  const int64_t mr = chunk->groups ? kMr : (rows + tiles - 1) / tiles;
  bool go_on = false;
  while (!w.done()) {
    const PanelOfW::Pass pass = w.next_pass();
    PassOverRows{.job = *job,
                 .w = w,
                 .pass = pass,
                 .next = NextBlock(w, pass.words, chunk->next_panel),
                 .t0 = t0,
                 .rows = rows,
                 .mr = mr,
                 .block_rows = chunk->block_rows / kMr * mr,
                 .go_on = go_on,
                 .last = w.done(),
                 .one_pass = one_pass,
                 .copy = copy,
                 .sums = sums}
        .run();
    go_on = true;
  }
  if (!go_on) {
    for (int64_t i = 0; i < rows * kNr; i += kLanes) store(sums + i, zero());
    for (int64_t n = 0; n < cols; n += kNr)
      finish(*job, sums, kNr, t0, rows, n0 + n, min_of(kNr, cols - n));
  }
}
