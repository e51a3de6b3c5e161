// Which modules an adapter changes, and with what rank and scale: PEFT's rules.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/peft.h"
#include "text/expression.h"

namespace hone::io {

// An AdapterConfig with its expressions compiled; keeps nothing of it by reference.
class AdapterRules {
 public:
  // UserError: an expression that isn't understood.
  explicit AdapterRules(const AdapterConfig& config);

  // Whether a linear layer of the base ("model.layers.0.self_attn.q_proj") is a target. For
  // all-linear every module but lm_head. layers_to_transform acts on every form of targets but a
  // module's whole name in a list, as in PEFT (where a text and layers don't go together). Experts
  // (io/peft_experts.h) are targets of target_parameters, too.
  bool targets(std::string_view module) const;
  bool all_linear() const { return config_.all_linear(); }
  int64_t rank_of(std::string_view module) const;
  double alpha_of(std::string_view module) const;
  double scale_of(std::string_view module) const;  // alpha / r, or alpha / sqrt(r) with rsLoRA

 private:
  template <class T>
  struct Pattern {
    Expression expression;
    T value;
  };

  bool in_layers(std::string_view module) const;

  AdapterConfig config_;
  std::optional<Expression> target_, exclude_;
  std::vector<Expression> layers_patterns_;
  std::vector<Pattern<int64_t>> ranks_;
  std::vector<Pattern<double>> alphas_;
};

// The config under which exactly `tuned` of all linear `modules` are targets, as PEFT writes it
// after it has resolved one: a list of names, the last parts of paths where these (with the blocks
// they are in, if need be) select what is tuned, else whole paths; never a text. In families with
// experts (io/peft_experts.h) these, and other layers whose names PEFT takes for theirs, are named
// by parameter. All else stays.
AdapterConfig resolved_config(AdapterConfig config, const std::vector<std::string>& modules,
                              const std::vector<std::string>& tuned, bool experts = false);

// The number of the block that a module is in: the first part of its path that is a number and has
// two parts before it. null: in none.
std::optional<int64_t> block_of(std::string_view module);

// Order of names with numbers by value: block 2 before block 10.
bool natural_less(std::string_view a, std::string_view b);

}  // namespace hone::io
