// The command line without running anything: flags, their spelling, configuration files, units.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "app/cli.h"
#include "app/commands/commands.h"
#include "app/commands/sft_flags.h"
#include "app/config_file.h"
#include "app/json_lines.h"
#include "app/model_folder.h"
#include "app/units.h"
#include "core/error.h"
#include "train/options_json.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

class TempFolder {
 public:
  TempFolder() {
    std::string name = (fs::temp_directory_path() / "hone-cli-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TempFolder() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name) << text;
    return (path_ / name).string();
  }

 private:
  fs::path path_;
};

std::string user_error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

using Args = std::vector<std::string>;

struct SftRequest {
  train::SftOptions options;
  std::vector<std::string> notes;
};

SftRequest sft(const Args& args) {
  Command c("sft", "", "");
  const auto flags = add_sft_flags(c);
  c.parse(args);
  const std::vector<std::string> notes = settle_sft(c, *flags, /*need_data=*/true);
  return {flags->o, notes};
}

// With what every run needs.
SftRequest sft_with(Args more) {
  Args args = {"--pretrained", "M", "--dataset", "d.jsonl"};
  args.insert(args.end(), more.begin(), more.end());
  return sft(args);
}

std::string sft_error(const Args& more) {
  return user_error_of([&] { sft_with(more); });
}

// Every command's flags, a line each: what users and their scripts rely on.
TEST(Cli, FlagsAreThoseOfTheCommittedList) {
  Cli cli;
  add_commands(cli);
  std::string list;
  for (const auto& command : cli.commands()) {
    list += "hone " + command->name() + "\n";
    for (const FlagInfo& f : command->flags()) {
      list += "  " + f.names[0];
      for (size_t i = 1; i < f.names.size(); ++i) list += " " + f.names[i];
      if (!f.value_name.empty()) list += " : " + f.value_name;
      if (!f.default_text.empty()) list += " = " + f.default_text;
      list += "\n";
    }
  }
  const fs::path path = fs::path(HONE_SOURCE_DIR) / "tests/fixtures/app/flags.txt";
  if (std::getenv("HONE_UPDATE_FIXTURES") != nullptr) std::ofstream(path) << list;
  std::stringstream committed;
  committed << std::ifstream(path).rdbuf();
  EXPECT_EQ(list, committed.str())
      << "flags changed; if that is meant, run this test with HONE_UPDATE_FIXTURES=1";
}

TEST(Cli, EveryFlagOfTheOriginalIsThere) {
  // lora_finetune.py and train_sft.py.
  const Args original = {"-m",
                         "--pretrained",
                         "-d",
                         "--dataset",
                         "-p",
                         "--plugin",
                         "--save_dir",
                         "--tensorboard_dir",
                         "--config_file",
                         "-n",
                         "--num_epochs",
                         "--accumulation_steps",
                         "--batch_size",
                         "--lr",
                         "--max_length",
                         "--mixed_precision",
                         "--grad_clip",
                         "--weight_decay",
                         "--warmup_steps",
                         "-g",
                         "--use_grad_checkpoint",
                         "-f",
                         "--use_flash_attn",
                         "--tp",
                         "--pp",
                         "--sp",
                         "--ep",
                         "--zero_stage",
                         "--sp_mode",
                         "--enable_sequence_parallelism",
                         "--zero_cpu_offload",
                         "--microbatch_size",
                         "--lora_rank",
                         "--lora_alpha",
                         "--pretrain",
                         "--tokenizer_dir",
                         "--eval_dataset",
                         "--checkpoint_path",
                         "--lora_config",
                         "--save_interval",
                         "--log_dir",
                         "--use_wandb",
                         "--grad_checkpoint",
                         "--save_path",
                         "--max_epochs",
                         "--max_len",
                         "--disable_loss_mask"};
  Command c("sft", "", "");
  add_sft_flags(c);
  std::vector<std::string> names;
  for (const FlagInfo& f : c.flags()) names.insert(names.end(), f.names.begin(), f.names.end());
  for (const std::string& name : original)
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
}

TEST(Cli, ValuesArrive) {
  const SftRequest r = sft_with({"--lr",
                                 "2e-5",
                                 "-g",
                                 "--batch_size",
                                 "24",
                                 "--lora_rank",
                                 "8",
                                 "--lora_alpha",
                                 "16",
                                 "-n",
                                 "2",
                                 "--warmup_steps",
                                 "8",
                                 "--save_dir",
                                 "out",
                                 "--max_len=256",
                                 "--shuffle",
                                 "false",
                                 "--lora_target",
                                 "q_proj,v_proj",
                                 "o_proj",
                                 "--lora_layers",
                                 "0,2-4",
                                 "--no_decay",
                                 "norm,bias",
                                 "--memory",
                                 "1.5GiB",
                                 "--mixed_precision",
                                 "bf16",
                                 "--log_dir",
                                 "logs",
                                 "--disable_loss_mask",
                                 "--lr_scheduler",
                                 "linear",
                                 "--save_interval",
                                 "7"});
  const train::SftOptions& o = r.options;
  EXPECT_EQ(o.pretrained, "M");
  EXPECT_EQ(o.dataset, Args{"d.jsonl"});
  EXPECT_EQ(o.lr, 2e-5);
  EXPECT_TRUE(o.grad_checkpoint);
  EXPECT_EQ(o.batch_size, 24);
  EXPECT_EQ(o.lora_rank, 8);
  EXPECT_EQ(o.lora_alpha, 16);
  EXPECT_EQ(o.num_epochs, 2);
  EXPECT_EQ(o.warmup_steps, 8);
  EXPECT_EQ(o.save_dir, "out");
  EXPECT_EQ(o.max_length, 256);
  EXPECT_FALSE(o.shuffle);
  EXPECT_EQ(o.lora_target, (Args{"q_proj", "v_proj", "o_proj"}));
  EXPECT_EQ(o.lora_layers, (std::vector<int64_t>{0, 2, 3, 4}));
  EXPECT_TRUE(o.no_decay.norm && o.no_decay.bias);
  EXPECT_EQ(o.memory, size_t{3} << 29);
  EXPECT_EQ(o.dtype, DType::bf16);
  EXPECT_EQ(o.tensorboard_dir, "logs");
  EXPECT_EQ(o.train_on, TrainOn::kAll);
  EXPECT_EQ(o.lr_scheduler, optim::Schedule::linear);
  EXPECT_EQ(o.save_steps, 7);
  const SftRequest two = sft({"-m", "M", "-d", "a", "b", "-d", "c"});
  EXPECT_EQ(two.options.dataset, (Args{"a", "b", "c"}));
}

TEST(Cli, DefaultsAreTheOriginals) {
  const train::SftOptions o = sft_with({}).options;
  EXPECT_EQ(o.num_epochs, 1);
  EXPECT_EQ(o.batch_size, 2);
  EXPECT_EQ(o.lr, 3e-4);
  EXPECT_EQ(o.max_length, 8192);
  EXPECT_EQ(o.grad_clip, 1.0);
  EXPECT_EQ(o.weight_decay, 0.1);
  EXPECT_EQ(o.warmup_steps, std::nullopt);
  EXPECT_EQ(o.lora_rank, 0);
  EXPECT_EQ(o.lora_alpha, 8);
  EXPECT_EQ(o.save_dir, "checkpoint_dir");
  EXPECT_FALSE(o.dtype.has_value());
}

TEST(Cli, MistakesAreNamedWithTheValue) {
  const std::vector<std::pair<Args, const char*>> cases = {
      {{"--lr", "abc"}, "[flags] --lr abc: this is not a number"},
      {{"--lr", "nan"}, "[flags] --lr nan: this is not a finite number"},
      {{"--lr", "1e999"}, "[flags] --lr 1e999: the number is out of range"},
      {{"--batch_size", "1.5"}, "[flags] --batch_size 1.5: this is not a whole number"},
      {{"--lrr", "1"}, "[flags] hone sft has no flag --lrr; did you mean --lr?"},
      {{"--lora-rank", "1"}, "[flags] hone sft has no flag --lora-rank; did you mean --lora_rank?"},
      {{"--use_grad_chekpoint"}, "did you mean --use_grad_checkpoint?"},
      {{"--lr"}, "[flags] --lr needs a value: X"},
      {{"--lr", "1", "--lr", "2"}, "[flags] --lr is given 2 times"},
      {{"--train_on", "lst"}, "--train_on lst is not known; did you mean last? Use one of:"},
      {{"--tp", "2"}, "[flags] --tp 2: this version runs as one process"},
      {{"--ep", "8"}, "[flags] --ep 8:"},
      {{"--zero_stage", "3"}, "[flags] --zero_stage 3:"},
      {{"--plugin", "zero3"}, "did you mean zero2?"},
      {{"--use_wandb"}, "use --tensorboard_dir"},
      {{"--microbatch_size", "1"}, "use --micro_batch_tokens"},
      {{"--mixed_precision", "fp16"}, "use bf16"},
      {{"--dtype", "fp32", "--mixed_precision", "bf16"}, "contradict"},
      {{"--disable_loss_mask", "--train_on", "last"}, "contradict"},
      {{"--overwrite", "--resume", "auto"}, "contradict"},
      {{"--memory", "6 parsecs"}, "[flags] --memory 6 parsecs: this is not an amount of memory"},
      {{"--no_decay", "head"}, "--no_decay head is not known"},
      {{"--lora_layers", "3-1"}, "--lora_layers 3-1: use numbers and ranges"},
      {{"--resume", "/nowhere/at/all"}, "[resume] /nowhere/at/all is not a folder"},
      {{"--tokenizer_dir", "/nowhere"}, "is not the model's folder"},
  };
  for (const auto& [args, text] : cases)
    EXPECT_NE(sft_error(args).find(text), std::string::npos)
        << args[0] << ": " << sft_error(args) << "\nwanted: " << text;
  EXPECT_NE(user_error_of([] { sft({"--dataset", "d"}); }).find("--pretrained"), std::string::npos);
  EXPECT_NE(user_error_of([] { sft({"--pretrained", "d"}); }).find("--dataset"), std::string::npos);
}

TEST(Cli, NamesOfOtherTrainersActOrSayWhatToUse) {
  const SftRequest r = sft({"--model_name_or_path",
                            "M",
                            "--dataset_name",
                            "d.jsonl",
                            "--learning_rate=2e-5",
                            "--per_device_train_batch_size",
                            "4",
                            "--gradient_accumulation_steps",
                            "2",
                            "--num_train_epochs",
                            "3",
                            "--output_dir",
                            "out",
                            "--lora_r",
                            "8",
                            "--cutoff_len",
                            "77",
                            "--gradient_checkpointing",
                            "True",
                            "--overwrite_output_dir",
                            "false"});
  EXPECT_EQ(r.options.pretrained, "M");
  EXPECT_EQ(r.options.dataset, std::vector<std::string>{"d.jsonl"});
  EXPECT_EQ(r.options.lr, 2e-5);
  EXPECT_EQ(r.options.batch_size, 4);
  EXPECT_EQ(r.options.accumulation_steps, 2);
  EXPECT_EQ(r.options.num_epochs, 3);
  EXPECT_EQ(r.options.save_dir, "out");
  EXPECT_EQ(r.options.lora_rank, 8);
  EXPECT_EQ(r.options.max_length, 77);
  EXPECT_TRUE(r.options.grad_checkpoint);
  EXPECT_EQ(r.options.existing, io::ExistingRun::refuse);
  EXPECT_FALSE(sft_with({"--gradient_checkpointing=false"}).options.grad_checkpoint);
  // A switch of ours with a word behind it.
  EXPECT_TRUE(sft_with({"--use_rslora", "True", "--lora_rank", "2"}).options.use_rslora);
  EXPECT_FALSE(sft_with({"--use_rslora", "false", "--lora_rank", "2"}).options.use_rslora);
  // Twice the same thing, by two names.
  EXPECT_NE(sft_error({"--lr", "1", "--learning_rate", "2"}).find("--lr is given 2 times"),
            std::string::npos);
  for (const auto& [flag, word] :
       {std::pair{"--bf16", "--dtype bf16"}, std::pair{"--warmup_ratio", "--warmup_steps"},
        std::pair{"--eval_strategy", "--eval_steps"}, std::pair{"--report_to", "--tensorboard_dir"},
        std::pair{"--template", "--conversation_template"}, std::pair{"--use_peft", "--lora_rank"},
        std::pair{"--train_batch_size", "--accumulation_steps"},
        std::pair{"--val_size", "--eval_dataset"}, std::pair{"--flash_attn", "leave it out"},
        std::pair{"--warmup_steps", "not a number of steps"}})
    EXPECT_NE(sft_error({flag, "x"}).find(word), std::string::npos) << sft_error({flag, "x"});
  // In a file, too.
  const TempFolder folder;
  const std::string file =
      folder.file("c.yaml", "learning_rate: 0.5\ngradient_checkpointing: True\n");
  EXPECT_EQ(sft_with({"--config", file}).options.lr, 0.5);
  EXPECT_TRUE(sft_with({"--config", file}).options.grad_checkpoint);
  EXPECT_NE(
      sft_error({"--config", folder.file("d.yaml", "deepspeed: x.json\n")}).find("one process"),
      std::string::npos);
}

TEST(Cli, WrongCommandsAreTwoAndSuggest) {
  Cli cli;
  add_commands(cli);
  EXPECT_NE(user_error_of([&] { cli.run({"generat"}); }).find("did you mean generate?"),
            std::string::npos);
  EXPECT_EQ(run_guarded(cli, {"nonsense"}), 2);
}

TEST(Cli, HelpNamesEveryFlagWithinTheWidth) {
  Cli cli;
  add_commands(cli);
  for (const auto& command : cli.commands()) {
    const std::string page = command->help(100);
    for (const FlagInfo& f : command->flags()) {
      for (const std::string& name : f.names)
        EXPECT_NE(page.find(name), std::string::npos) << command->name() << " " << name;
      EXPECT_FALSE(f.help.empty());
    }
    std::stringstream lines(page);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100U) << line;
    EXPECT_NE(cli.help().find(command->name()), std::string::npos);
  }
}

TEST(ConfigFile, YamlAndJsonSetFlagsAndTheCommandLineWins) {
  const TempFolder folder;
  const std::string yaml = folder.file(
      "a.yaml",
      "pretrained: M\ndataset: [a.jsonl, b.jsonl]\nlr: 2e-5  # comment\nuse_grad_checkpoint: yes\n"
      "shuffle: false\nlora_rank: 4\nmax_steps: null\nuse_rslora: false\n");
  const train::SftOptions o = sft({"--config", yaml, "--lora_rank", "8"}).options;
  EXPECT_EQ(o.dataset, (Args{"a.jsonl", "b.jsonl"}));
  EXPECT_EQ(o.lr, 2e-5);
  EXPECT_TRUE(o.grad_checkpoint);
  EXPECT_FALSE(o.shuffle);
  EXPECT_FALSE(o.use_rslora);
  EXPECT_EQ(o.lora_rank, 8);
  const std::string json = folder.file(
      "a.json", R"({"pretrained": "M", "dataset": ["a"], "lr": 0.5, "grad_checkpoint": true,
                    "command": "sft", "effective": {"steps": 3}, "existing": "refuse"})");
  const train::SftOptions p = sft({"--config", json, "-d", "b"}).options;
  EXPECT_EQ(p.dataset, Args{"b"});
  EXPECT_EQ(p.lr, 0.5);
  EXPECT_TRUE(p.grad_checkpoint);
}

TEST(ConfigFile, MistakesInItAreNamed) {
  const TempFolder folder;
  const auto error = [&](const char* name, const char* text) {
    return sft_error({"--config", folder.file(name, text)});
  };
  EXPECT_NE(error("a.yaml", "batch_sze: 3\n").find("did you mean --batch_size?"),
            std::string::npos);
  EXPECT_NE(error("b.yaml", "lr: fast\n").find("--lr fast"), std::string::npos);
  EXPECT_NE(error("c.yaml", "lr: [1, 2]\n").find("takes one value"), std::string::npos);
  EXPECT_NE(error("d.yaml", "lr: {a: 1}\n").find("neither a value nor a list"), std::string::npos);
  EXPECT_NE(error("e.yaml", "lr: 1\nlr: 2\n").find("twice"), std::string::npos);
  EXPECT_NE(error("f.yaml", "a: [1\n").find("not YAML"), std::string::npos);
  EXPECT_NE(error("g.yaml", "- 1\n").find("not a mapping"), std::string::npos);
  EXPECT_NE(error("h.json", "{\"lr\": }").find("not JSON"), std::string::npos);
  EXPECT_NE(error("i.json", "[1]").find("not a JSON object"), std::string::npos);
  EXPECT_NE(error("j.json", "{\"command\": \"generate\"}").find("hone generate"),
            std::string::npos);
  EXPECT_NE(sft_error({"--config", "/nowhere.yaml"}).find("/nowhere.yaml"), std::string::npos);
}

TEST(SftFlags, LoraConfigOfTheOriginal) {
  const TempFolder folder;
  const auto file = [&](const char* text) { return folder.file("lora.json", text); };
  const train::SftOptions o =
      sft_with({"--lora_config", file(R"({"r": 16, "lora_alpha": 32, "linear_lora_dropout": 0.05,
                         "embedding_lora_dropout": 0.0, "lora_train_bias": "none",
                         "lora_initialization_method": "kaiming_uniform",
                         "target_modules": ["q_proj", "v_proj"]})")})
          .options;
  EXPECT_EQ(o.lora_rank, 16);
  EXPECT_EQ(o.lora_alpha, 32);
  EXPECT_EQ(o.lora_dropout, 0.05);
  EXPECT_EQ(o.lora_target, (Args{"q_proj", "v_proj"}));
  const auto error = [&](const char* text, Args more = {}) {
    more.insert(more.end(), {"--lora_config", file(text)});
    return sft_error(more);
  };
  EXPECT_NE(error(R"({"r": 8, "lora_initialization_method": "PiSSA"})").find("kaiming_uniform"),
            std::string::npos);
  EXPECT_NE(error(R"({"r": 8, "embedding_lora_dropout": 0.1})").find("embedding_lora_dropout"),
            std::string::npos);
  EXPECT_NE(error(R"({"r": 8, "lora_train_bias": "all"})").find("lora_train_bias"),
            std::string::npos);
  EXPECT_NE(error(R"({"r": 8})", {"--lora_rank", "4"}).find("--lora_rank differs"),
            std::string::npos);
  EXPECT_NE(error(R"({"r": 8, "rang": 3})").find("\"rang\" is not known"), std::string::npos);
}

TEST(SftFlags, LoraFlagsWithoutARankAreRefused) {
  for (const Args& flags : std::vector<Args>{{"--lora_alpha", "8"},
                                             {"--lora_dropout", "0.1"},
                                             {"--use_rslora"},
                                             {"--lora_target", "q_proj"},
                                             {"--lora_layers", "0"},
                                             {"--lora_rank", "0", "--lora_alpha", "16"}}) {
    const std::string error = sft_error(flags);
    EXPECT_NE(error.find("add --lora_rank 8"), std::string::npos) << flags[0] << ": " << error;
  }
  const TempFolder folder;
  EXPECT_NE(sft_error({"--lora_config", folder.file("l.json", R"({"lora_alpha": 16})")})
                .find("gives no rank"),
            std::string::npos);
  // As run.json has it: every flag, at its default.
  const train::SftOptions o = sft_with({"--lora_rank", "0", "--lora_alpha", "8", "--lora_dropout",
                                        "0", "--lora_target", "all-linear"})
                                  .options;
  EXPECT_EQ(o.lora_rank, 0);
}

TEST(SftFlags, FlagsThatCouldNotActAreNamed) {
  for (const char* flag : {"--eval_samples", "--eval_max_new_tokens"})
    EXPECT_NE(sft_error({flag, "7"}).find("--eval_dataset"), std::string::npos) << flag;
  sft_with({"--eval_samples", "7", "--eval_dataset", "e.jsonl"});
  sft_with({"--eval_samples", "3"});  // its default, as run.json has it
  const SftRequest decay = sft_with({"--lora_rank", "4", "--no_decay", "norm"});
  ASSERT_EQ(decay.notes.size(), 1u);
  EXPECT_NE(decay.notes[0].find("--no_decay without effect"), std::string::npos);
  const SftRequest both = sft_with({"--max_steps", "5", "--num_epochs", "2"});
  ASSERT_EQ(both.notes.size(), 1u);
  EXPECT_NE(both.notes[0].find("--num_epochs without effect"), std::string::npos);
}

// Declared once, an option has the same name and value as a flag, in run.json and in --config.
TEST(SftFlags, ARunsConfigurationSaysTheRunAgain) {
  const train::SftOptions o = sft_with({"--lora_rank",
                                        "8",
                                        "--lora_target",
                                        "q_proj,v_proj",
                                        "--lora_layers",
                                        "0,2-3",
                                        "--lr",
                                        "1e-5",
                                        "--lr_scheduler",
                                        "linear",
                                        "--warmup_steps",
                                        "4",
                                        "--no_decay",
                                        "bias",
                                        "--memory",
                                        "2GiB",
                                        "--shuffle",
                                        "false",
                                        "--train_on",
                                        "last",
                                        "--dataset_format",
                                        "qa",
                                        "--dtype",
                                        "fp32",
                                        "-g",
                                        "--eval_steps",
                                        "3",
                                        "--eval_dataset",
                                        "e.jsonl",
                                        "--on_save_error",
                                        "continue",
                                        "--seed",
                                        "7",
                                        "--eos_token",
                                        "<e>",
                                        "9",
                                        "--template_kwargs",
                                        "a=1"})
                                  .options;
  const nlohmann::json saved = train::options_json(o);
  EXPECT_EQ(saved["command"], "sft");
  EXPECT_EQ(saved["warmup_steps"], 4);
  EXPECT_EQ(saved["memory"], size_t{2} << 30);
  EXPECT_EQ(saved["no_decay"], nlohmann::json({"bias"}));
  EXPECT_EQ(saved["shuffle"], false);
  EXPECT_EQ(saved["dtype"], "fp32");
  EXPECT_EQ(saved["on_save_error"], "continue");
  const TempFolder folder;
  const std::string file = folder.file("run.json", saved.dump());
  EXPECT_EQ(train::options_json(sft({"--config", file}).options), saved);
}

TEST(SftFlags, DefaultsInRunJson) {
  const nlohmann::json saved = train::options_json(train::SftOptions());
  EXPECT_EQ(saved["warmup_steps"], -1);
  EXPECT_EQ(saved["dtype"], "auto");
  EXPECT_EQ(saved["existing"], "refuse");
  EXPECT_EQ(saved["no_decay"], nlohmann::json::array());
  EXPECT_EQ(saved.size(), 54u) << saved.dump(1);
  const nlohmann::json identity = train::options_identity(train::SftOptions());
  for (const char* free : {"save_dir", "existing", "threads", "memory", "micro_batch_tokens",
                           "pretrained", "dataset", "eval_dataset", "tensorboard_dir"})
    EXPECT_FALSE(identity.contains(free)) << free;
  for (const char* same : {"command", "lr", "seed", "lora_rank", "train_on", "keep_best"})
    EXPECT_TRUE(identity.contains(same)) << same;
  EXPECT_FALSE(saved.contains("self_check") || saved.contains("profile"));
}

TEST(SftFlags, AnAdapterGivesItsShape) {
  const fs::path adapter = fs::path(HONE_SOURCE_DIR) / "tests/fixtures/io/peft_plain";
  ASSERT_TRUE(fs::exists(adapter / "adapter_config.json"));
  const train::SftOptions o = sft_with({"--adapter", adapter.string()}).options;
  EXPECT_GT(o.lora_rank, 0);
  const std::string same = std::to_string(o.lora_rank), other = std::to_string(o.lora_rank + 1);
  EXPECT_EQ(sft_with({"--adapter", adapter.string(), "--lora_rank", same}).options.lora_rank,
            o.lora_rank);
  EXPECT_NE(sft_error({"--adapter", adapter.string(), "--lora_rank", other})
                .find("--lora_rank differs from the adapter"),
            std::string::npos);
}

TEST(Units, Memory) {
  EXPECT_EQ(parse_memory("-", "6GiB"), size_t{6} << 30);
  EXPECT_EQ(parse_memory("-", "6 gib"), size_t{6} << 30);
  EXPECT_EQ(parse_memory("-", "800MB"), 800'000'000U);
  EXPECT_EQ(parse_memory("-", "512K"), 512U << 10);
  EXPECT_EQ(parse_memory("-", "4KB"), 4000U);
  EXPECT_EQ(parse_memory("-", "4KiB"), 4096U);
  EXPECT_EQ(parse_memory("-", "12345"), 12345U);
  EXPECT_EQ(parse_memory("-", "0.5TiB"), size_t{1} << 39);
  for (const char* bad : {"", "GiB", "-1GiB", "6GiBs", "6Gib3", "1e30GiB", "nan", "6PB"})
    EXPECT_THROW(parse_memory("-", bad), UserError) << bad;
}

TEST(Units, Lists) {
  EXPECT_EQ(comma_list({"a, b", "c"}), (Args{"a", "b", "c"}));
  EXPECT_EQ(number_list("-", {"0,3-5", "7"}), (std::vector<int64_t>{0, 3, 4, 5, 7}));
  EXPECT_EQ(parse_dtype("-", "auto"), std::nullopt);
  EXPECT_EQ(parse_dtype("-", "fp32"), DType::f32);
  EXPECT_THROW(parse_dtype("-", "int8"), UserError);
}

TEST(JsonText, FloatsReadBackExactly) {
  for (const float v : {0.1f, -0.0f, 1e-30f, 3.4e38f, -0.031702045f, 1.0f, 1e-45f})
    EXPECT_EQ(std::strtof(float_text(v).c_str(), nullptr), v);
  EXPECT_EQ(float_text(std::nanf("")), "null");
  EXPECT_EQ(float_list(std::vector<float>{0.1f, -2.f}), "[0.1,-2]");
}

// Every fp16 and bf16 value, and the middle between each two, against the storage types' rule.
TEST(Rounding, OnceToNearestEven) {
  const auto half = [](double v) {
    std::vector<std::byte> bytes;
    append_rounded(std::span(&v, 1), io::FileType::f16, bytes);
    f16 h;
    std::memcpy(&h.bits, bytes.data(), 2);
    return h;
  };
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    f16 a, b;
    a.bits = bits;
    b.bits = static_cast<uint16_t>(bits + 1);
    const double x = static_cast<float>(a), y = static_cast<float>(b), middle = (x + y) / 2;
    ASSERT_EQ(half(x).bits, bits);
    ASSERT_EQ(half(-x).bits, bits | 0x8000);
    ASSERT_EQ(half(middle).bits, bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(half(std::nextafter(middle, 1e9)).bits, bits + 1);
  }
  EXPECT_EQ(half(65520).bits, 0x7c00);
  const auto brain = [](double v) {
    std::vector<std::byte> bytes;
    append_rounded(std::span(&v, 1), io::FileType::bf16, bytes);
    uint16_t bits;
    std::memcpy(&bits, bytes.data(), 2);
    return bits;
  };
  for (uint32_t bits = 0; bits < 0x7f7f; ++bits) {
    bf16 a, b;
    a.bits = static_cast<uint16_t>(bits);
    b.bits = static_cast<uint16_t>(bits + 1);
    const double x = static_cast<float>(a), y = static_cast<float>(b), middle = (x + y) / 2;
    ASSERT_EQ(brain(x), bits);
    ASSERT_EQ(brain(middle), bits % 2 == 0 ? bits : bits + 1);
    // Rounding through fp32 first would lose this.
    ASSERT_EQ(brain(std::nextafter(middle, 1e300)), bits + 1);
  }
}

}  // namespace
}  // namespace hone::app
