#include "train/supervised_step.h"

namespace hone::train {
namespace {

std::vector<loss::SampleRange> sample_ranges(const data::MicroBatch& mb) {
  std::vector<loss::SampleRange> ranges;
  for (size_t i = 0; i < mb.row_segments.size(); ++i) {
    if (i == 0 || mb.row_segments[i] != mb.row_segments[i - 1]) {
      const auto segment = static_cast<size_t>(mb.row_segments[i]);
      ranges.push_back({static_cast<int64_t>(i), static_cast<int64_t>(i), mb.samples[segment]});
    }
    ranges.back().end = static_cast<int64_t>(i) + 1;
  }
  return ranges;
}

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

// One micro-batch; with a tape in ctx also backward.
loss::ObjectiveResult run_micro_batch(Context& ctx, const models::Decoder& decoder,
                                      const loss::Objective& objective, const data::MicroBatch& mb,
                                      int64_t step_tokens) {
  const models::StreamInputs inputs =
      models::make_inputs(ctx, decoder.config(), mb.stream, mb.rows);
  Tensor hidden = decoder.forward(ctx, inputs);
  const Tensor targets = upload(ctx, std::span<const int32_t>(mb.targets));
  const std::vector<loss::SampleRange> ranges = sample_ranges(mb);
  loss::ObjectiveInput input{.samples = ranges, .logprob = {}, .step_tokens = step_tokens};
  ops::HeadOptions head;
  if (ctx.tape != nullptr) {
    if (const auto known =
            objective.known_adjoint(input, static_cast<int64_t>(mb.targets.size()))) {
      head.dlogprob = upload(ctx, std::span<const float>(*known));
    }
  }
  const ops::TokenLogprobs out =
      ops::token_logprobs(ctx, decoder.head_weight(), hidden, targets, head);
  hidden = Tensor();  // the tape keeps what backward needs
  const std::vector<double> logprob = read(ctx, out.logprob, -1.0);
  input.logprob = logprob;
  loss::ObjectiveResult result = objective.evaluate(input);
  if (ctx.tape != nullptr) {
    if (!head.dlogprob.defined() && out.logprob.requires_grad()) {
      ctx.tape->assign(out.logprob.slot(), upload(ctx, std::span<const float>(result.dlogprob)));
    }
    head = {};
    ctx.tape->backward();
  }
  return result;
}

}  // namespace

StepResult forward_backward(Context& ctx, const models::Decoder& decoder,
                            const loss::Objective& objective,
                            std::span<const data::MicroBatch> micro_batches, int64_t step_tokens) {
  HONE_CHECK(objective.coupling() == loss::Coupling::token);
  StepResult total;
  for (const data::MicroBatch& mb : micro_batches) {
    Tape tape;
    Context c = with_tape(ctx, &tape);
    c.training = true;
    add_metrics(total, run_micro_batch(c, decoder, objective, mb, step_tokens));
  }
  return total;
}

StepResult forward_only(Context& ctx, const models::Decoder& decoder,
                        const loss::Objective& objective,
                        std::span<const data::MicroBatch> micro_batches, int64_t step_tokens) {
  StepResult total;
  for (const data::MicroBatch& mb : micro_batches) {
    Context c = inference(ctx);
    add_metrics(total, run_micro_batch(c, decoder, objective, mb, step_tokens));
  }
  return total;
}

std::vector<double> score(Context& ctx, const models::Decoder& decoder,
                          const data::MicroBatch& mb) {
  Context c = inference(ctx);
  const models::StreamInputs inputs = models::make_inputs(c, decoder.config(), mb.stream, mb.rows);
  const Tensor hidden = decoder.forward(c, inputs);
  const Tensor targets = upload(c, std::span<const int32_t>(mb.targets));
  return read(c, ops::token_logprobs(c, decoder.head_weight(), hidden, targets, {}).logprob, -1.0);
}

void zero_gradients(Context& ctx) {
  for (const ParamId id : ctx.params->trainable()) {
    launch(ctx, ZeroDesc{.x = ctx.params->grad(id).view()}, "zero grad");
  }
}

}  // namespace hone::train
