// attention and attention_backward on the CPU: checks, tasks, scratch. The arithmetic is in
// attention_<path>.cpp.
#include "backend/cpu/attention.h"

#include <algorithm>
#include <cstddef>

#include "backend/cpu/cpu.h"
#include "backend/desc/attention.h"

namespace hone::cpu {
namespace {

constexpr int64_t kTaskRows = 2048;  // (token, head) rows of a forward or dq task, about

template <class T>
T round_up(T n, T to) {
  return (n + to - 1) / to * to;
}

// A path that has no code for a dtype of its own uses the one below.
AttentionPath path_of(Isa isa, DType dtype) {
  const bool bf16 = dtype == DType::bf16;
  switch (isa) {
    case Isa::reference:
      return attention_reference_path(dtype);
    case Isa::scalar:
      return attention_scalar_path(dtype);
    case Isa::avx2:
      return attention_avx2_path(dtype);
    case Isa::avx512:
      return attention_avx512_path(dtype);
    case Isa::avx512bf16:
      return bf16 ? attention_avx512bf16_path() : attention_avx512_path(dtype);
    case Isa::amx:
      return bf16 ? attention_amx_path() : attention_avx512_path(dtype);
  }
  return {};
}

// ---- Shapes and their checks

struct Shape {
  int64_t tokens, keys;                         // T, S
  int heads, key_heads, group, dim, value_dim;  // H, K, H / K, D, E
};

Shape shape_of(const View& q, const View& k, const View& v) {
  const int heads = static_cast<int>(q.shape[1]), key_heads = static_cast<int>(k.shape[1]);
  return {.tokens = q.shape[0],
          .keys = k.shape[0],
          .heads = heads,
          .key_heads = key_heads,
          .group = key_heads > 0 ? heads / key_heads : 0,
          .dim = static_cast<int>(q.shape[2]),
          .value_dim = static_cast<int>(v.shape[2])};
}

bool same_shape(const View& a, const View& b) {
  return a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape);
}

bool is_rows(const View& v, DType dtype) {
  return v.rank == 3 && v.dtype == dtype && (v.stride[2] == 1 || v.shape[2] == 1);
}

const char* check_shapes(const View& q, const View& k, const View& v, const View& out,
                         const View& saved) {
  if (!is_rows(q, q.dtype) || !is_rows(k, q.dtype) || !is_rows(v, q.dtype) ||
      !is_rows(out, q.dtype)) {
    return "attention: q, k, v, out must be [rows, heads, dim] of one dtype with a contiguous last "
           "dim";
  }
  if (k.shape[0] != v.shape[0] || k.shape[1] != v.shape[1] || q.shape[0] != out.shape[0] ||
      q.shape[1] != out.shape[1]) {
    return "attention: rows or heads of k and v, or of q and out differ";
  }
  const auto fits = [](int64_t dim) { return dim >= 1 && dim <= kAttentionMaxHeadDim; };
  if (q.shape[2] != k.shape[2] || v.shape[2] != out.shape[2] || !fits(q.shape[2]) ||
      !fits(v.shape[2])) {
    return "attention: the head dim must be the same for q and k, and for v and out, from 1 to 576";
  }
  if (k.shape[1] < 1 || q.shape[1] < 1 || q.shape[1] % k.shape[1] != 0) {
    return "attention: query heads must be a multiple of key heads";
  }
  if (!saved.none() &&
      (saved.rank != 3 || saved.dtype != (q.dtype == DType::f64 ? DType::f64 : DType::f32) ||
       saved.shape[0] != q.shape[0] || saved.shape[1] != q.shape[1] || saved.shape[2] != 2 ||
       saved.stride[2] != 1)) {
    return "attention: saved does not have the announced shape";
  }
  return nullptr;
}

int block_count(const AttentionSegment& s) { return (s.kv_len + kKeyBlock - 1) / kKeyBlock; }

const char* check_segments(const Shape& shape, const KeyBlock* blocks,
                           const AttentionSegment* segments, int count) {
  for (int i = 0; i < count; ++i) {
    const AttentionSegment& s = segments[i];
    if (s.q_len < 0 || s.q_begin < 0 || s.q_begin + int64_t{s.q_len} > shape.tokens ||
        s.kv_len < s.q_len || s.first_block < 0) {
      return "attention: a segment reaches outside the stream, or has fewer keys than queries";
    }
    if (s.q_len == 0) continue;
    for (int b = 0; b < block_count(s); ++b) {
      const KeyBlock& block = blocks[s.first_block + b];
      const int n = std::min(kKeyBlock, s.kv_len - b * kKeyBlock);
      const int first = std::clamp(block.split, 0, n);
      if ((first > 0 && (block.row < 0 || block.row + int64_t{first} > shape.keys)) ||
          (first < n &&
           (block.row_after < 0 || block.row_after + int64_t{n - first} > shape.keys))) {
        return "attention: a key block lies outside the keys";
      }
    }
  }
  return nullptr;
}

int32_t key_row(const KeyBlock* blocks, const AttentionSegment& s, int key) {
  const KeyBlock& b = blocks[s.first_block + key / kKeyBlock];
  const int i = key % kKeyBlock;
  return i < b.split ? b.row + i : b.row_after + (i - b.split);
}

// For gradients, segment i's own keys must be its own rows, and those before them keys of earlier
// segments at the same position, from the first key of such a segment on.
const char* check_ownership(const KeyBlock* blocks, const AttentionSegment* segments, int count) {
  for (int i = 0; i < count; ++i) {
    const AttentionSegment& s = segments[i];
    if (s.q_len == 0) continue;
    const int before = s.kv_len - s.q_len;
    for (int position = before; position < s.kv_len; ++position) {
      if (key_row(blocks, s, position) != s.q_begin + position - before) {
        return "attention_backward: a segment's own keys must be its own rows, in order";
      }
    }
    int owner = 0;
    for (int position = 0; position < before; ++position) {
      const int32_t row = key_row(blocks, s, position);
      const auto owns = [&](const AttentionSegment& o) {
        return row >= o.q_begin && row < o.q_begin + o.q_len &&
               o.kv_len - o.q_len + row - o.q_begin == position;
      };
      if (owner < i && owns(segments[owner])) {
        if (row == segments[owner].q_begin ||
            (position > 0 && key_row(blocks, s, position - 1) == row - 1))
          continue;
      }
      for (owner = 0; owner < i && !owns(segments[owner]); ++owner) continue;
      if (owner == i || row != segments[owner].q_begin) {
        return "attention_backward: keys before a segment must be those of earlier segments, from "
               "their first one on";
      }
    }
  }
  return nullptr;
}

// ---- Tasks

// Units of work of the segments: segment s has (prefix[s + 1] - prefix[s]) pieces of `piece`
// queries (or own keys), each for every key head.
struct Tasks {
  const int32_t* prefix;
  const AttentionSegment* segments;
  int num_segments, key_heads;
  int64_t piece;

  int64_t count() const { return int64_t{prefix[num_segments]} * key_heads; }
  // Later queries see more keys: a segment's pieces are handed out from its end.
  AttentionTask get(int64_t task) const {
    const int64_t i = task / key_heads;
    const int s =
        static_cast<int>(std::upper_bound(prefix, prefix + num_segments + 1, i) - prefix) - 1;
    const int64_t n = prefix[s + 1] - prefix[s];
    const int64_t p = n - 1 - (i - prefix[s]);
    return {.segment = segments + s,
            .key_head = static_cast<int>(task % key_heads),
            .begin = static_cast<int>(p * piece),
            .end = static_cast<int>(std::min<int64_t>((p + 1) * piece, segments[s].q_len)),
            .buffers = {}};
  }
};

// Only of segments with q_len in (above, most].
Tasks make_tasks(int32_t* prefix, const AttentionSegment* segments, int count, int key_heads,
                 int64_t piece, int64_t above = 0, int64_t most = INT32_MAX) {
  prefix[0] = 0;
  for (int i = 0; i < count; ++i) {
    const int64_t n = segments[i].q_len;
    prefix[i + 1] =
        prefix[i] + (n > above && n <= most ? static_cast<int32_t>((n + piece - 1) / piece) : 0);
  }
  return {prefix, segments, count, key_heads, piece};
}

// Whole key blocks, where that many queries fit.
int64_t queries_per_task(const Shape& s) {
  const int64_t n = std::max<int64_t>(kTaskRows / s.group, 16);
  return n > kKeyBlock ? n / kKeyBlock * kKeyBlock : n;
}

// ---- Scratch: hands out pieces of the arena; with a null base it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t bytes) {
    const size_t at = used_;
    used_ += round_up<size_t>(static_cast<size_t>(bytes), 64);
    return reinterpret_cast<T*>(base_ == nullptr ? nullptr : base_ + at);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// Columns of rows of keys and of values.
struct Padded {
  int64_t key, value;
  explicit Padded(const Shape& s)
      : key(round_up<int64_t>(s.dim, 32)), value(round_up<int64_t>(s.value_dim, 32)) {}
};

AttentionBuffers forward_buffers(Carver& c, const Shape& s, int64_t element) {
  AttentionBuffers b;
  const Padded p(s);
  const int64_t chunk = std::min<int64_t>(kKeyChunk, round_up<int64_t>(s.keys, kKeyBlock));
  const int64_t rows =
      round_up<int64_t>(std::min(queries_per_task(s), s.tokens) * s.group, kAttentionTileRows);
  b.pack[0] = c.take<char>(chunk * p.key * element);
  b.pack[1] = c.take<char>(chunk * p.value * element);
  b.pack[2] = c.take<char>(kKeyBlock * p.value * element);
  b.a[0] = c.take<char>(kAttentionTileRows * p.key * element);
  b.p[0] = c.take<char>(kAttentionTileRows * kKeyBlock * element);
  for (int i = 0; i < 2; ++i) b.s[i] = c.take<float>(kAttentionTileRows * kKeyBlock * 4);
  for (int i = 0; i < 2; ++i) b.tile[i] = c.take<float>(kAttentionTileRows * p.value * 4);
  if (s.keys > kKeyChunk) b.state[0] = c.take<float>(rows * (p.value + 2) * 4);
  return b;
}

AttentionBuffers dq_buffers(Carver& c, const Shape& s, int64_t element) {
  AttentionBuffers b;
  const Padded p(s);
  const int64_t keys = std::min<int64_t>(kAttentionDqKeys, round_up<int64_t>(s.keys, kKeyBlock));
  const int64_t rows =
      round_up<int64_t>(std::min(queries_per_task(s), s.tokens) * s.group, kAttentionTileRows);
  for (int i = 0; i < 3; ++i) b.pack[i] = c.take<char>(keys * (i == 1 ? p.value : p.key) * element);
  b.a[0] = c.take<char>(kAttentionTileRows * p.key * element);
  b.a[1] = c.take<char>(kAttentionTileRows * p.value * element);
  b.p[0] = c.take<char>(kAttentionTileRows * kKeyBlock * element);
  for (int i = 0; i < 2; ++i) b.s[i] = c.take<float>(kAttentionTileRows * kKeyBlock * 4);
  b.state[0] = c.take<float>(rows * p.key * 4);
  return b;
}

AttentionBuffers dkv_buffers(Carver& c, const Shape& s, int64_t element) {
  AttentionBuffers b;
  const Padded p(s);
  const int64_t dims[] = {p.key, p.value};
  for (int i = 0; i < 4; ++i) b.pack[i] = c.take<char>(kAttentionQueryTile * dims[i / 2] * element);
  for (int i = 0; i < 2; ++i) b.a[i] = c.take<char>(kAttentionKeyGroup * dims[i] * element);
  for (int i = 0; i < 2; ++i) b.p[i] = c.take<char>(kAttentionTileRows * kKeyBlock * element);
  for (int i = 0; i < 2; ++i) b.s[i] = c.take<float>(kAttentionTileRows * kKeyBlock * 4);
  for (int i = 0; i < 2; ++i) b.state[i] = c.take<float>(kAttentionKeyGroup * dims[i] * 4);
  return b;
}

AttentionBuffers whole_buffers(Carver& c, const Shape& s, int64_t element) {
  AttentionBuffers b;
  const Padded p(s);
  const int64_t dims[] = {p.key, p.value};
  const int64_t keys =
      std::min<int64_t>(kAttentionWholeKeys, round_up<int64_t>(s.keys, kAttentionTileRows));
  for (int i = 0; i < 4; ++i) b.pack[i] = c.take<char>(kAttentionQueryTile * dims[i / 2] * element);
  b.pack[4] = c.take<char>(keys * p.key * element);
  for (int i = 0; i < 2; ++i) b.a[i] = c.take<char>(keys * dims[i] * element);
  for (int i = 0; i < 2; ++i) b.p[i] = c.take<char>(kAttentionTileRows * kKeyBlock * element);
  b.p[2] = c.take<char>(keys * kKeyBlock * element);
  for (int i = 0; i < 2; ++i) b.s[i] = c.take<float>(kAttentionTileRows * kKeyBlock * 4);
  b.tile[0] = c.take<float>(kAttentionQueryTile * p.key * 4);
  for (int i = 0; i < 2; ++i) b.state[i] = c.take<float>(keys * dims[i] * 4);
  return b;
}

using MakeBuffers = AttentionBuffers (*)(Carver&, const Shape&, int64_t element);

size_t buffer_bytes(MakeBuffers make, const Shape& s, int64_t element) {
  if (element == 0) return 0;
  Carver c(nullptr);
  make(c, s, element);
  return c.used();
}

void run_tasks(const KernelCtx& ctx, char* scratch, MakeBuffers make, const Shape& shape,
               int64_t element, const Tasks& tasks, const AttentionArgs& args,
               void (*fn)(const AttentionArgs&, const AttentionTask&)) {
  const size_t bytes = buffer_bytes(make, shape, element);
  ctx.pool->run(tasks.count(), [&](int64_t i, int worker) {
    AttentionTask task = tasks.get(i);
    if (element != 0) {
      Carver c(scratch + bytes * static_cast<size_t>(worker));
      task.buffers = make(c, shape, element);
    }
    fn(args, task);
  });
}

size_t prefix_bytes(int num_segments) {
  return round_up<size_t>((static_cast<size_t>(num_segments) + 1) * 4, 64);
}

AttentionArgs::Rows rows_of(const View& v) {
  if (v.none()) return {};
  return {.data = v.data, .token = v.stride[0], .head = v.stride[1]};
}

// ---- Forward

template <Isa isa>
size_t forward_scratch(const DeviceProps& props, const AttentionDesc& d) {
  const int64_t element = path_of(isa, d.q.dtype).pack_bytes;
  return prefix_bytes(d.num_segments) +
         static_cast<size_t>(props.threads) *
             buffer_bytes(forward_buffers, shape_of(d.q, d.k, d.v), element);
}

template <Isa isa>
Status forward(const KernelCtx& ctx, const AttentionDesc& d) {
  const AttentionPath path = path_of(isa, d.q.dtype);
  if (path.forward == nullptr)
    return {"attention: this instruction path does not take tensors of this dtype"};
  if (const char* error = check_shapes(d.q, d.k, d.v, d.out, d.saved)) return {error};
  const Shape shape = shape_of(d.q, d.k, d.v);
  if (const char* error = check_segments(shape, d.blocks, d.segments, d.num_segments))
    return {error};
  DeviceProps props = *ctx.props;
  props.threads = ctx.pool->size();
  if (ctx.scratch_bytes < forward_scratch<isa>(props, d)) return {"attention: not enough scratch"};
  AttentionArgs a;
  a.q = rows_of(d.q), a.k = rows_of(d.k), a.v = rows_of(d.v), a.out = rows_of(d.out),
  a.saved = rows_of(d.saved);
  a.blocks = d.blocks, a.segments = d.segments, a.num_segments = d.num_segments;
  a.heads = shape.heads, a.group = shape.group, a.dim = shape.dim, a.value_dim = shape.value_dim,
  a.scale = d.scale;
  char* scratch = static_cast<char*>(ctx.scratch);
  const Tasks tasks = make_tasks(reinterpret_cast<int32_t*>(scratch), d.segments, d.num_segments,
                                 shape.key_heads, queries_per_task(shape));
  run_tasks(ctx, scratch + prefix_bytes(d.num_segments), forward_buffers, shape, path.pack_bytes,
            tasks, a, path.forward);
  return {};
}

SavedSpec forward_saved(const DeviceProps&, const AttentionDesc& d) {
  SavedSpec s{};
  s.count = 1;
  s.tensor[0].dtype = d.q.dtype == DType::f64 ? DType::f64 : DType::f32;
  s.tensor[0].rank = 3;
  s.tensor[0].shape[0] = d.q.shape[0];
  s.tensor[0].shape[1] = d.q.shape[1];
  s.tensor[0].shape[2] = 2;
  return s;
}

// (query, key) pairs that see each other, and queries and keys in use.
struct Pairs {
  double pairs = 0, queries = 0, keys = 0;
};

Pairs count_pairs(const AttentionSegment* segments, int count) {
  Pairs p;
  for (int i = 0; i < count; ++i) {
    const double q = segments[i].q_len, n = segments[i].kv_len;
    p.pairs += q * (n - q) + q * (q + 1) / 2;
    p.queries += q;
    p.keys += q > 0 ? n : 0;
  }
  return p;
}

Cost forward_cost(const AttentionDesc& d) {
  const Shape s = shape_of(d.q, d.k, d.v);
  const Pairs p = count_pairs(d.segments, d.num_segments);
  const double element = static_cast<double>(dtype_size(d.q.dtype));
  return {.flops = p.pairs * s.heads * (s.dim + s.value_dim) * 2,
          .bytes = (p.queries * s.heads + p.keys * s.key_heads) * (s.dim + s.value_dim) * element};
}

// ---- Backward

template <Isa isa>
size_t backward_scratch(const DeviceProps& props, const AttentionBackwardDesc& d) {
  const int64_t element = path_of(isa, d.q.dtype).pack_bytes;
  const Shape s = shape_of(d.q, d.k, d.v);
  const size_t delta =
      round_up<size_t>(static_cast<size_t>(s.tokens * s.heads) * (element == 0 ? 8 : 4), 64);
  return prefix_bytes(d.num_segments) + delta +
         static_cast<size_t>(props.threads) *
             std::max({buffer_bytes(dq_buffers, s, element), buffer_bytes(dkv_buffers, s, element),
                       buffer_bytes(whole_buffers, s, element)});
}

template <Isa isa>
Status backward(const KernelCtx& ctx, const AttentionBackwardDesc& d) {
  const AttentionPath path = path_of(isa, d.q.dtype);
  if (path.backward_dq == nullptr)
    return {"attention_backward: this instruction path does not take tensors of this dtype"};
  if (d.saved.none()) return {"attention_backward: needs what the forward pass saved"};
  if (const char* error = check_shapes(d.q, d.k, d.v, d.out, d.saved)) return {error};
  if (const char* error = check_shapes(d.dq, d.dk, d.dv, d.dout, {})) return {error};
  if (!same_shape(d.q, d.dq) || !same_shape(d.k, d.dk) || !same_shape(d.v, d.dv) ||
      d.q.dtype != d.dq.dtype)
    return {"attention_backward: gradients are unlike their tensors"};
  const Shape shape = shape_of(d.q, d.k, d.v);
  if (const char* error = check_segments(shape, d.blocks, d.segments, d.num_segments))
    return {error};
  if (const char* error = check_ownership(d.blocks, d.segments, d.num_segments)) return {error};
  DeviceProps props = *ctx.props;
  props.threads = ctx.pool->size();
  if (ctx.scratch_bytes < backward_scratch<isa>(props, d))
    return {"attention_backward: not enough scratch"};
  char* scratch = static_cast<char*>(ctx.scratch);
  int32_t* prefix = reinterpret_cast<int32_t*>(scratch);
  scratch += prefix_bytes(d.num_segments);
  AttentionArgs a;
  a.q = rows_of(d.q), a.k = rows_of(d.k), a.v = rows_of(d.v), a.out = rows_of(d.out),
  a.saved = rows_of(d.saved);
  a.dout = rows_of(d.dout), a.dq = rows_of(d.dq), a.dk = rows_of(d.dk), a.dv = rows_of(d.dv);
  a.delta = scratch;
  a.blocks = d.blocks, a.segments = d.segments, a.num_segments = d.num_segments;
  a.heads = shape.heads, a.group = shape.group, a.dim = shape.dim, a.value_dim = shape.value_dim,
  a.scale = d.scale;
  scratch += round_up<size_t>(
      static_cast<size_t>(shape.tokens * shape.heads) * (path.pack_bytes == 0 ? 8 : 4), 64);
  const auto run = [&](MakeBuffers make, int64_t piece, int64_t above, int64_t most, auto fn) {
    const Tasks tasks =
        make_tasks(prefix, d.segments, d.num_segments, shape.key_heads, piece, above, most);
    if (tasks.count() > 0) run_tasks(ctx, scratch, make, shape, path.pack_bytes, tasks, a, fn);
  };
  // Which way a segment goes depends on shapes alone, not on the number of threads.
  const bool shared = std::any_of(d.segments, d.segments + d.num_segments,
                                  [](const AttentionSegment& s) { return s.kv_len != s.q_len; });
  const int64_t whole = path.backward_whole != nullptr && !shared ? kAttentionWholeKeys : 0;
  run(whole_buffers, kAttentionWholeKeys, 0, whole, path.backward_whole);
  run(dq_buffers, queries_per_task(shape), whole, INT32_MAX, path.backward_dq);
  run(dkv_buffers, kAttentionKeyGroup, whole, INT32_MAX, path.backward_dkv);
  return {};
}

Cost backward_cost(const AttentionBackwardDesc& d) {
  const Shape s = shape_of(d.q, d.k, d.v);
  const Pairs p = count_pairs(d.segments, d.num_segments);
  const double element = static_cast<double>(dtype_size(d.q.dtype));
  return {
      .flops = p.pairs * s.heads * (s.dim * 6 + s.value_dim * 4),
      .bytes = (p.queries * s.heads + p.keys * s.key_heads) * (s.dim + s.value_dim) * 2 * element};
}

template <Isa isa>
constexpr Kernel<AttentionDesc> kForward{forward<isa>, forward_scratch<isa>, forward_saved,
                                         forward_cost, true};
template <Isa isa>
constexpr Kernel<AttentionBackwardDesc> kBackward{backward<isa>, backward_scratch<isa>, nullptr,
                                                  backward_cost, false};

}  // namespace

Kernel<AttentionDesc> attention(Isa isa) {
  switch (isa) {
    case Isa::reference:
      return kForward<Isa::reference>;
    case Isa::scalar:
      return kForward<Isa::scalar>;
    case Isa::avx2:
      return kForward<Isa::avx2>;
    case Isa::avx512:
      return kForward<Isa::avx512>;
    case Isa::avx512bf16:
      return kForward<Isa::avx512bf16>;
    case Isa::amx:
      return kForward<Isa::amx>;
  }
  return {};
}

Kernel<AttentionBackwardDesc> attention_backward(Isa isa) {
  switch (isa) {
    case Isa::reference:
      return kBackward<Isa::reference>;
    case Isa::scalar:
      return kBackward<Isa::scalar>;
    case Isa::avx2:
      return kBackward<Isa::avx2>;
    case Isa::avx512:
      return kBackward<Isa::avx512>;
    case Isa::avx512bf16:
      return kBackward<Isa::avx512bf16>;
    case Isa::amx:
      return kBackward<Isa::amx>;
  }
  return {};
}

}  // namespace hone::cpu
