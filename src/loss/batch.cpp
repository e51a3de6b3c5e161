#include "loss/batch.h"

#include <cmath>
#include <map>

#include "core/error.h"

namespace hone::loss {

Pairs pairs_of(const Batch& batch) {
  if (batch.pair.size() != batch.samples || batch.chosen.size() != batch.samples)
    user_error("loss", "every sample needs \"pair\" and \"chosen\"");
  struct Sides {
    std::optional<std::size_t> chosen, rejected;
  };
  std::map<int64_t, Sides> by_id;
  std::vector<int64_t> order;
  for (std::size_t i = 0; i < batch.samples; ++i) {
    auto [it, fresh] = by_id.try_emplace(batch.pair[i]);
    if (fresh) order.push_back(batch.pair[i]);
    std::optional<std::size_t>& side = batch.chosen[i] ? it->second.chosen : it->second.rejected;
    if (side)
      user_error("loss", "pair {} has two samples with \"chosen\": {} (samples {} and {})",
                 batch.pair[i], batch.chosen[i] ? "true" : "false", *side + 1, i + 1);
    side = i;
  }
  Pairs pairs;
  for (const int64_t id : order) {
    const Sides& s = by_id[id];
    if (!s.chosen || !s.rejected)
      user_error("loss", "pair {} has no sample with \"chosen\": {}", id,
                 s.chosen ? "false" : "true");
    pairs.chosen.push_back(*s.chosen);
    pairs.rejected.push_back(*s.rejected);
  }
  return pairs;
}

void need(const Batch& batch, const Column& column, const char* field) {
  if (!column.present()) user_error("loss", "the samples have no \"{}\", which this needs", field);
  for (std::size_t i = 0; i < batch.samples; ++i) {
    if (column.segments.length(i) != batch.tokens().length(i))
      user_error("loss", "sample {}: \"{}\" has {} values, \"logprob\" has {}", i + 1, field,
                 column.segments.length(i), batch.tokens().length(i));
  }
}

namespace {

Variables variables_of(Tape& tape, const Batch& batch) {
  Variables v;
  if (batch.logprob.present()) v.logprob = tape.variable(batch.logprob.values);
  if (batch.prompt_logprob.present()) v.prompt_logprob = tape.variable(batch.prompt_logprob.values);
  if (batch.value.present()) v.value = tape.variable(batch.value.values);
  if (!batch.score.empty()) v.score = tape.variable(batch.score);
  return v;
}

std::vector<double> grad_of(const Vec& v) { return v.defined() ? v.grad() : std::vector<double>(); }

}  // namespace

Evaluation evaluate(const Loss& loss, const Batch& batch) {
  Tape tape;
  const Variables v = variables_of(tape, batch);
  Evaluation e;
  const Vec y = loss(tape, batch, v, e.notes);
  e.loss = y.scalar();
  tape.backward(y);
  e.dlogprob = grad_of(v.logprob);
  e.dprompt_logprob = grad_of(v.prompt_logprob);
  e.dvalue = grad_of(v.value);
  e.dscore = grad_of(v.score);
  return e;
}

AdjointCheck check_adjoint(const Loss& loss, const Batch& batch, const Evaluation& at) {
  std::vector<std::vector<double>> held;
  {
    Tape tape;
    Notes unused;
    loss(tape, batch, variables_of(tape, batch), unused);
    held = tape.detached_values();
  }
  const auto value = [&](const Batch& b) {
    Tape tape;
    tape.freeze(held);
    Notes unused;
    return loss(tape, b, variables_of(tape, b), unused).scalar();
  };
  AdjointCheck check;
  Batch moved = batch;
  const auto compare = [&](std::vector<double>& x, const std::vector<double>& adjoint,
                           const auto& name) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double x0 = x[i], h = 1e-5 * std::max(1.0, std::fabs(x0));
      x[i] = x0 + h;
      const double up = value(moved);
      x[i] = x0 - h;
      const double down = value(moved);
      x[i] = x0;
      // The derivative lies between the one-sided differences, which are about h apart where the
      // loss is smooth; at a kink every value between them is one.
      const double right = (up - at.loss) / h, left = (at.loss - down) / h;
      const double gap =
          std::max({0.0, std::min(left, right) - adjoint[i], adjoint[i] - std::max(left, right)}) /
          (1 + std::fabs(adjoint[i]));
      if (!(gap <= check.largest_gap)) {
        check.largest_gap = gap;
        check.where = name(i);
      }
    }
  };
  const auto in_sample = [&](const char* field, const Segments& s) {
    return [field, &s](std::size_t t) {
      std::size_t i = 0;
      while (s.end(i) <= t) ++i;
      return fmt::format("{} {} of sample {}", field, t - s.begin(i) + 1, i + 1);
    };
  };
  compare(moved.logprob.values, at.dlogprob, in_sample("logprob", batch.logprob.segments));
  compare(moved.prompt_logprob.values, at.dprompt_logprob,
          in_sample("prompt_logprob", batch.prompt_logprob.segments));
  compare(moved.value.values, at.dvalue, in_sample("value", batch.value.segments));
  compare(moved.score, at.dscore,
          [](std::size_t i) { return fmt::format("score of sample {}", i + 1); });
  check.passed = check.largest_gap <= 1e-5;
  return check;
}

}  // namespace hone::loss
