#include "load/convert.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "backend/format.h"
#include "core/thread_pool.h"

namespace hone::load {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr int64_t kRows = 128;  // of a task: whole blocks

struct Work {
  Source source;
  io::TensorDecl values;
  std::optional<io::TensorDecl> scales;
  bool converted = false;
};

// In the order in which they lie in files.
std::vector<const io::TensorEntry*> in_order(const io::CheckpointReader& reader) {
  std::vector<const io::TensorEntry*> all;
  for (const std::string& name : reader.names()) {
    if (!is_scale(reader, name)) all.push_back(&reader.at(name));
  }
  std::stable_sort(all.begin(), all.end(), [&](const auto* a, const auto* b) {
    return std::pair(&reader.file_of(a->name), a->offset) <
           std::pair(&reader.file_of(b->name), b->offset);
  });
  return all;
}

Work plan_tensor(const io::CheckpointReader& reader, const io::TensorEntry& t, Format to) {
  Work w{.values = {.name = t.name, .type = t.type, .shape = t.shape}};
  if (!has_numbers(t.type)) {
    w.source.values = &t;
    return w;
  }
  w.source = with_scales(reader, t);
  if (to == Format::fp8_block) {
    w.converted = is_linear_weight(t.name, t.shape) && w.source.format != Format::fp8_block;
    if (w.converted || w.source.scales != nullptr) {
      w.values.type = io::FileType::f8_e4m3;
      w.scales = scales_of(w.values);
    }
  } else {
    w.values.type = to == Format::bf16 ? io::FileType::bf16 : io::FileType::f32;
    w.converted = w.values.type != t.type;
  }
  return w;
}

// Rows [first, first + n) as they are written.
struct Piece {
  std::vector<std::byte> values, scales;
};

Piece convert_rows(const Work& w, Format to, int64_t first, int64_t n, int64_t cols) {
  Piece p;
  std::vector<float> numbers(static_cast<size_t>(n * cols));
  read_numbers(w.source, first * cols, numbers);
  if (to == Format::fp8_block) {
    p.values.resize(numbers.size());
    p.scales.resize(static_cast<size_t>((n + kRows - 1) / kRows * ((cols + kRows - 1) / kRows)) *
                    4);
    format_ops(to).pack(numbers.data(),
                        contiguous_weight(to, p.values.data(), p.scales.data(), n, cols));
  } else if (to == Format::bf16) {
    std::vector<bf16> rounded(numbers.begin(), numbers.end());
    const auto bytes = std::as_bytes(std::span(rounded));
    p.values.assign(bytes.begin(), bytes.end());
  } else {
    const auto bytes = std::as_bytes(std::span(numbers));
    p.values.assign(bytes.begin(), bytes.end());
  }
  return p;
}

int64_t columns(const std::vector<int64_t>& shape) { return shape.empty() ? 1 : shape.back(); }

// fn(first row, rows, task) of groups of rows, as many at a time as there are threads.
template <class Each, class After>
void by_rows(int64_t rows, ThreadPool& pool, Each&& each, After&& after) {
  const int64_t group = kRows * pool.size();
  for (int64_t first = 0; first < rows; first += group) {
    const int64_t tasks = (std::min(group, rows - first) + kRows - 1) / kRows;
    pool.run(tasks, [&](int64_t task, int) {
      const int64_t from = first + task * kRows;
      each(from, std::min(kRows, rows - from), task);
    });
    after(tasks);
  }
}

bool in_place(const Work& w, const io::ModelWriter& writer) {
  return writer.in_place(w.values.name) && (!w.scales || writer.in_place(w.scales->name));
}

void write_tensor(const Work& w, Format to, ThreadPool& pool, io::ModelWriter& writer) {
  // of two that belong together one may be in place
  const bool values_there = writer.in_place(w.values.name);
  const bool scales_there = !w.scales || writer.in_place(w.scales->name);
  const io::TensorEntry& t = *w.source.values;
  if (!w.converted) {
    if (!values_there) writer.write(w.values.name, {t.data, t.bytes});
    if (!scales_there)
      writer.write(w.scales->name, {w.source.scales->data, w.source.scales->bytes});
    return;
  }
  const int64_t cols = columns(t.shape), rows = cols == 0 ? 0 : t.elements() / cols;
  std::vector<Piece> pieces(static_cast<size_t>(pool.size()));
  std::vector<std::byte> scales;
  by_rows(
      rows, pool,
      [&](int64_t first, int64_t n, int64_t task) {
        pieces[static_cast<size_t>(task)] = convert_rows(w, to, first, n, cols);
      },
      [&](int64_t tasks) {
        for (int64_t i = 0; i < tasks; ++i) {
          const Piece& p = pieces[static_cast<size_t>(i)];
          if (!values_there) writer.write(w.values.name, p.values);
          scales.insert(scales.end(), p.scales.begin(), p.scales.end());
        }
      });
  if (!scales_there) writer.write(w.scales->name, scales);
}

struct Errors {
  double largest = 0, sum = 0, top = 0;
};

// Compares what was written with what it was made of.
Errors compare(const Work& w, const Source& written, Format to, ThreadPool& pool) {
  const int64_t cols = columns(w.values.shape);
  const int64_t rows = cols == 0 ? 0 : written.values->elements() / cols;
  std::vector<Errors> parts(static_cast<size_t>(pool.size()));
  Errors all;
  by_rows(
      rows, pool,
      [&](int64_t first, int64_t n, int64_t task) {
        std::vector<float> a(static_cast<size_t>(n * cols)), b(a.size());
        read_numbers(w.source, first * cols, a);
        read_numbers(written, first * cols, b);
        Errors& e = parts[static_cast<size_t>(task)] = {};
        for (size_t i = 0; i < a.size(); ++i) {
          const double gap = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
          const bool exact = to == Format::bf16  ? static_cast<float>(bf16(a[i])) == b[i]
                             : to == Format::f32 ? a[i] == b[i]
                                                 : std::isfinite(b[i]);
          // NaN stays what it is
          if (!exact && !(std::isnan(a[i]) && std::isnan(b[i])))
            runtime_error("convert", "{}: number {} came back as {} from {}", w.values.name,
                          first * cols + static_cast<int64_t>(i), b[i], a[i]);
          e.largest = std::max(e.largest, gap);
          e.sum += gap;
          e.top = std::max(e.top, std::fabs(static_cast<double>(a[i])));
        }
      },
      [&](int64_t tasks) {
        for (int64_t i = 0; i < tasks; ++i) {
          const Errors& e = parts[static_cast<size_t>(i)];
          all.largest = std::max(all.largest, e.largest);
          all.sum += e.sum;
          all.top = std::max(all.top, e.top);
        }
      });
  return all;
}

void let_go(const io::CheckpointReader& reader, const Source& s) {
  for (const io::TensorEntry* t : {s.values, s.scales}) {
    if (t != nullptr)
      reader.file_of(t->name).map().advise(io::MappedFile::Advice::dont_need, t->offset, t->bytes);
  }
}

}  // namespace

io::TensorDecl scales_of(const io::TensorDecl& values) {
  return {.name = values.name + "_scale_inv",
          .type = io::FileType::f32,
          .shape = {(values.shape[0] + kRows - 1) / kRows, (values.shape[1] + kRows - 1) / kRows}};
}

ConvertReport convert_weights(const io::CheckpointReader& from, const std::filesystem::path& to,
                              const ConvertOptions& options, ThreadPool& pool) {
  ConvertReport report;
  std::vector<Work> work;
  std::vector<io::TensorDecl> decls;
  for (const io::TensorEntry* t : in_order(from)) {
    const Work& w = work.emplace_back(plan_tensor(from, *t, options.to));
    decls.push_back(w.values);
    if (w.scales) decls.push_back(*w.scales);
    if (!w.scales && options.to == Format::fp8_block && t->shape.size() == 2 &&
        t->name.ends_with(kWeight))
      report.unconverted.push_back(t->name.substr(0, t->name.size() - kWeight.size()));
    report.converted += w.converted;
  }
  report.tensors = static_cast<int64_t>(work.size());
  report.bytes_before = from.total_bytes();
  for (const io::TensorDecl& d : decls) report.bytes_after += d.bytes();
  io::ModelWriter writer(to, decls, options.max_shard_bytes, io::ModelWriter::Files::one_by_one);
  for (const Work& w : work) {
    if (options.progress) options.progress(w.values.name);
    if (!in_place(w, writer)) write_tensor(w, options.to, pool, writer);
    let_go(from, w.source);
  }
  writer.finish();

  const io::CheckpointReader written = io::CheckpointReader::open(to);
  double sum = 0, numbers = 0;
  for (const Work& w : work) {
    if (!w.converted) continue;
    const Source back = with_scales(written, written.at(w.values.name));
    const Errors e = compare(w, back, options.to, pool);
    if (e.top > 0) {
      report.largest_error = std::max(report.largest_error, e.largest / e.top);
      sum += e.sum / e.top;
    }
    numbers += static_cast<double>(back.values->elements());
    let_go(from, w.source);
    let_go(written, back);
  }
  report.mean_error = numbers > 0 ? sum / numbers : 0;
  return report;
}

}  // namespace hone::load
