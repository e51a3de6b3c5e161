#include "app/logits.h"

#include <algorithm>
#include <numeric>

#include "exec/memory.h"
#include "ops/head.h"

namespace hone::app {
namespace {

constexpr int64_t kValuesAtOnce = int64_t{4} << 20;

}  // namespace

void for_each_logits(Context& ctx, const models::Decoder& decoder,
                     const std::vector<int32_t>& tokens,
                     const std::function<void(int64_t, std::span<const float>)>& fn) {
  Context c = inference(ctx);
  Stream stream;
  stream.append(tokens, 0);
  const models::StreamInputs inputs = models::make_inputs(c, decoder.config(), stream);
  const Tensor hidden = decoder.forward(c, inputs);
  const auto total = static_cast<int64_t>(tokens.size());
  const int64_t chunk = std::max<int64_t>(1, kValuesAtOnce / decoder.config().vocab_size);
  std::vector<float> values;
  for (int64_t first = 0; first < total; first += chunk) {
    std::vector<int32_t> rows(static_cast<size_t>(std::min(chunk, total - first)));
    std::iota(rows.begin(), rows.end(), static_cast<int32_t>(first));
    const Tensor selected = upload(c, std::span<const int32_t>(rows));
    const ops::Logits out =
        ops::head_logits(c, decoder.head_weight(), ops::gather_rows(c, hidden, selected));
    const std::vector<double> read_back = read(c, out.logits, 0);
    values.assign(read_back.begin(), read_back.end());
    fn(first, values);
  }
}

}  // namespace hone::app
