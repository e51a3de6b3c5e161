#include "train/checkpointing.h"

#include <deque>
#include <set>

#include "exec/memory.h"
#include "load/save.h"

namespace hone::train {
namespace {

// The state's tensors: optimizer state, and values that no master stands for.
template <class F>
void for_each_state(load::Model& model, const optim::AdamW& adamw, F&& fn) {
  std::set<ParamId> mastered;
  for (const optim::OptimizerState& s : adamw.states()) {
    if (s.kind == "master") mastered.insert(s.param);
    fn(model.params().spec(s.param), s.kind, s.tensor);
  }
  for (const ParamId id : model.params().trainable()) {
    if (!mastered.contains(id))
      fn(model.params().spec(id), std::string_view("param"), model.params().value(id));
  }
}

}  // namespace

std::filesystem::path save_checkpoint(const std::filesystem::path& checkpoints, int64_t step,
                                      load::Model& model, const optim::AdamW& adamw,
                                      const nlohmann::json& state,
                                      const io::CheckpointOptions& options) {
  const bool adapter = model.adapter_config().has_value();
  const std::string weights = adapter ? "adapter_model.safetensors" : "model.safetensors";
  std::vector<io::StateTensor> tensors;
  for_each_state(model, adamw, [&](const ParamSpec& spec, std::string_view kind, const Tensor& t) {
    const bool is_value = kind == "param" || kind == "master";
    tensors.push_back({.parameter = spec.name,
                       .kind = std::string(kind),
                       .type = io::to_file_type(t.dtype()),
                       .shape = spec.shape,
                       .data = readable(model.device(), t.view()),
                       .file = is_value ? weights : ""});
  });
  const ParamStore& params = model.params();
  std::deque<load::SavedValue> frozen;
  for (ParamId id = 0; id < params.count() && !adapter; ++id) {
    const ParamSpec& spec = params.spec(id);
    if (spec.trainable) continue;
    tensors.push_back({.parameter = spec.name,
                       .kind = "",
                       .type = load::SavedValue::type(model, id),
                       .shape = spec.shape,
                       .data = frozen.emplace_back(model, id).bytes(),
                       .file = weights});
  }
  return io::write_checkpoint(checkpoints, step, tensors, state,
                              {.save_total_limit = options.save_total_limit,
                               .keep = options.keep,
                               .write_more = [&](const std::filesystem::path& folder) {
                                 load::save_files_beside_weights(folder, model);
                                 if (options.write_more) options.write_more(folder);
                               }});
}

size_t checkpoint_bytes(load::Model& model, const optim::AdamW& adamw) {
  size_t n = 0;
  for_each_state(model, adamw,
                 [&](const ParamSpec&, std::string_view, const Tensor& t) { n += t.bytes(); });
  for (ParamId id = 0; id < model.params().count() && !model.adapter_config(); ++id) {
    const ParamSpec& spec = model.params().spec(id);
    if (!spec.trainable)
      n +=
          static_cast<size_t>(spec.numel()) * io::file_type_size(load::SavedValue::type(model, id));
  }
  return n;
}

void restore_checkpoint(const io::TrainingCheckpoint& checkpoint, Context& ctx, load::Model& model,
                        optim::AdamW& adamw) {
  size_t expected = 0;
  for_each_state(model, adamw, [&](const ParamSpec& spec, std::string_view kind, const Tensor& t) {
    checkpoint.read(spec.name, kind, io::to_file_type(t.dtype()), spec.shape,
                    writable(*ctx.device, t.view()));
    ++expected;
  });
  if (checkpoint.tensors().size() != expected) {
    user_error("resume",
               "{} holds {} tensors but this run trains {}; it was made with other tuning options",
               checkpoint.folder().string(), checkpoint.tensors().size(), expected);
  }
  adamw.restored(ctx);
}

}  // namespace hone::train
