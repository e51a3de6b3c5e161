// The output head on the CPU: logits a block at a time, their log-sum-exp, and the adjoint of the
// log-probs in the same pass. Legend: R rows of a block, S entries of a vocabulary slice, D hidden,
// V vocabulary.
//
// The vocabulary goes by in chunks of kVocabChunk, ascending. A chunk's exponentials are kept
// relative to 2^k, where k is the row's running maximum (this chunk's entries included) over ln 2,
// rounded, and summed in fp32; chunks are added in fp64. Going from one k to the next multiplies
// sums by a power of two, which is exact.
#include "backend/cpu/head.h"

#include <cmath>

#include "backend/desc/gemm.h"
#include "backend/desc/head.h"

namespace hone::cpu {
namespace {

// Running statistics of one row: sum of e = exp(z) 2^-k, and of e (z - k ln 2).
struct RowState {
  double k, sum, moment;
  bool begun;
};

// Buffers of one call, laid out in the scratch.
struct Buffers {
  void* logits;  // [R, S]; the probabilities take their place row by row
  void* u;       // [R, D]: sum of e W, relative to 2^k
  RowState* rows;
  void* gemm;
  size_t gemm_bytes, total;
};

bool with_dx(const HeadDesc& d) { return !d.dlogprob.none(); }

int64_t block_rows(const HeadDesc& d) {
  return std::min<int64_t>(kHeadRows, std::max<int64_t>(1, d.x.shape[0]));
}
// With dx, P of a chunk must be relative to one k, so it is a chunk at a time; else as many as fit
// in 2 MB of logits, up to 16: a few rows (generation) then need few calls. The bits do not depend
// on this.
int64_t slice_size(const HeadDesc& d) {
  const int64_t chunk_bytes = block_rows(d) * kVocabChunk * 4;
  const int64_t chunks = with_dx(d) ? 1 : std::clamp<int64_t>((2 << 20) / chunk_bytes, 1, 16);
  return std::min(chunks * kVocabChunk, d.weight.rows);
}

GemmDesc logits_product(const HeadDesc& d, const WeightView& slice, int64_t begin, int64_t rows,
                        int64_t vocab_begin, void* buffer) {
  GemmDesc g;
  g.op = GemmOp::nt;
  g.x = rows_of(d.x, begin, rows);
  g.weights = &slice;
  if (d.logits.none()) {
    g.y = matrix(buffer, head_dtype(d.x), rows, slice.rows, slice_size(d));
  } else {
    g.y = matrix(at(d.logits, begin * d.logits.stride[0] + vocab_begin).data, head_dtype(d.x), rows,
                 slice.rows, d.logits.stride[0]);
  }
  return g;
}
// The probabilities lie where the logits did: row r of P begins where row r of the logits began.
int64_t p_stride(const HeadDesc& d) {
  return slice_size(d) * static_cast<int64_t>(dtype_size(head_dtype(d.x))) /
         static_cast<int64_t>(dtype_size(d.x.dtype));
}
GemmDesc u_product(const HeadDesc& d, const WeightView& slice, int64_t rows, void* p, void* u,
                   bool first) {
  GemmDesc g;
  g.op = GemmOp::nn;
  g.x = matrix(p, d.x.dtype, rows, slice.rows, p_stride(d));
  g.weights = &slice;
  g.y = matrix(u, head_dtype(d.x), rows, d.x.shape[1], d.x.shape[1]);
  if (!first) g.add = g.y;
  return g;
}

Buffers layout(Isa isa, const DeviceProps& props, const HeadDesc& d, void* scratch) {
  Bump bump{static_cast<char*>(scratch)};
  const size_t rows = static_cast<size_t>(block_rows(d)), element = dtype_size(head_dtype(d.x));
  Buffers b = {};
  if (d.logits.none() || with_dx(d)) {
    b.logits = bump.take(rows * static_cast<size_t>(slice_size(d)) * element);
  }
  if (with_dx(d)) b.u = bump.take(rows * static_cast<size_t>(d.x.shape[1]) * element);
  b.rows = static_cast<RowState*>(bump.take(rows * sizeof(RowState)));
  const Kernel<GemmDesc> product = gemm(isa);
  if (product.scratch_bytes != nullptr) {
    // Whole slices and the last one, whole blocks and the last one: take the most that any asks
    // for.
    const int64_t last_rows = d.x.shape[0] % block_rows(d),
                  last_slice = d.weight.rows % slice_size(d);
    for (const int64_t r : {block_rows(d), last_rows}) {
      for (const int64_t s : {slice_size(d), last_slice}) {
        if (r == 0 || s == 0) continue;
        const WeightView slice = weight_rows(d.weight, 0, s);
        const GemmDesc forward = logits_product(d, slice, 0, r, 0, b.logits);
        b.gemm_bytes = std::max(b.gemm_bytes, product.scratch_bytes(props, forward));
        if (!with_dx(d)) continue;
        for (const bool first : {true, false}) {
          const GemmDesc back = u_product(d, slice, r, b.logits, b.u, first);
          b.gemm_bytes = std::max(b.gemm_bytes, product.scratch_bytes(props, back));
        }
      }
    }
  }
  b.gemm = bump.take(b.gemm_bytes);
  b.total = bump.used;
  return b;
}

// Raises the row's k to that of a chunk's maximum; returns what sums relative to the old k are
// multiplied by.
double raise(RowState& row, double chunk_max) {
  const double k = std::nearbyint(chunk_max / kLn2);
  if (!row.begun) {
    row = {.k = k, .sum = 0, .moment = 0, .begun = true};
    return 1;
  }
  if (!(k > row.k)) return 1;
  const double factor = std::exp2(row.k - k);
  row.moment = factor * (row.moment + row.sum * (row.k - k) * kLn2);
  row.sum *= factor;
  row.k = k;
  return factor;
}

Status run_head(Isa isa, const KernelCtx& ctx, const HeadDesc& d) {
  if (const Status s = check_head(isa, d.x, d.weight, d.targets, d.inv_temperature); !s.ok()) {
    return s;
  }
  const int64_t total = d.x.shape[0], vocab = d.weight.rows, hidden = d.weight.cols;
  View saved = d.saved;  // may be wider than the other statistics
  if (saved.dtype == DType::f64) saved.dtype = head_dtype(d.x);
  for (const View* v : {&d.logprob, &d.entropy, static_cast<const View*>(&saved), &d.dlogprob}) {
    if (!row_stat_ok(*v, d.x)) return {"head: logprob, entropy, saved and dlogprob are [R] f32"};
  }
  if (d.targets.none() && (!d.logprob.none() || with_dx(d))) return {"head: no targets"};
  if (!d.logits.none() && (d.logits.rank != 2 || d.logits.shape[0] != total ||
                           d.logits.shape[1] != vocab || d.logits.dtype != head_dtype(d.x))) {
    return {"head: logits are [R, V] f32"};
  }
  if (with_dx(d) && (!same_shape(d.dx, d.x) || d.dx.dtype != d.x.dtype || !last_dim_ok(d.dx))) {
    return {"head: dx has the shape and dtype of x"};
  }
  if (total == 0) return {};

  const RowOps& ops = row_ops(isa);
  const auto product = gemm(isa).run;
  const DeviceProps props = ctx.props == nullptr ? DeviceProps{} : *ctx.props;
  const Buffers b = layout(isa, props, d, ctx.scratch);
  KernelCtx sub = ctx;
  sub.scratch = b.gemm;
  sub.scratch_bytes = b.gemm_bytes;
  const bool softmax = !d.logprob.none() || !d.entropy.none() || !d.saved.none() || with_dx(d);
  const int64_t stat_bytes = static_cast<int64_t>(dtype_size(head_dtype(d.x)));
  const int64_t slice_rows = slice_size(d);
  const int64_t p_bytes = p_stride(d) * static_cast<int64_t>(dtype_size(d.x.dtype));

  for (int64_t begin = 0; begin < total; begin += kHeadRows) {
    const int64_t rows = std::min(kHeadRows, total - begin);
    for (int64_t r = 0; r < rows; ++r) b.rows[r] = RowState{};
    for (int64_t v = 0; v < vocab; v += slice_rows) {
      const WeightView slice = weight_rows(d.weight, v, std::min(slice_rows, vocab - v));
      const GemmDesc forward = logits_product(d, slice, begin, rows, v, b.logits);
      if (const Status s = product(sub, forward); !s.ok()) return s;
      if (!softmax) continue;
      for_rows(ctx, rows, 4 * slice.rows * stat_bytes, [&](int64_t r) {
        RowState& row = b.rows[r];
        const double inv_t = inv_t_of(d.inv_temperature, begin + r);
        const Span all = row_span(forward.y, r);
        if (!d.logprob.none()) {
          const int64_t target = d.targets.as<int32_t>()[(begin + r) * d.targets.stride[0]] - v;
          if (target >= 0 && target < slice.rows) {
            put_float(d.logprob, begin + r, get_float(all, target));  // for now the logit
          }
        }
        for (int64_t c = 0; c < slice.rows; c += kVocabChunk) {
          const Span chunk = at(forward.y, r * forward.y.stride[0] + c);
          const int64_t n = std::min<int64_t>(kVocabChunk, slice.rows - c);
          const double factor = raise(row, ops.head_max(chunk, n, inv_t));
          if (with_dx(d) && factor != 1) {
            ops.scale({static_cast<char*>(b.u) + r * hidden * stat_bytes, head_dtype(d.x)}, hidden,
                      factor);
          }
          void* p = with_dx(d) ? static_cast<char*>(b.logits) + r * p_bytes : nullptr;
          double sum = 0, moment = 0;
          ops.head_exp(chunk, n, inv_t, row.k, {p, d.x.dtype}, &sum,
                       d.entropy.none() ? nullptr : &moment);
          row.sum += sum;
          row.moment += moment;
        }
      });
      if (with_dx(d)) {
        const GemmDesc back = u_product(d, slice, rows, b.logits, b.u, v == 0);
        if (const Status s = product(sub, back); !s.ok()) return s;
      }
    }
    if (!softmax) continue;
    for_rows(ctx, rows, hidden * 8, [&](int64_t r) {
      const RowState& row = b.rows[r];
      const int64_t i = begin + r;
      const double inv_t = inv_t_of(d.inv_temperature, i);
      const double log_sum = std::log(row.sum), lse = row.k * kLn2 + log_sum;
      if (!d.saved.none()) put_float(d.saved, i, lse);
      if (!d.entropy.none()) put_float(d.entropy, i, log_sum - row.moment / row.sum);
      if (!d.logprob.none()) put_float(d.logprob, i, inv_t * get_float(d.logprob, i) - lse);
      if (with_dx(d)) {
        const int64_t target = d.targets.as<int32_t>()[i * d.targets.stride[0]];
        for_weight_row(isa, d.weight, target, d.x.dtype, [&](Span w, int64_t col, int64_t n) {
          ops.head_dx(
              w, {static_cast<char*>(b.u) + (r * hidden + col) * stat_bytes, head_dtype(d.x)},
              at(d.dx, i * d.dx.stride[0] + col), n, get_float(d.dlogprob, i) * inv_t, 1 / row.sum);
        });
      }
    });
  }
  return {};
}

template <Isa isa>
size_t head_scratch(const DeviceProps& props, const HeadDesc& d) {
  return layout(isa, props, d, nullptr).total;
}

Cost head_cost(const HeadDesc& d) {
  const double rows = static_cast<double>(d.x.shape[0]), vocab = static_cast<double>(d.weight.rows);
  const double hidden = static_cast<double>(d.weight.cols);
  const double blocks = std::ceil(rows / kHeadRows);
  return {(with_dx(d) ? 4 : 2) * rows * vocab * hidden + 16 * rows * vocab,
          blocks * vocab * hidden * static_cast<double>(format_bits(d.weight.format)) / 8 +
              view_bytes(d.x) + view_bytes(d.dx) + view_bytes(d.logits)};
}

}  // namespace

Kernel<HeadDesc> head(Isa isa) {
  Kernel<HeadDesc> k{by_isa<HeadDesc, run_head>(isa), nullptr, nullptr, head_cost, true};
  switch (isa) {
    case Isa::reference:
      k.scratch_bytes = head_scratch<Isa::reference>;
      break;
    case Isa::scalar:
      k.scratch_bytes = head_scratch<Isa::scalar>;
      break;
    case Isa::avx2:
      k.scratch_bytes = head_scratch<Isa::avx2>;
      break;
    case Isa::avx512:
      k.scratch_bytes = head_scratch<Isa::avx512>;
      break;
    case Isa::avx512bf16:
      k.scratch_bytes = head_scratch<Isa::avx512bf16>;
      break;
    case Isa::amx:
      k.scratch_bytes = head_scratch<Isa::amx>;
      break;
  }
  return k;
}

}  // namespace hone::cpu
