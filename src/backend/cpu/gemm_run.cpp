#include "backend/cpu/gemm_run.h"

#include <algorithm>
#include <atomic>

namespace hone::cpu {

extern const GemmPath kGemmAvx2, kGemmAvx512, kGemmAvx512Bf16, kGemmAmx;
extern const GemmPath kGemmAvx2Turned, kGemmAvx512Turned, kGemmAvx512Bf16Turned;
extern const GemmPath kGemmAvx2Expanded, kGemmAvx512Expanded, kGemmAvx512Bf16Expanded;
extern const GemmPath kGemmAvx2Squares;
extern const GemmStreamPath kGemmStreamAmx;

namespace {

// A worker's expanded columns take about so much at most, but hold at least a unit of columns.
constexpr int64_t kExpandedBytes = 512 << 10;
// Prepared rows of several groups; those of one may take more.
constexpr int64_t kPreparedBytes = 8 << 20;
constexpr int kMostParts = 64;

const GemmPath& path_of(GemmKind kind, GemmForm form) {
  const auto of = [form](const GemmPath& packed, const GemmPath& turned,
                         const GemmPath& expanded) -> const GemmPath& {
    return form == GemmForm::turned ? turned : form == GemmForm::expanded ? expanded : packed;
  };
  switch (kind) {
    case GemmKind::words256:
      if (form == GemmForm::squares) return kGemmAvx2Squares;
      return of(kGemmAvx2, kGemmAvx2Turned, kGemmAvx2Expanded);
    case GemmKind::words512:
      return of(kGemmAvx512, kGemmAvx512Turned, kGemmAvx512Expanded);
    case GemmKind::pairs:
      return of(kGemmAvx512Bf16, kGemmAvx512Bf16Turned, kGemmAvx512Bf16Expanded);
    case GemmKind::tiles:
    case GemmKind::stream:
      break;
  }
  return kGemmAmx;
}

GemmCut cut_of(const DeviceProps& props, GemmKind kind, const GroupJob& job) {
  GemmCut c = gemm_cut(props, kind, job);
  if (job.packed == nullptr) return c;
  const int64_t unit = kind == GemmKind::stream ? c.cols : c.col_unit;
  const int64_t unit_bytes = unit * expanded_stride(job.k, job.w.type);
  const int64_t units = ceil_div(job.n, unit),
                most = std::max<int64_t>(kExpandedBytes / unit_bytes, 1);
  c.panels = std::max(c.panels, ceil_div(units, most));
  c.cols = std::min(c.cols, unit * ceil_div(units, c.panels));
  c.expanded = job.w_by_depth ? job.k * expanded_stride(c.cols, job.w.type)
                              : c.cols * expanded_stride(job.k, job.w.type);
  return c;
}

// Expands columns [n0, n0 + cols) of job's weight to `to`; the job that finds them there.
GemmJob expand_columns(Isa isa, const GroupJob& job, int64_t n0, int64_t cols, char* to) {
  GemmJob here = job;
  const DType as = job.w.type == GemmElem::bf16 ? DType::bf16 : DType::f32;
  const int64_t size = static_cast<int64_t>(dtype_size(as));
  const int64_t rows = job.w_by_depth ? job.k : cols, numbers = job.w_by_depth ? cols : job.k;
  here.w.stride = expanded_stride(numbers, job.w.type);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = job.w_by_depth ? i : n0 + i, col = job.w_by_depth ? n0 : 0;
    expand_weight_row(isa, *job.packed, row, col, numbers, as, to + i * here.w.stride);
  }
  // as if the columns before lay there too
  const int64_t before = n0 * (job.w_by_depth ? size : here.w.stride);
  here.w.data = reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(to) -
                                              static_cast<uintptr_t>(before));
  return here;
}

// What a call needs: prepared rows, and a worker's panel and expanded columns.
struct Room {
  int64_t prepared = 0, panel = 0, expanded = 0;
};
Room room_of(Isa isa, const DeviceProps& props, EachGroup each) {
  Room room;
  int64_t all = 0;
  each([&](const GroupJob& job) {
    const GemmCut c = cut_of(props, gemm_kind(isa, job), job);
    all += c.prepared;
    room.prepared = std::max(room.prepared, c.prepared);
    room.panel = std::max(room.panel, c.panel);
    room.expanded = std::max(room.expanded, c.expanded);
  });
  room.prepared = std::max(room.prepared, std::min(all, kPreparedBytes));
  return room;
}

class Runner {
 public:
  Runner(Isa isa, const KernelCtx& ctx, const Room& room)
      : isa_(isa),
        ctx_(ctx),
        room_(room),
        prepared_(static_cast<char*>(ctx.scratch)),
        panels_(prepared_ + room.prepared),
        expanded_(panels_ + room.panel * ctx.pool->size()) {}

  void add(const GroupJob& job) {
    if (job.n == 0) return;
    const GemmKind kind = gemm_kind(isa_, job);
    const GemmCut c = cut_of(*ctx_.props, kind, job);
    if (kind == GemmKind::stream) return stream(job, c);
    for (int64_t begin = 0; begin < job.t; begin += c.chunk_rows) {
      if (count_ == kMostParts || begin > 0 || used_ + c.prepared > room_.prepared) finish();
      add_chunk(job, path_of(kind, c.form), c, begin);
    }
  }

  // Computes what was added.
  void finish() {
    const auto tasks = [&](int64_t Part::*end) {
      return count_ == 0 ? 0 : parts_[count_ - 1].*end;
    };
    ctx_.pool->run(tasks(&Part::prepare_end), [&](int64_t task, int) {
      const auto [part, i] = find(&Part::prepare_end, task);
      prepare(*part, i);
    });
    ctx_.pool->run(tasks(&Part::panel_end), [&](int64_t task, int worker) {
      const auto [part, i] = find(&Part::panel_end, task);
      panel(*part, i, worker);
    });
    count_ = 0;
    used_ = 0;
  }

 private:
  // A chunk of a group's rows.
  struct Part {
    GroupJob job;
    const GemmPath* path;
    GemmCut cut;
    GemmChunk chunk;
    int64_t prepare_rows, panel_rows;  // of a task
    int64_t prepare_end, panel_end;    // tasks of this part and those before
  };

  void add_chunk(const GroupJob& job, const GemmPath& path, const GemmCut& c, int64_t begin) {
    const int64_t threads = ctx_.pool->size();
    const Part* before = count_ == 0 ? nullptr : &parts_[count_ - 1];
    Part& p = parts_[count_++];
    p = {.job = job,
         .path = &path,
         .cut = c,
         .chunk = {.begin = begin,
                   .rows = std::min(c.chunk_rows, job.t - begin),
                   .prepared = c.prepared > 0 ? prepared_ + used_ : nullptr,
                   .in_place = c.in_place,
                   .depth_block = c.depth_block,
                   .pass_words = c.pass_words,
                   // nothing lies there yet of an expanded w
                   .next_panel = job.packed ? job.n : c.cols * threads,
                   .block_rows = c.block_rows,
                   .groups = c.groups}};
    used_ += c.prepared;
    const int64_t rows = p.chunk.rows;
    // rows of an x by depth lie beside each other: long pieces of lines, but several for a thread
    p.prepare_rows = round_up(
        job.x_by_depth ? std::clamp<int64_t>(ceil_div(rows, 4 * threads), 32, 48 * c.row_unit) : 32,
        c.row_unit);
    p.panel_rows = rows;
    if (c.panels < threads) {
      const int64_t parts = ceil_div(threads, c.panels);
      p.panel_rows = std::min(
          rows, std::max(round_up(64, c.row_unit), round_up(ceil_div(rows, parts), c.row_unit)));
    }
    p.prepare_end =
        (before ? before->prepare_end : 0) + (c.prepared > 0 ? ceil_div(rows, p.prepare_rows) : 0);
    p.panel_end = (before ? before->panel_end : 0) + c.panels * ceil_div(rows, p.panel_rows);
  }

  // The part of a task, and its number there.
  std::pair<const Part*, int64_t> find(int64_t Part::*end, int64_t task) const {
    const Part* part = std::upper_bound(parts_, parts_ + count_, task,
                                        [&](int64_t t, const Part& p) { return t < p.*end; });
    return {part, part == parts_ ? task : task - (part - 1)->*end};
  }

  void prepare(const Part& p, int64_t task) const {
    const int64_t t = task * p.prepare_rows;
    p.path->prepare(&p.job, &p.chunk, p.chunk.begin + t,
                    std::min(p.prepare_rows, p.chunk.rows - t));
  }

  void panel(const Part& p, int64_t task, int worker) const {
    // the wider panels first, so that threads end together
    const int64_t units = ceil_div(p.job.n, p.cut.col_unit);
    const auto first_column = [&](int64_t panel) {
      return (panel * (units / p.cut.panels) + std::min(panel, units % p.cut.panels)) *
             p.cut.col_unit;
    };
    const int64_t row_tasks = ceil_div(p.chunk.rows, p.panel_rows);
    const int64_t t = task % row_tasks * p.panel_rows, number = task / row_tasks;
    const int64_t n = first_column(number), end = std::min(p.job.n, first_column(number + 1));
    with_columns(p.job, n, end - n, worker, [&](const GemmJob* job) {
      p.path->panel(job, &p.chunk, p.chunk.begin + t, std::min(p.panel_rows, p.chunk.rows - t), n,
                    end - n, panels_ + room_.panel * worker);
    });
  }

  // fn(the job as kernels take it) for columns [n0, n0 + cols)
  template <class Fn>
  void with_columns(const GroupJob& job, int64_t n0, int64_t cols, int worker, Fn fn) const {
    if (job.packed == nullptr) return fn(static_cast<const GemmJob*>(&job));
    const GemmJob here = expand_columns(isa_, job, n0, cols, expanded_ + room_.expanded * worker);
    fn(&here);
  }

  // A task packs x and takes panels as long as there are some, smaller and smaller: long ones are
  // read fastest, short ones at the end let all threads finish together.
  void stream(const GroupJob& job, const GemmCut& c) {
    std::atomic<int64_t> next{0};
    const int64_t threads = ctx_.pool->size();
    ctx_.pool->run(std::min(ceil_div(job.n, c.cols), threads), [&](int64_t, int worker) {
      char* scratch = panels_ + room_.panel * worker;
      bool prepared = false;
      for (int64_t n = next.load(); n < job.n;) {
        const int64_t most =
            job.packed != nullptr ? c.cols : round_up(ceil_div(job.n - n, 2 * threads), c.cols);
        const int64_t cols = std::min(most, job.n - n);
        if (!next.compare_exchange_weak(n, n + cols)) continue;
        if (!prepared) kGemmStreamAmx.prepare(&job, scratch);
        prepared = true;
        with_columns(job, n, cols, worker,
                     [&](const GemmJob* j) { kGemmStreamAmx.panel(j, n, cols, scratch); });
        n = next.load();
      }
    });
  }

  const Isa isa_;
  const KernelCtx& ctx_;
  const Room room_;
  char *prepared_, *panels_, *expanded_;
  Part parts_[kMostParts];
  int count_ = 0;
  int64_t used_ = 0;  // of prepared_
};

}  // namespace

int64_t expanded_stride(int64_t numbers, GemmElem type) {
  return (ceil_div(numbers * (type == GemmElem::bf16 ? 2 : 4), 64) | 1) * 64;
}

size_t groups_scratch(Isa isa, const DeviceProps& props, EachGroup each) {
  const Room room = room_of(isa, props, each);
  return static_cast<size_t>(room.prepared + (room.panel + room.expanded) * props.threads);
}

void run_groups(Isa isa, const KernelCtx& ctx, EachGroup each) {
  Runner runner(isa, ctx, room_of(isa, *ctx.props, each));
  each([&](const GroupJob& job) { runner.add(job); });
  runner.finish();
}

}  // namespace hone::cpu
