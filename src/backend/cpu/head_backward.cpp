// The adjoint of the output head where dL/dlogprob is known only after the forward pass, or the
// weight is trained: logits again, chunk by chunk. Legend: R rows of a block, S entries of a
// vocabulary slice, D hidden, V vocabulary.
#include <cmath>

#include "backend/cpu/head.h"
#include "backend/desc/gemm.h"
#include "backend/desc/head.h"

namespace hone::cpu {
namespace {

struct Buffers {
  void* logits;  // [R, S]; dL/dlogits, in x's dtype, takes their place row by row
  void* u;       // [R, D]: dx before its rounding
  void* gemm;
  size_t gemm_bytes, total;
};

int64_t block_rows(const HeadBackwardDesc& d) {
  return std::min<int64_t>(kHeadRows, std::max<int64_t>(1, d.x.shape[0]));
}
int64_t slice_size(const WeightView& w) { return std::min<int64_t>(kVocabChunk, w.rows); }

GemmDesc logits_product(const HeadBackwardDesc& d, const WeightView& slice, int64_t begin,
                        int64_t rows, void* buffer) {
  GemmDesc g;
  g.op = GemmOp::nt;
  g.x = rows_of(d.x, begin, rows);
  g.weights = &slice;
  g.y = matrix(buffer, head_dtype(d.x), rows, slice.rows, slice_size(d.weight));
  return g;
}
View dlogits_view(const HeadBackwardDesc& d, int64_t rows, int64_t cols, void* buffer) {
  const int64_t stride = slice_size(d.weight) * static_cast<int64_t>(dtype_size(head_dtype(d.x))) /
                         static_cast<int64_t>(dtype_size(d.x.dtype));
  return matrix(buffer, d.x.dtype, rows, cols, stride);
}
GemmDesc dx_product(const HeadBackwardDesc& d, const WeightView& slice, int64_t rows, void* buffer,
                    void* u, bool first) {
  GemmDesc g;
  g.op = GemmOp::nn;
  g.x = dlogits_view(d, rows, slice.rows, buffer);
  g.weights = &slice;
  g.y = matrix(u, head_dtype(d.x), rows, d.x.shape[1], d.x.shape[1]);
  if (!first) g.add = g.y;
  return g;
}
GemmDwDesc dw_product(const HeadBackwardDesc& d, const View& dw, int64_t begin, int64_t rows,
                      void* buffer) {
  GemmDwDesc g;
  g.dy = dlogits_view(d, rows, dw.shape[0], buffer);
  g.x = rows_of(d.x, begin, rows);
  g.dw = &dw;
  return g;
}

Buffers layout(Isa isa, const DeviceProps& props, const HeadBackwardDesc& d, void* scratch) {
  Bump bump{static_cast<char*>(scratch)};
  const size_t rows = static_cast<size_t>(block_rows(d)), element = dtype_size(head_dtype(d.x));
  Buffers b = {};
  b.logits = bump.take(rows * static_cast<size_t>(slice_size(d.weight)) * element);
  if (!d.dx.none()) b.u = bump.take(rows * static_cast<size_t>(d.x.shape[1]) * element);
  const Kernel<GemmDesc> product = gemm(isa);
  const Kernel<GemmDwDesc> weight_product = gemm_dw(isa);
  const int64_t last_rows = d.x.shape[0] % block_rows(d), last_slice = d.weight.rows % kVocabChunk;
  for (const int64_t r : {block_rows(d), last_rows}) {
    for (const int64_t s : {slice_size(d.weight), last_slice}) {
      if (r == 0 || s == 0) continue;
      const WeightView slice = weight_rows(d.weight, 0, s);
      if (product.scratch_bytes != nullptr) {
        const GemmDesc forward = logits_product(d, slice, 0, r, b.logits);
        b.gemm_bytes = std::max(b.gemm_bytes, product.scratch_bytes(props, forward));
        for (const bool first : {true, false}) {
          if (d.dx.none()) continue;
          const GemmDesc back = dx_product(d, slice, r, b.logits, b.u, first);
          b.gemm_bytes = std::max(b.gemm_bytes, product.scratch_bytes(props, back));
        }
      }
      if (!d.dweight.none() && weight_product.scratch_bytes != nullptr) {
        const View dw = rows_of(d.dweight, 0, s);
        const GemmDwDesc back = dw_product(d, dw, 0, r, b.logits);
        b.gemm_bytes = std::max(b.gemm_bytes, weight_product.scratch_bytes(props, back));
      }
    }
  }
  b.gemm = bump.take(b.gemm_bytes);
  b.total = bump.used;
  return b;
}

Status run_head_backward(Isa isa, const KernelCtx& ctx, const HeadBackwardDesc& d) {
  if (const Status s = check_head(isa, d.x, d.weight, d.targets, d.inv_temperature); !s.ok()) {
    return s;
  }
  for (const View* v : {&d.saved, &d.entropy, &d.dlogprob, &d.dentropy}) {
    if (!row_stat_ok(*v, d.x)) return {"head_backward: saved, entropy and adjoints are [R] f32"};
  }
  if (d.saved.none()) return {"head_backward: saved is missing"};
  if (d.dlogprob.none() && d.dentropy.none()) return {"head_backward: no adjoint"};
  if (!d.dlogprob.none() && d.targets.none()) return {"head_backward: no targets"};
  if (!d.dentropy.none() && d.entropy.none()) return {"head_backward: entropy is missing"};
  if (!d.dx.none() && (!same_shape(d.dx, d.x) || d.dx.dtype != d.x.dtype || !last_dim_ok(d.dx))) {
    return {"head_backward: dx has the shape and dtype of x"};
  }
  if (!d.dweight.none() &&
      (d.dweight.rank != 2 || d.dweight.shape[0] != d.weight.rows ||
       d.dweight.shape[1] != d.weight.cols || d.dweight.dtype != head_dtype(d.x))) {
    return {"head_backward: dweight is [V, D] f32"};
  }
  const RowOps& ops = row_ops(isa);
  const auto product = gemm(isa).run;
  const auto weight_product = gemm_dw(isa).run;
  const DeviceProps props = ctx.props == nullptr ? DeviceProps{} : *ctx.props;
  const Buffers b = layout(isa, props, d, ctx.scratch);
  KernelCtx sub = ctx;
  sub.scratch = b.gemm;
  sub.scratch_bytes = b.gemm_bytes;
  const int64_t total = d.x.shape[0], vocab = d.weight.rows, hidden = d.weight.cols;

  for (int64_t begin = 0; begin < total; begin += kHeadRows) {
    const int64_t rows = std::min(kHeadRows, total - begin);
    for (int64_t v = 0; v < vocab; v += kVocabChunk) {
      const WeightView slice = weight_rows(d.weight, v, std::min<int64_t>(kVocabChunk, vocab - v));
      const GemmDesc forward = logits_product(d, slice, begin, rows, b.logits);
      if (const Status s = product(sub, forward); !s.ok()) return s;
      const View dlogits = dlogits_view(d, rows, slice.rows, b.logits);
      for_rows(ctx, rows, 4 * slice.rows * 4, [&](int64_t r) {
        const int64_t i = begin + r;
        const double inv_t = inv_t_of(d.inv_temperature, i), lse = get_float(d.saved, i);
        const double a = d.dlogprob.none() ? 0 : inv_t * get_float(d.dlogprob, i);
        const double e = d.dentropy.none() ? 0 : inv_t * get_float(d.dentropy, i);
        const double entropy = d.dentropy.none() ? 0 : get_float(d.entropy, i);
        const int64_t target =
            d.dlogprob.none() ? -1 : d.targets.as<int32_t>()[i * d.targets.stride[0]] - v;
        const bool here = target >= 0 && target < slice.rows;
        const Span in = row_span(forward.y, r), out = row_span(dlogits, r);
        const double log_p = here ? inv_t * get_float(in, target) - lse : 0;
        ops.head_dlogits(in, slice.rows, inv_t, lse, a, e, entropy, out);
        if (here) {
          // 1 - p by expm1, so that a token the model is sure of keeps its digits.
          put_float(out, target, -a * std::expm1(log_p) - std::exp(log_p) * e * (log_p + entropy));
        }
      });
      if (!d.dx.none()) {
        const GemmDesc back = dx_product(d, slice, rows, b.logits, b.u, v == 0);
        if (const Status s = product(sub, back); !s.ok()) return s;
      }
      if (!d.dweight.none()) {
        const View dw = rows_of(d.dweight, v, slice.rows);
        const GemmDwDesc back = dw_product(d, dw, begin, rows, b.logits);
        if (const Status s = weight_product(sub, back); !s.ok()) return s;
      }
    }
    if (d.dx.none()) continue;
    const View u = matrix(b.u, head_dtype(d.x), rows, hidden, hidden);
    for_rows(ctx, rows, hidden * 8,
             [&](int64_t r) { ops.convert(row_span(u, r), row_span(d.dx, begin + r), hidden, 1); });
  }
  return {};
}

template <Isa isa>
size_t scratch(const DeviceProps& props, const HeadBackwardDesc& d) {
  return layout(isa, props, d, nullptr).total;
}

Cost head_backward_cost(const HeadBackwardDesc& d) {
  const double rows = static_cast<double>(d.x.shape[0]), vocab = static_cast<double>(d.weight.rows);
  const double hidden = static_cast<double>(d.weight.cols), blocks = std::ceil(rows / kHeadRows);
  const double products = 1 + (d.dx.none() ? 0 : 1) + (d.dweight.none() ? 0 : 1);
  return {2 * products * rows * vocab * hidden + 20 * rows * vocab,
          blocks * vocab * hidden * static_cast<double>(format_bits(d.weight.format)) / 8 +
              blocks * 2 * view_bytes(d.dweight) + view_bytes(d.x) + view_bytes(d.dx)};
}

}  // namespace

Kernel<HeadBackwardDesc> head_backward(Isa isa) {
  Kernel<HeadBackwardDesc> k{by_isa<HeadBackwardDesc, run_head_backward>(isa), nullptr, nullptr,
                             head_backward_cost, true};
  switch (isa) {
    case Isa::reference:
      k.scratch_bytes = scratch<Isa::reference>;
      break;
    case Isa::scalar:
      k.scratch_bytes = scratch<Isa::scalar>;
      break;
    case Isa::avx2:
      k.scratch_bytes = scratch<Isa::avx2>;
      break;
    case Isa::avx512:
      k.scratch_bytes = scratch<Isa::avx512>;
      break;
    case Isa::avx512bf16:
      k.scratch_bytes = scratch<Isa::avx512bf16>;
      break;
    case Isa::amx:
      k.scratch_bytes = scratch<Isa::amx>;
      break;
  }
  return k;
}

}  // namespace hone::cpu
