#include "app/tuning_flags.h"

#include "app/units.h"
#include "core/error.h"
#include "core/json_fields.h"
#include "io/files.h"
#include "io/peft.h"
#include "io/peft_targets.h"
#include "load/model.h"
#include "models/decoder.h"
#include "train/tuning.h"

namespace hone::app {
namespace {

// The original's lora_config.json.
void read_lora_config(const Command& c, const std::string& lora_config, train::TrainerOptions& o) {
  const std::string tag = "lora_config";
  const nlohmann::json json =
      parse_json_object(io::read_text_file(lora_config, 1 << 20), tag, lora_config);
  JsonFields fields(json, tag, lora_config);
  const auto same = [&](const char* flag, bool equal, const std::string& value) {
    if (c.given(flag) && !equal)
      user_error("flags", "{} differs from {}, which says {}; leave one of them out", flag,
                 lora_config, value);
  };
  const int64_t rank = fields.integer("r", 0, 4096).value_or(0);
  same("--lora_rank", rank == o.lora_rank, std::to_string(rank));
  o.lora_rank = rank;
  const double alpha = fields.number("lora_alpha", 0, 1e9).value_or(32);
  same("--lora_alpha", alpha == o.lora_alpha, fmt::format("{:g}", alpha));
  o.lora_alpha = alpha;
  double dropout = fields.number("linear_lora_dropout", 0, 1).value_or(0.1);
  for (const char* name : {"lora_dropout", "dropout"})
    if (const auto v = fields.number(name, 0, 1)) dropout = *v;
  same("--lora_dropout", dropout == o.lora_dropout, fmt::format("{:g}", dropout));
  o.lora_dropout = dropout;
  if (fields.number("embedding_lora_dropout", 0, 1).value_or(0) != 0)
    user_error(tag, "{}: embedding_lora_dropout: embeddings get no adapter here; set it to 0",
               lora_config);
  const std::string init = fields.text("lora_initialization_method").value_or("kaiming_uniform");
  if (init != "kaiming_uniform")
    user_error(tag,
               "{}: lora_initialization_method \"{}\" is not here; use \"kaiming_uniform\", which "
               "leaves the base model's weights as they are",
               lora_config, init);
  const std::string bias = fields.text("lora_train_bias").value_or("none");
  if (bias != "none")
    user_error(tag, "{}: lora_train_bias \"{}\" is not here; use \"none\"", lora_config, bias);
  if (const auto targets = fields.texts("target_modules")) {
    same("--lora_target", *targets == o.lora_target, fmt::format("{}", fmt::join(*targets, ",")));
    o.lora_target = *targets;
  }
  for (const std::string& name : fields.unknown())
    user_error(tag,
               "{}: \"{}\" is not known; use r, lora_alpha, linear_lora_dropout, target_modules",
               lora_config, name);
}

// LoRA's flags mean nothing to full tuning, which is not what their user meant. A rank of 0 in so
// many words may stand beside defaults: run.json and --config_file write every flag.
void refuse_lora_flags(const Command& c, const std::string& lora_config,
                       const train::TrainerOptions& o) {
  if (!lora_config.empty())
    user_error("flags",
               "--lora_config {}: it gives no rank (r), which means full tuning; give it an r such "
               "as 8, or leave --lora_config out",
               lora_config);
  const train::TrainerOptions d;
  const struct {
    const char* name;
    bool is_default;
  } flags[] = {{"--lora_alpha", o.lora_alpha == d.lora_alpha},
               {"--lora_dropout", o.lora_dropout == d.lora_dropout},
               {"--use_rslora", o.use_rslora == d.use_rslora},
               {"--lora_target", o.lora_target == d.lora_target},
               {"--lora_layers", o.lora_layers == d.lora_layers}};
  for (const auto& flag : flags) {
    if (!c.given(flag.name) || (c.given("--lora_rank") && flag.is_default)) continue;
    user_error(
        "flags",
        "{} without a rank: --lora_rank is 0, which tunes the whole model; add --lora_rank 8 "
        "for a LoRA adapter, or leave {} out",
        flag.name, flag.name);
  }
}

std::vector<std::string> target_list(const io::AdapterConfig& config) {
  if (!config.target_expression.empty()) return {config.target_expression};
  std::vector<std::string> names = config.target_modules;
  names.insert(names.end(), config.target_parameters.begin(), config.target_parameters.end());
  return names;
}

// The layers of the model that the config selects, whatever its form.
std::vector<std::string> targets_in(const std::string& pretrained,
                                    const io::AdapterConfig& config) {
  ParamStore store;
  models::Decoder decoder(models::load_model_config(pretrained), store, Format::f32);
  const io::AdapterRules rules(config);
  std::vector<std::string> paths;
  for (const nn::Linear* l : decoder.linears())
    if (load::is_target(rules, *l)) paths.push_back(l->path);
  return paths;
}

// An existing adapter says how it is made; flags may repeat it, in other words, too.
void follow_adapter(const Command& c, const std::string& lora_config, train::TrainerOptions& o) {
  if (!lora_config.empty())
    user_error("flags",
               "--adapter and --lora_config contradict each other: the adapter in {} says "
               "its rank, alpha and targets itself",
               o.adapter);
  const io::AdapterConfig config = io::read_adapter_config(o.adapter);
  const auto same = [&](const char* flag, bool equal, const std::string& value) {
    if (c.given(flag) && !equal)
      user_error("flags", "{} differs from the adapter in {}, which has {}; leave the flag out",
                 flag, o.adapter, value);
  };
  same("--lora_rank", o.lora_rank == config.r, std::to_string(config.r));
  same("--lora_alpha", o.lora_alpha == config.alpha, fmt::format("{:g}", config.alpha));
  same("--lora_dropout", o.lora_dropout == config.dropout, fmt::format("{:g}", config.dropout));
  same("--use_rslora", o.use_rslora == config.use_rslora, config.use_rslora ? "it on" : "it off");
  if (c.given("--lora_target") || c.given("--lora_layers")) {
    const bool equal =
        targets_in(o.pretrained, train::adapter_config(o)) == targets_in(o.pretrained, config);
    same("--lora_target", equal, fmt::format("{}", fmt::join(target_list(config), ",")));
    same("--lora_layers", equal,
         config.layers_to_transform.empty()
             ? "all"
             : fmt::format("{}", fmt::join(config.layers_to_transform, ",")));
  }
  o.lora_rank = config.r;
  o.lora_alpha = config.alpha;
  o.lora_dropout = config.dropout;
  o.use_rslora = config.use_rslora;
  o.lora_target = target_list(config);
  o.lora_layers = config.layers_to_transform;
}

}  // namespace

void settle_tuning(const Command& c, const std::string& lora_config, train::TrainerOptions& o) {
  // A regular expression may hold commas.
  const bool expression = o.lora_target.size() == 1 &&
                          o.lora_target[0].find_first_of("*()[]|\\+^$") != std::string::npos;
  if (!expression) o.lora_target = comma_list(o.lora_target);
  if (o.lora_target.empty())
    user_error("flags", "--lora_target names nothing; use all-linear or names such as q_proj");
  o.freeze = comma_list(o.freeze);
  if (!lora_config.empty()) read_lora_config(c, lora_config, o);
  if (!o.adapter.empty()) {
    follow_adapter(c, lora_config, o);
  } else if (o.lora_rank == 0) {
    refuse_lora_flags(c, lora_config, o);
  }
}

}  // namespace hone::app
