#pragma once
// What depends on the number of keys: pages of the list, one key's attributes, backup and restore of all of
// them.
#include <string>

#include "absl/status/statusor.h"
#include "cli/bench_load.h"
#include "cli/bench_token.h"
#include "client/client.h"

namespace hsm::cli {

// Keys scale-{kind}-{number} that a run finds or makes and leaves behind: twenty thousand are worth keeping.
class ScaleKeys {
 public:
  ScaleKeys(Client& client, BenchKey kind, uint32_t count) : client_(client), kind_(kind), count_(count) {}

  // Makes those that are missing, many at a time.
  absl::Status Make();
  Operation List() const;  // a page of the default size, from a random place on
  Operation Get() const;

  // One job each, over all keys of the HSM. Operations are key versions; the seconds are those of the export,
  // or of loading and proving, without what comes before and after. `target` is a directory on the
  // coordinator's host. A restore makes the backup it needs, and replaces every key by itself.
  absl::StatusOr<LoadResult> Backup(const std::string& target) const;
  absl::StatusOr<LoadResult> Restore(const std::string& target) const;

 private:
  std::string Name(uint64_t number) const;
  std::string RandomName() const;
  absl::StatusOr<v1::Job> RunBackup(const std::string& target) const;

  Client& client_;
  const BenchKey kind_;
  const uint32_t count_;
};

}  // namespace hsm::cli
