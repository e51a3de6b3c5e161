#include "rollout/generate.h"

#include "exec/memory.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>

#include "core/rng.h"
#include "rollout/key_tables.h"

namespace hone::rollout {
namespace {

// A sequence being decoded.
struct Running {
  size_t order = 0;  // of its completion: prompt * num_samples + sample
  const Prompt* prompt = nullptr;
  int sample = 0;
  int64_t done = 0;  // tokens whose keys are in the cache, or come there with those of a sequence
                     // before this one
  std::vector<int32_t> tokens;  // drawn
  std::vector<float> logprobs;
  KeyTable keys;

  int64_t prompt_len() const { return static_cast<int64_t>(prompt->tokens.size()); }
  int64_t size() const { return prompt_len() + static_cast<int64_t>(tokens.size()); }
  int32_t token(int64_t i) const {
    return i < prompt_len() ? prompt->tokens[static_cast<size_t>(i)]
                            : tokens[static_cast<size_t>(i - prompt_len())];
  }
};

class Engine {
 public:
  Engine(const Context& ctx, const models::Decoder& decoder, models::KvCache& cache,
         KeyTables& tables, std::span<const Prompt> prompts, const SamplingOptions& options,
         const std::function<void(const Completion&)>& done,
         const std::function<void(int32_t)>& token)
      : ctx_(inference(ctx)),
        decoder_(decoder),
        cache_(cache),
        tables_(tables),
        prompts_(prompts),
        o_(options),
        done_(done),
        token_(token) {}

  void run(size_t lanes, size_t total) {
    size_t next = 0;
    while (next < total || !running_.empty()) {
      for (; running_.size() < lanes && next < total; ++next) start(next);
      step();
    }
  }

 private:
  void start(size_t order) {
    std::vector<const KeyTable*> tables_now;
    for (const Running& r : running_) tables_now.push_back(&r.keys);
    Running r;
    r.order = order;
    r.prompt = &prompts_[order / static_cast<size_t>(o_.num_samples)];
    r.sample = static_cast<int>(order % static_cast<size_t>(o_.num_samples));
    r.done = tables_.begin(r.keys, r.prompt->tokens, tables_now);
    running_.push_back(std::move(r));
  }

  // One pass: up to prefill_tokens of unread tokens, oldest sequence first; then one draw for each
  // sequence that is read to its end.
  void step() {
    Stream stream;
    std::vector<std::span<const models::CacheBlock>> blocks;
    std::vector<Running*> drawn;
    std::vector<int32_t> rows;
    int64_t budget = std::max<int64_t>(o_.prefill_tokens, static_cast<int64_t>(running_.size()));
    for (Running& r : running_) {
      const int64_t n = std::min(budget, r.size() - r.done);
      if (n <= 0) continue;
      budget -= n;
      tables_.grow(r.keys, r.done + n);
      Segment s;
      s.begin = static_cast<int32_t>(stream.tokens.size());
      s.len = static_cast<int32_t>(n);
      s.pos0 = static_cast<int32_t>(r.done);
      s.key = r.prompt->key;
      stream.segments.push_back(s);
      blocks.emplace_back(r.keys.blocks);
      for (int64_t i = r.done; i < r.done + n; ++i) {
        stream.tokens.push_back(r.token(i));
        stream.positions.push_back(static_cast<int32_t>(i));
      }
      r.done += n;
      if (r.done == r.size()) {
        drawn.push_back(&r);
        rows.push_back(static_cast<int32_t>(stream.tokens.size()) - 1);
      }
    }
    if (drawn.empty()) rows = {stream.segments.back().begin};  // keys and values alone matter
    const models::StreamInputs inputs =
        models::make_cached_inputs(ctx_, decoder_.config(), stream, blocks, cache_, rows);
    const Tensor hidden = decoder_.forward(ctx_, inputs);
    if (drawn.empty()) return;
    const ops::Logits out = ops::head_logits(ctx_, decoder_.head_weight(), hidden);
    draw_all(drawn, out);
    finish();
  }

  // Row i of out decides the next token of drawn[i].
  void draw_all(const std::vector<Running*>& drawn, const ops::Logits& out) {
    const auto vocab = static_cast<size_t>(out.logits.dim(1));
    std::vector<int32_t> tokens(drawn.size());
    std::vector<float> logprobs(drawn.size());
    if (!ctx_.device->meta) {
      const auto all = readable_as<float>(*ctx_.device, out.logits.view());
      const auto lse = readable_as<double>(*ctx_.device, out.lse.view());
      ctx_.device->pool->run(static_cast<int64_t>(drawn.size()), [&](int64_t row, int) {
        const auto i = static_cast<size_t>(row);
        const Running& r = *drawn[i];
        const std::span<const float> logits = all.subspan(i * vocab, vocab);
        const auto w =
            random_words(o_.seed, Purpose::sample, r.prompt->key,
                         (static_cast<uint64_t>(r.sample) << 32) | static_cast<uint32_t>(r.size()));
        tokens[i] = draw(logits, o_, uniform_double(w[0], w[1]));
        logprobs[i] = static_cast<float>(
            static_cast<double>(logits[static_cast<size_t>(tokens[i])]) - lse[i]);
      });
    }
    for (size_t i = 0; i < drawn.size(); ++i) {
      drawn[i]->tokens.push_back(tokens[i]);
      drawn[i]->logprobs.push_back(logprobs[i]);
      if (token_ && prompts_.size() == 1 && o_.num_samples == 1) token_(tokens[i]);
    }
  }

  bool stops(int32_t token) const {
    return !o_.ignore_eos &&
           std::find(o_.stop_ids.begin(), o_.stop_ids.end(), token) != o_.stop_ids.end();
  }

  // Takes ended sequences out, and hands over completions in order.
  void finish() {
    for (auto it = running_.begin(); it != running_.end();) {
      const bool stopped = !it->tokens.empty() && stops(it->tokens.back());
      if (!stopped && static_cast<int64_t>(it->tokens.size()) < o_.max_new_tokens) {
        ++it;
        continue;
      }
      std::vector<int32_t> read(static_cast<size_t>(it->done));
      for (int64_t i = 0; i < it->done; ++i) read[static_cast<size_t>(i)] = it->token(i);
      tables_.end(std::move(it->keys), std::move(read));
      finished_[it->order] = {.prompt = static_cast<size_t>(it->prompt - prompts_.data()),
                              .sample = it->sample,
                              .tokens = std::move(it->tokens),
                              .logprobs = std::move(it->logprobs),
                              .finish_reason = stopped ? "stop" : "length"};
      it = running_.erase(it);
    }
    while (!finished_.empty() && finished_.begin()->first == handed_over_) {
      done_(finished_.begin()->second);
      finished_.erase(finished_.begin());
      ++handed_over_;
    }
  }

  Context ctx_;
  const models::Decoder& decoder_;
  models::KvCache& cache_;
  KeyTables& tables_;
  std::span<const Prompt> prompts_;
  SamplingOptions o_;
  const std::function<void(const Completion&)>& done_;
  const std::function<void(int32_t)>& token_;
  std::deque<Running> running_;
  std::map<size_t, Completion> finished_;
  size_t handed_over_ = 0;
};

}  // namespace

struct Generator::Keys {
  models::KvCache cache;
  std::optional<KeyTables> tables;
  uint64_t version = 0;  // of the weights they were computed from
};

Generator::Generator(const Context& ctx, const models::Decoder& decoder)
    : ctx_(ctx), decoder_(decoder), keys_(std::make_unique<Keys>()) {}
Generator::~Generator() = default;

void Generator::run(std::span<const Prompt> prompts, const SamplingOptions& options,
                    const std::function<void(const Completion&)>& done,
                    const std::function<void(int32_t)>& token) {
  check_sampling(options);
  HONE_CHECK(ctx_.dtype != DType::f64, "generation is in bf16 or fp32");
  const size_t total = prompts.size() * static_cast<size_t>(options.num_samples);
  if (total == 0) return;
  int64_t longest = 0;
  for (const Prompt& p : prompts) {
    HONE_CHECK(!p.tokens.empty(), "a prompt has at least one token");
    longest = std::max(longest, static_cast<int64_t>(p.tokens.size()));
  }
  // Room for batch_size sequences of the greatest length, so that a sequence once started always
  // finishes. A cache that has become too small is twice as large the next time.
  const size_t lanes = std::min<size_t>(static_cast<size_t>(options.batch_size), total);
  const uint64_t version = ctx_.params->version();
  if (keys_->version != version && keys_->tables) keys_->tables.emplace(keys_->tables->pages());
  keys_->version = version;
  const bool before = keys_->tables.has_value();
  const int64_t needed = KeyTables::pages_needed(
      static_cast<int64_t>(lanes), longest + options.max_new_tokens, total > 1 || before);
  if (!before || keys_->tables->pages() < needed) {
    const int64_t pages = before ? std::max(needed, 2 * keys_->tables->pages()) : needed;
    keys_->cache = {};
    keys_->cache = decoder_.make_cache(ctx_, pages);
    keys_->tables.emplace(pages);
  }
  try {
    Engine(ctx_, decoder_, keys_->cache, *keys_->tables, prompts, options, done, token)
        .run(lanes, total);
    HONE_CHECK(ctx_.params->version() == version, "weights change while they generate");
  } catch (...) {
    *keys_ = {};  // what was running holds pages
    throw;
  }
}

void generate(Context& ctx, const models::Decoder& decoder, std::span<const Prompt> prompts,
              const SamplingOptions& options, const std::function<void(const Completion&)>& done,
              const std::function<void(int32_t)>& token) {
  Generator(ctx, decoder).run(prompts, options, done, token);
}

}  // namespace hone::rollout
