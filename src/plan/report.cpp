#include <fmt/format.h>

#include <cstdlib>
#include <fstream>

#include "io/files.h"
#include "plan/plan.h"

namespace hone::plan {
namespace {

std::filesystem::path rates_path() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return std::filesystem::path(cache) / "hone" / "machine.json";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : "/") / ".cache" / "hone" / "machine.json";
}

// The processor's name and count, so that figures of another machine are not used.
std::string machine_name() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line, model, flags;
  int processors = 0;
  while (std::getline(cpuinfo, line)) {
    if (line.starts_with("processor")) ++processors;
    if (model.empty() && line.starts_with("model name")) model = line.substr(line.find(':') + 1);
    if (flags.empty() && line.starts_with("flags"))
      flags = line.find("amx_bf16") != std::string::npos ? " amx" : "";
  }
  return fmt::format("{} x{}{}", model, processors, flags);
}

std::string mib(size_t bytes) {
  return fmt::format("{:>10.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

std::optional<MachineRates> load_machine_rates() {
  std::ifstream file(rates_path());
  if (!file) return std::nullopt;
  const nlohmann::json j = nlohmann::json::parse(file, nullptr, false);
  if (!j.is_object() || j.value("machine", "") != machine_name()) return std::nullopt;
  return MachineRates{j.value("gemm_bf16", 0.0), j.value("gemm_fp32", 0.0),
                      j.value("bandwidth", 0.0)};
}

void save_machine_rates(const MachineRates& r) {
  const auto path = rates_path();
  std::filesystem::create_directories(path.parent_path());
  io::write_file_atomically(path, nlohmann::json({{"machine", machine_name()},
                                                  {"gemm_bf16", r.gemm_bf16},
                                                  {"gemm_fp32", r.gemm_fp32},
                                                  {"bandwidth", r.bandwidth}})
                                          .dump(1) +
                                      "\n");
}

std::string to_text(const Plan& p, const train::TrainerOptions& o) {
  std::string s;
  const auto line = [&s](const std::string& text) { s += text + "\n"; };
  line(fmt::format("parameters         {} ({} trained)", p.parameters, p.trainable));
  line(fmt::format("micro-batch        {} tokens, {}", p.micro_batch_tokens,
                   p.recompute ? "blocks recomputed in backward (-g)" : "activations kept"));
  line("peak memory");
  line(fmt::format("  {:<17}{}", "mapped weights", mib(p.mapped_weights)));
  if (p.streamed_weights != 0)
    line(fmt::format("  {:<17}{}, read from disk as they are needed", "weights",
                     mib(p.streamed_weights)));
  for (int k = 0; k < kMemoryKinds; ++k) {
    if (p.arena[static_cast<size_t>(k)] == 0) continue;
    line(fmt::format("  {:<17}{}", memory_kind_name(static_cast<MemoryKind>(k)),
                     mib(p.arena[static_cast<size_t>(k)])));
  }
  line(fmt::format("  {:<17}{}", "fragmentation", mib(p.fragmentation)));
  line(fmt::format("  {:<17}{}", "program and data", mib(p.process)));
  line(fmt::format("  {:<17}{}", "together", mib(p.peak())));
  line("peak by phase");
  line(fmt::format("  {:<22}{}", "start", mib(p.starting)));
  for (const Phase& phase : p.phases)
    line(fmt::format("  {:<22}{}", phase.name, mib(phase.peak + p.outside())));
  const double tokens = p.tokens_per_micro_batch;
  line(fmt::format(
      "work per token     {:.3f} GFLOP in products, {:.3f} GFLOP in the rest, {:.2f} MB moved",
      p.gemm_flops / tokens / 1e9, p.other_flops / tokens / 1e9, p.bytes / tokens / 1e6));
  if (p.disk_bytes != 0)
    line(fmt::format("from disk          {:.1f} MB of weights a micro-batch, at least",
                     static_cast<double>(p.disk_bytes) / 1e6));
  line(fmt::format("update             {:.1f} MB moved a step", p.update_bytes / 1e6));
  if (p.seconds_per_token > 0) {
    line(
        fmt::format("time               at least {:.3f} ms a token: at most {:.0f} tokens/s; a "
                    "step of {} samples of {} tokens {:.2f} s",
                    p.seconds_per_token * 1e3, 1 / p.seconds_per_token,
                    o.batch_size * o.accumulation_steps, o.max_length,
                    p.seconds_per_token *
                        static_cast<double>(o.batch_size * o.accumulation_steps * o.max_length)));
  } else {
    line("time               unknown: run `hone bench` once on this machine");
  }
  line(fmt::format("disk               {} a checkpoint, {} the result", mib(p.checkpoint_bytes),
                   mib(p.result_bytes)));
  return s;
}

nlohmann::json to_json(const Plan& p) {
  nlohmann::json j;
  j["parameters"] = p.parameters;
  j["trainable_parameters"] = p.trainable;
  j["micro_batch_tokens"] = p.micro_batch_tokens;
  j["recompute"] = p.recompute;
  j["peak_memory"] = p.peak();
  nlohmann::json kinds;
  for (int k = 0; k < kMemoryKinds; ++k) {
    kinds[std::string(memory_kind_name(static_cast<MemoryKind>(k)))] =
        p.arena[static_cast<size_t>(k)];
  }
  kinds["mapped weights"] = p.mapped_weights;
  kinds["streamed weights"] = p.streamed_weights;
  kinds["fragmentation"] = p.fragmentation;
  kinds["program and data"] = p.process;
  j["memory_by_kind"] = kinds;
  j["memory_by_phase"]["start"] = p.starting;
  for (const Phase& phase : p.phases) j["memory_by_phase"][phase.name] = phase.peak + p.outside();
  j["micro_batch"] = {
      {"gemm_flops", p.gemm_flops}, {"other_flops", p.other_flops}, {"bytes", p.bytes}};
  j["disk_bytes"] = p.disk_bytes;
  j["update_bytes"] = p.update_bytes;
  j["seconds_per_token"] = p.seconds_per_token;
  j["checkpoint_bytes"] = p.checkpoint_bytes;
  j["result_bytes"] = p.result_bytes;
  return j;
}

}  // namespace hone::plan
