#pragma once
// Reads one TOML file into plain structs. Each Read leaves its target alone when the key is absent, so
// defaults live in the struct. Mistakes (wrong type, out of range, missing) are remembered and Finish returns
// the first; a key that nobody read is an error too, named with its line. Not thread-safe; a table view lives
// as long as any other.
//
//   HSM_ASSIGN_OR_RETURN(Config file, Config::Load(path));
//   file.Read("listen", out.listen);
//   Config tls = file.Table("tls");
//   tls.ReadPath("ca", out.tls.ca);
//   for (Config& entry : file.Tables("partition")) { ... }
//   HSM_RETURN_IF_ERROR(file.Finish());
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace hsm {

class Config {
 public:
  static absl::StatusOr<Config> Load(const std::string& path);  // CONFIG_INVALID, also for an unreadable file
  // `name` stands for the file in messages; relative paths are resolved against `directory`.
  static absl::StatusOr<Config> Parse(std::string_view text, std::string name, std::string directory);

  bool Has(std::string_view key) const;
  void Read(std::string_view key, std::string& out);
  void Read(std::string_view key, bool& out);
  void Read(std::string_view key, double& out);  // also takes whole numbers
  void Read(std::string_view key, int64_t& out);
  void Read(std::string_view key, uint64_t& out);  // >= 0
  void Read(std::string_view key, uint32_t& out);  // 0 .. 2^32 - 1
  void Read(std::string_view key, int& out);
  void Read(std::string_view key, std::vector<std::string>& out);
  template <typename Value>
  void Read(std::string_view key, std::optional<Value>& out) {
    if (!Has(key)) return;
    Value value{};
    Read(key, value);
    out = std::move(value);
  }
  void ReadPath(std::string_view key, std::string& out);  // relative to the file's directory
  void Require(std::string_view key, std::string& out);   // an error if absent or empty
  void RequirePath(std::string_view key, std::string& out);

  Config Table(std::string_view key);                                // empty view if absent
  std::vector<Config> Tables(std::string_view key);                  // [[key]]
  std::map<std::string, std::string> Strings(std::string_view key);  // a table whose keys are data

  // Remembers a mistake of the caller's own finding, at `key`'s line.
  void Fail(std::string_view key, std::string_view problem);
  // CONFIG_INVALID with "file:line: key: problem" for the first mistake or unknown key of the whole file.
  absl::Status Finish() const;

 private:
  struct Node;
  struct File;
  Config(std::shared_ptr<File> file, Node* node, std::string path)
      : file_(std::move(file)), node_(node), path_(std::move(path)) {}
  Node* Find(std::string_view key);
  void Integer(std::string_view key, int64_t low, int64_t high, int64_t& out, bool& found);

  std::shared_ptr<File> file_;
  Node* node_;  // null: an absent table
  std::string path_;
};

}  // namespace hsm
