// hone convert: the same model with its weights in another format.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/commands/commands.h"
#include "app/model_folder.h"
#include "app/pretrained.h"
#include "app/terminal.h"
#include "app/units.h"
#include "core/error.h"
#include "core/json_fields.h"
#include "core/thread_pool.h"
#include "io/files.h"
#include "io/run_folder.h"
#include "load/convert.h"
#include "models/quantization.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

// In the output until it is whole: what is being made there.
constexpr const char* kProgressFile = ".convert.json";

struct Flags {
  std::string pretrained, output, to = "bf16", max_shard_size = "5GB";
  int threads = 0;
  bool overwrite = false;
};

Format target(const std::string& name) {
  if (name == "bf16") return Format::bf16;
  if (name == "fp32") return Format::f32;
  if (name == "fp8") return Format::fp8_block;
  user_error("flags", "--to {}: use bf16, fp32 or fp8", name);
}

// The output of an earlier call with the same input and target, which was stopped, is gone on with.
bool begin_or_go_on(const Flags& f) {
  const fs::path progress = fs::path(f.output) / kProgressFile;
  const std::string job =
      nlohmann::json({{"weights", io::weights_fingerprint(f.pretrained)}, {"to", f.to}}).dump() +
      "\n";
  std::error_code code;
  const bool begun = fs::exists(progress, code) && io::read_text_file(progress, 1 << 16) == job;
  if (!begun && fs::exists(progress, code) && !f.overwrite)
    user_error("output",
               "{} holds a conversion of another model or to another format, which was stopped; go "
               "on with that one, give another folder, or --overwrite",
               f.output);
  if (!begun) check_output_folder(f.output, f.overwrite);
  fs::create_directories(f.output, code);
  if (code) runtime_error("output", "cannot create {}: {}", f.output, code.message());
  if (!begun && f.overwrite) {
    // what is there must not be taken for this call's
    for (const fs::directory_entry& entry : fs::directory_iterator(f.output, code)) {
      if (entry.path().extension() == ".safetensors") fs::remove(entry.path(), code);
    }
  }
  if (!begun) io::write_file_atomically(progress, job);
  return begun;
}

std::string converted_config(const std::string& text, const std::string& source, Format to,
                             const load::ConvertReport& report) {
  if (to != Format::fp8_block) {
    return config_with_dtype(config_unquantized(text, source), source,
                             to == Format::bf16 ? io::FileType::bf16 : io::FileType::f32);
  }
  return config_fp8(text, source, report.unconverted);
}

int run(const Flags& f) {
  check_pretrained(f.pretrained);
  const Format to = target(f.to);
  if (f.threads < 0) user_error("flags", "--threads {}: use 0 for all cores, or more", f.threads);
  if (f.output.empty()) user_error("flags", "no output was given; use --output DIR");
  std::error_code code;
  if (fs::equivalent(f.pretrained, f.output, code))
    user_error("output", "--output {} is the folder that is read; give another one", f.output);
  const uint64_t shard = parse_memory("--max_shard_size", f.max_shard_size);
  const std::string config_file = (fs::path(f.pretrained) / "config.json").string();
  const std::string text = io::read_text_file(config_file, 16 << 20);
  const nlohmann::json config = parse_json_object(text, "config", config_file);
  JsonFields fields(config, "config", config_file);
  models::read_quantization(fields, config_file);

  const io::CheckpointReader reader = io::CheckpointReader::open(f.pretrained);
  if (begin_or_go_on(f)) say(fmt::format("going on with what is in {}", f.output));
  ThreadPool pool(f.threads > 0 ? f.threads : available_threads());
  const load::ConvertReport report =
      load::convert_weights(reader, f.output, {.to = to, .max_shard_bytes = shard}, pool);
  io::copy_model_files(f.pretrained, f.output, /*with_config=*/false);
  io::write_file_atomically(fs::path(f.output) / "config.json",
                            converted_config(text, config_file, to, report));
  fs::remove(fs::path(f.output) / kProgressFile, code);
  say(fmt::format("wrote {} tensors to {}, {} of them in {}: {:.2f} GB, {:.2f} before",
                  report.tensors, f.output, report.converted, f.to,
                  static_cast<double>(report.bytes_after) / 1e9,
                  static_cast<double>(report.bytes_before) / 1e9));
  if (to == Format::fp8_block && report.converted > 0) {
    say(fmt::format("errors, over the largest number of a matrix: mean {:.2e}, largest {:.2e}",
                    report.mean_error, report.largest_error));
  } else {
    say("read again: every number is the one before, rounded once");
  }
  return 0;
}

}  // namespace

void add_convert(Cli& cli) {
  Command& c = cli.add(
      "convert", "a model with its weights in another format",
      "Names and shapes stay. To fp8 (E4M3 with a scale for each 128 x 128) go the matrices "
      "of the blocks' linear\nlayers; embedding, head, norms and routers stay as they are. To "
      "bf16 or fp32 goes everything.\nWhat was written is read again and compared. A call "
      "that was stopped is gone on with by the same call.");
  const auto f = std::make_shared<Flags>();
  c.group("Model");
  c.flag("-m,--pretrained,--pretrain", f->pretrained, "The model: a Hugging Face folder", "DIR");
  c.flag("-o,--output", f->output, "The converted model's folder", "DIR");
  c.flag("--to", f->to, "Format of the weights", "bf16|fp32|fp8");
  c.flag("--max_shard_size", f->max_shard_size, "Largest file", "5GB");
  c.flag("--threads", f->threads, "Threads; 0: all cores");
  c.flag("--overwrite", f->overwrite, "Replace the model that is in --output");
  c.run([f] { return run(*f); });
}

}  // namespace hone::app
