#include "common/config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <utility>

// The parser's own assertions fail on some malformed files; they must neither end the process nor, in a build
// without assertions, be passed over.
#undef NDEBUG
[[noreturn]] static void NotToml() { throw std::logic_error("not TOML"); }
#define TOML_ASSERT(holds) static_cast<void>((holds) || (NotToml(), true))
#define TOML_EXCEPTIONS 1
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include "common/error.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace hsm {

struct Config::Node {
  toml::table* table = nullptr;
  std::string path;  // "tls", "partition[2]"
  std::set<std::string, std::less<>> read;
  std::map<std::string, Node*, std::less<>> tables;
  std::map<std::string, std::vector<Node*>, std::less<>> arrays;
};

struct Config::File {
  std::string name, directory;
  toml::table root;
  std::vector<std::unique_ptr<Node>> nodes;
  std::string first_problem;

  Node* NodeFor(toml::table* table, std::string path) {
    nodes.push_back(std::make_unique<Node>());
    nodes.back()->table = table;
    nodes.back()->path = std::move(path);
    return nodes.back().get();
  }
  void Problem(const toml::node* at, const std::string& key, std::string_view problem) {
    if (!first_problem.empty()) return;
    first_problem = name;
    if (at != nullptr) first_problem += ":" + std::to_string(at->source().begin.line);
    first_problem += ": " + key + ": " + std::string(problem);
  }
};

namespace {

constexpr size_t kConfigBytesMax = 1024 * 1024;

std::string Under(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : path + "." + std::string(key);
}

const toml::node* Get(const toml::table* table, std::string_view key) {
  return table == nullptr ? nullptr : table->get(key);
}

}  // namespace

absl::StatusOr<Config> Config::Load(const std::string& path) {
  auto text = ReadTextFile(path, kConfigBytesMax);
  if (!text.ok()) return Error(v1::REASON_CONFIG_INVALID, DetailOf(text.status()).message());
  size_t slash = path.rfind('/');
  return Parse(*text, path, slash == std::string::npos ? "" : path.substr(0, slash + 1));
}

absl::StatusOr<Config> Config::Parse(std::string_view text, std::string name, std::string directory) {
  // The parser (3.3) runs off the end of a function at some characters beyond ASCII.
  const auto beyond = std::find_if(text.begin(), text.end(), [](char c) { return (c & 0x80) != 0; });
  if (beyond != text.end()) {
    return Error(v1::REASON_CONFIG_INVALID,
                 name + ":" + std::to_string(1 + std::count(text.begin(), beyond, '\n')) +
                     ": only ASCII is taken here; in a string write \\u and four hex digits");
  }
  toml::table parsed;
  try {
    parsed = toml::parse(text);
  } catch (const toml::parse_error& error) {
    return Error(v1::REASON_CONFIG_INVALID, name + ":" + std::to_string(error.source().begin.line) + ": " +
                                                std::string(error.description()));
  } catch (const std::logic_error&) {
    return Error(v1::REASON_CONFIG_INVALID, name + ": this is not TOML");
  }
  auto file = std::make_shared<File>();
  file->name = std::move(name);
  file->directory = std::move(directory);
  file->root = std::move(parsed);
  Node* root = file->NodeFor(&file->root, "");
  return Config(std::move(file), root, "");
}

bool Config::Has(std::string_view key) const { return node_ != nullptr && node_->table->contains(key); }

// Marks the key as known; null if absent.
template <typename Wanted>
const Wanted* Take(const toml::node* found) {
  return found == nullptr ? nullptr : found->as<Wanted>();
}

void Config::Read(std::string_view key, std::string& out) {
  const toml::node* found = Get(node_ == nullptr ? nullptr : node_->table, key);
  if (found == nullptr) return;
  node_->read.emplace(key);
  if (auto value = found->value_exact<std::string>())
    out = *value;
  else
    Fail(key, "must be a text");
}

void Config::Read(std::string_view key, bool& out) {
  const toml::node* found = Get(node_ == nullptr ? nullptr : node_->table, key);
  if (found == nullptr) return;
  node_->read.emplace(key);
  if (auto value = found->value_exact<bool>())
    out = *value;
  else
    Fail(key, "must be true or false");
}

void Config::Read(std::string_view key, double& out) {
  const toml::node* found = Get(node_ == nullptr ? nullptr : node_->table, key);
  if (found == nullptr) return;
  node_->read.emplace(key);
  auto value = found->value<double>();
  if (value && std::isfinite(*value))
    out = *value;
  else
    Fail(key, "must be a number");
}

void Config::Integer(std::string_view key, int64_t low, int64_t high, int64_t& out, bool& present) {
  const toml::node* found = Get(node_ == nullptr ? nullptr : node_->table, key);
  present = false;
  if (found == nullptr) return;
  node_->read.emplace(key);
  auto value = found->value_exact<int64_t>();
  if (!value) return Fail(key, "must be a whole number");
  if (*value < low || *value > high) {
    return Fail(key, "must be from " + std::to_string(low) + " to " + std::to_string(high));
  }
  out = *value;
  present = true;
}

void Config::Read(std::string_view key, int64_t& out) {
  bool present;
  Integer(key, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), out, present);
}

void Config::Read(std::string_view key, uint64_t& out) {
  bool present;
  int64_t value = 0;
  Integer(key, 0, std::numeric_limits<int64_t>::max(), value, present);
  if (present) out = static_cast<uint64_t>(value);
}

void Config::Read(std::string_view key, uint32_t& out) {
  bool present;
  int64_t value = 0;
  Integer(key, 0, std::numeric_limits<uint32_t>::max(), value, present);
  if (present) out = static_cast<uint32_t>(value);
}

void Config::Read(std::string_view key, int& out) {
  bool present;
  int64_t value = 0;
  Integer(key, std::numeric_limits<int>::min(), std::numeric_limits<int>::max(), value, present);
  if (present) out = static_cast<int>(value);
}

void Config::Read(std::string_view key, std::vector<std::string>& out) {
  const toml::node* found = Get(node_ == nullptr ? nullptr : node_->table, key);
  if (found == nullptr) return;
  node_->read.emplace(key);
  const toml::array* array = found->as_array();
  if (array == nullptr) return Fail(key, "must be a list of texts");
  std::vector<std::string> values;
  for (const toml::node& item : *array) {
    auto value = item.value_exact<std::string>();
    if (!value) return Fail(key, "must be a list of texts");
    values.push_back(*value);
  }
  out = std::move(values);
}

void Config::ReadPath(std::string_view key, std::string& out) {
  std::string path;
  Read(key, path);
  if (!path.empty()) out = JoinPath(file_->directory, path);
}

void Config::Require(std::string_view key, std::string& out) {
  Read(key, out);
  if (!Has(key) || out.empty()) Fail(key, "is missing");
}

void Config::RequirePath(std::string_view key, std::string& out) {
  ReadPath(key, out);
  if (!Has(key) || out.empty()) Fail(key, "is missing");
}

Config Config::Table(std::string_view key) {
  std::string path = Under(path_, key);
  if (!Has(key)) return Config(file_, nullptr, path);
  node_->read.emplace(key);
  toml::table* table = node_->table->get(key)->as_table();
  if (table == nullptr) {
    Fail(key, "must be a table");
    return Config(file_, nullptr, path);
  }
  Node*& known = node_->tables[std::string(key)];
  if (known == nullptr) known = file_->NodeFor(table, path);
  return Config(file_, known, path);
}

std::vector<Config> Config::Tables(std::string_view key) {
  std::vector<Config> out;
  if (!Has(key)) return out;
  node_->read.emplace(key);
  toml::array* array = node_->table->get(key)->as_array();
  if (array == nullptr) {
    Fail(key, "must be a list of tables: write [[" + std::string(key) + "]]");
    return out;
  }
  std::vector<Node*>& known = node_->arrays[std::string(key)];
  for (size_t i = 0; i < array->size(); ++i) {
    std::string path = Under(path_, key) + "[" + std::to_string(i) + "]";
    toml::table* table = (*array)[i].as_table();
    if (table == nullptr) {
      Fail(key, "must be a list of tables");
      return {};
    }
    if (known.size() <= i) known.push_back(file_->NodeFor(table, path));
    out.push_back(Config(file_, known[i], path));
  }
  return out;
}

std::map<std::string, std::string> Config::Strings(std::string_view key) {
  std::map<std::string, std::string> out;
  Config table = Table(key);
  if (table.node_ == nullptr) return out;
  for (auto& [name, value] : *table.node_->table) table.Read(name.str(), out[std::string(name.str())]);
  return out;
}

void Config::Fail(std::string_view key, std::string_view problem) {
  const toml::table* table = node_ == nullptr ? nullptr : node_->table;
  const toml::node* at = Get(table, key);
  file_->Problem(at != nullptr ? at : static_cast<const toml::node*>(table), Under(path_, key), problem);
}

absl::Status Config::Finish() const {
  for (const auto& node : file_->nodes) {
    for (auto& [key, value] : *node->table) {
      if (node->read.contains(key.str())) continue;
      file_->Problem(&value, Under(node->path, key.str()), "is not a known key");
    }
  }
  if (file_->first_problem.empty()) return absl::OkStatus();
  return Error(v1::REASON_CONFIG_INVALID, file_->first_problem);
}

}  // namespace hsm
