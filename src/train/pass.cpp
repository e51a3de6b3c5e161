#include "train/pass.h"

#include "backend/desc/elementwise.h"
#include "exec/memory.h"

#include <deque>
#include <numeric>
#include <optional>
#include <unordered_map>

namespace hone::train {
namespace {

// Labelled tokens of micro-batches, one after the other, as an objective sees them.
class Labelled {
 public:
  explicit Labelled(const PassInput& input) : input_(input) {}

  void add(const data::MicroBatch& mb) {
    const auto base = static_cast<int64_t>(tokens_);
    for (size_t i = 0; i < mb.row_segments.size(); ++i) {
      const int64_t sample = mb.samples[static_cast<size_t>(mb.row_segments[i])];
      const auto at = base + static_cast<int64_t>(i);
      if (i == 0 || mb.row_segments[i] != mb.row_segments[i - 1])
        ranges_.push_back({at, at, sample});
      ranges_.back().end = at + 1;
      if (!input_.columns.empty())
        add_columns(input_.columns[static_cast<size_t>(sample)],
                    static_cast<size_t>(mb.row_positions[i]));
    }
    tokens_ += mb.row_segments.size();
  }
  void add_logprobs(const std::vector<double>& logprob) {
    logprob_.insert(logprob_.end(), logprob.begin(), logprob.end());
  }

  loss::ObjectiveInput input() const {
    for (const std::vector<double>* column : {&reference_, &old_, &advantage_, &value_})
      HONE_CHECK(column->empty() || column->size() == tokens_);
    return {.samples = ranges_,
            .logprob = logprob_,
            .reference = reference_,
            .old = old_,
            .advantage = advantage_,
            .value = value_,
            .step_tokens = input_.step_tokens};
  }

 private:
  void add_columns(const SampleColumns& c, size_t position) {
    if (!c.reference.empty()) reference_.push_back(c.reference.at(position));
    if (!c.old.empty()) old_.push_back(c.old.at(position));
    if (!c.advantage.empty()) advantage_.push_back(c.advantage.at(position));
    if (!c.value.empty()) value_.push_back(c.value.at(position));
  }

  const PassInput& input_;
  size_t tokens_ = 0;
  std::vector<loss::SampleRange> ranges_;
  std::vector<double> logprob_, reference_, old_, advantage_, value_;
};

void add_metrics(StepResult& total, const loss::ObjectiveResult& part) {
  total.loss += part.loss;
  for (const auto& [name, value] : part.metrics) {
    bool found = false;
    for (auto& [known, sum] : total.metrics) {
      if (known == name) {
        sum += value;
        found = true;
      }
    }
    if (!found) total.metrics.emplace_back(name, value);
  }
}

// A context for passes of training: dropout acts, with or without a tape.
Context training_context(const Context& ctx, Tape* tape) {
  Context c = with_tape(ctx, tape);
  c.training = true;
  return c;
}

Tensor upload_adjoint(Context& ctx, std::span<const double> dlogprob) {
  const std::vector<float> rounded(dlogprob.begin(), dlogprob.end());
  return upload(ctx, std::span<const float>(rounded));
}

// A micro-batch's forward pass: the log-probs of its targets. known: their adjoint, if it is known
// before. Tape nodes point at the inputs and the context, so both live until backward has run.
class Forward {
 public:
  Forward(Context& ctx, const models::Decoder& decoder, const data::MicroBatch& mb,
          const std::optional<std::vector<double>>& known = std::nullopt)
      : ctx_(ctx), inputs_(models::make_inputs(ctx, decoder.config(), mb.stream, mb.rows)) {
    const Tensor hidden = decoder.forward(ctx, inputs_);
    const Tensor targets = upload(ctx, std::span<const int32_t>(mb.targets));
    ops::HeadOptions head;
    if (known) head.dlogprob = upload_adjoint(ctx, *known);
    out_ = ops::token_logprobs(ctx, decoder.head_weight(), hidden, targets, head);
  }
  Forward(const Forward&) = delete;
  Forward& operator=(const Forward&) = delete;

  std::vector<double> logprobs() const { return read(ctx_, out_.logprob, -1.0); }
  // With an adjoint that was known before.
  void backward() { ctx_.tape->backward(); }
  void backward(std::span<const double> dlogprob) {
    if (out_.logprob.requires_grad())
      ctx_.tape->assign(out_.logprob.slot(), upload_adjoint(ctx_, dlogprob));
    ctx_.tape->backward();
  }

 private:
  Context& ctx_;
  const models::StreamInputs inputs_;
  ops::TokenLogprobs out_;
};

// A micro-batch on its own: token and unit coupling.
loss::ObjectiveResult train_micro_batch(const Context& ctx, const models::Decoder& decoder,
                                        const loss::Objective& objective, const PassInput& input,
                                        const data::MicroBatch& mb) {
  Tape tape;
  Context c = training_context(ctx, &tape);
  Labelled labelled(input);
  labelled.add(mb);
  std::optional<std::vector<double>> known;
  if (objective.coupling() == loss::Coupling::token)
    known = objective.known_adjoint(labelled.input(), static_cast<int64_t>(mb.targets.size()));
  Forward forward(c, decoder, mb, known);
  labelled.add_logprobs(forward.logprobs());
  loss::ObjectiveResult result = objective.evaluate(labelled.input());
  if (known) {
    forward.backward();
  } else {
    forward.backward(result.dlogprob);
  }
  return result;
}

std::span<const double> part(const loss::ObjectiveResult& result, const data::MicroBatch& mb,
                             size_t* begin) {
  const auto own = std::span(result.dlogprob).subspan(*begin, mb.targets.size());
  *begin += mb.targets.size();
  return own;
}

loss::ObjectiveResult train_again(const Context& ctx, const models::Decoder& decoder,
                                  const loss::Objective& objective, const PassInput& input) {
  Labelled labelled(input);
  for (const data::MicroBatch& mb : input.micro_batches) {
    Context c = training_context(ctx, nullptr);
    labelled.add(mb);
    labelled.add_logprobs(Forward(c, decoder, mb).logprobs());
  }
  loss::ObjectiveResult result = objective.evaluate(labelled.input());
  size_t begin = 0;
  for (const data::MicroBatch& mb : input.micro_batches) {
    Tape tape;
    Context c = training_context(ctx, &tape);
    const auto own = part(result, mb, &begin);
    Forward(c, decoder, mb, std::vector<double>(own.begin(), own.end())).backward();
  }
  return result;
}

loss::ObjectiveResult train_kept(const Context& ctx, const models::Decoder& decoder,
                                 const loss::Objective& objective, const PassInput& input) {
  struct Kept {
    Tape tape;
    Context ctx;
    std::optional<Forward> forward;
  };
  std::deque<Kept> kept;
  Labelled labelled(input);
  for (const data::MicroBatch& mb : input.micro_batches) {
    Kept& k = kept.emplace_back();
    k.ctx = training_context(ctx, &k.tape);
    k.forward.emplace(k.ctx, decoder, mb);
    labelled.add(mb);
    labelled.add_logprobs(k.forward->logprobs());
  }
  loss::ObjectiveResult result = objective.evaluate(labelled.input());
  size_t begin = 0;
  for (const data::MicroBatch& mb : input.micro_batches) {
    kept.front().forward->backward(part(result, mb, &begin));
    kept.pop_front();
  }
  return result;
}

void check_units(const PassInput& input) {
  std::unordered_map<int64_t, const data::MicroBatch*> place;
  for (const data::MicroBatch& mb : input.micro_batches) {
    for (const int64_t sample : mb.samples) {
      HONE_CHECK(sample < static_cast<int64_t>(input.units.size()));
      HONE_CHECK(place.try_emplace(input.units[static_cast<size_t>(sample)], &mb).first->second ==
                 &mb);
    }
  }
}

}  // namespace

StepResult forward_backward(Context& ctx, const models::Decoder& decoder,
                            const loss::Objective& objective, const PassInput& input) {
  if (objective.coupling() == loss::Coupling::unit) check_units(input);
  StepResult total;
  if (objective.coupling() == loss::Coupling::step) {
    add_metrics(total, input.passes == StepPasses::keep
                           ? train_kept(ctx, decoder, objective, input)
                           : train_again(ctx, decoder, objective, input));
    return total;
  }
  for (const data::MicroBatch& mb : input.micro_batches)
    add_metrics(total, train_micro_batch(ctx, decoder, objective, input, mb));
  return total;
}

StepResult forward_only(Context& ctx, const models::Decoder& decoder,
                        const loss::Objective& objective, const PassInput& input) {
  if (objective.coupling() == loss::Coupling::unit) check_units(input);
  StepResult total;
  Labelled whole(input);
  const bool together = objective.coupling() == loss::Coupling::step;
  for (const data::MicroBatch& mb : input.micro_batches) {
    Labelled alone(input);
    Labelled& labelled = together ? whole : alone;
    labelled.add(mb);
    labelled.add_logprobs(score(ctx, decoder, mb));
    if (!together) add_metrics(total, objective.evaluate(alone.input()));
  }
  if (together) add_metrics(total, objective.evaluate(whole.input()));
  return total;
}

std::vector<int64_t> each_a_unit(size_t samples) {
  std::vector<int64_t> units(samples);
  std::iota(units.begin(), units.end(), int64_t{0});
  return units;
}

std::vector<double> score(Context& ctx, const models::Decoder& decoder,
                          const data::MicroBatch& mb) {
  Context c = inference(ctx);
  return Forward(c, decoder, mb).logprobs();
}

void zero_gradients(Context& ctx) {
  std::vector<Tensor> grads;
  for (const ParamId id : ctx.params->trainable()) grads.push_back(ctx.params->grad(id));
  zero(ctx, grads, "zero grad");
}

}  // namespace hone::train
