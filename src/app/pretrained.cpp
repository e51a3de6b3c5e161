#include "app/pretrained.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "io/checkpoint.h"
#include "io/files.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

// The folder or name an adapter's configuration gives its base by; "" if it gives none.
std::string base_of(const fs::path& adapter) {
  try {
    const nlohmann::json json = nlohmann::json::parse(
        io::read_text_file(adapter / "adapter_config.json", uint64_t{16} << 20), nullptr, false);
    if (!json.is_object()) return "";
    const auto it = json.find("base_model_name_or_path");
    return it != json.end() && it->is_string() ? it->get<std::string>().substr(0, 4096) : "";
  } catch (const std::runtime_error&) {  // told when the adapter is read
    return "";
  }
}

[[noreturn]] void is_adapter(const std::string& folder) {
  const std::string base = base_of(folder);
  std::error_code ignored;
  if (!base.empty() && fs::exists(fs::path(base) / "config.json", ignored))
    user_error("model", "{} holds an adapter, not a model; use --pretrained {} --adapter {}",
               folder, base, folder);
  user_error("model",
             "{} holds an adapter, not a model; give its base model{} with --pretrained, and this "
             "folder with --adapter",
             folder, base.empty() ? "" : fmt::format(" ({})", base));
}

// As models are called on the hub: Qwen/Qwen2.5-0.5B.
bool is_hub_name(const std::string& name) {
  const size_t slash = name.find('/');
  return slash != std::string::npos && slash > 0 && slash + 1 < name.size() &&
         name.find('/', slash + 1) == std::string::npos && name[0] != '.' && name[0] != '~' &&
         std::none_of(name.begin(), name.end(), [](char c) { return c == ' '; });
}

[[noreturn]] void is_absent(const std::string& folder) {
  if (is_hub_name(folder))
    user_error("model",
               "{} is not a folder, and nothing is downloaded; if it is a model's name on the hub: "
               "hf download {} --local-dir {}",
               folder, folder, folder.substr(folder.find('/') + 1));
  user_error("model", "{} does not exist; give the path of a Hugging Face model folder", folder);
}

}  // namespace

void require_pretrained(const std::string& folder) {
  if (folder.empty())
    user_error("flags", "no model was given; use --pretrained DIR, a Hugging Face folder");
}

void check_pretrained(const std::string& folder, const char* needed) {
  require_pretrained(folder);
  std::error_code ignored;
  const fs::path path(folder);
  if (!fs::exists(path, ignored)) is_absent(folder);
  if (!fs::is_directory(path, ignored)) {
    const std::string parent = path.parent_path().string();
    user_error("model", "{} is a file; give the folder it is in: {}", folder,
               parent.empty() ? "." : parent);
  }
  if (fs::exists(path / needed, ignored)) return;
  if (fs::exists(path / "adapter_config.json", ignored)) is_adapter(folder);
  if (const std::string hint = io::checkpoint_hint(path); !hint.empty())
    user_error("model", "{} has no {}{}", folder, needed, hint);
}

}  // namespace hone::app
