#include "node/profile.h"

#include <algorithm>
#include <cmath>

#include "common/config.h"
#include "common/error.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

struct Section {
  ProfileOperation operation;
  const char* name;
};
constexpr Section kSections[] = {
    {ProfileOperation::kCreate, "create"},   {ProfileOperation::kSign, "sign"},
    {ProfileOperation::kVerify, "verify"},   {ProfileOperation::kEncrypt, "encrypt"},
    {ProfileOperation::kDecrypt, "decrypt"}, {ProfileOperation::kWrap, "wrap"},
    {ProfileOperation::kUnwrap, "unwrap"}};
constexpr uint32_t kUnitsMax = 64;
constexpr const char* kKeyClasses[] = {"RSA-2048", "RSA-3072", "RSA-4096", "P-256",   "P-256K",
                                       "P-384",    "P-521",    "oct-128",  "oct-192", "oct-256"};

}  // namespace

std::string KeyClassName(const KeySpec& spec) {
  switch (spec.type) {
    case v1::KEY_TYPE_RSA_HSM:
      return "RSA-" + std::to_string(spec.size_bits);
    case v1::KEY_TYPE_EC_HSM:
      return CurveName(spec.curve);
    default:
      return "oct-" + std::to_string(spec.size_bits);
  }
}

absl::StatusOr<ProfileOptions> DeviceProfile::Load(const std::string& path) {
  HSM_ASSIGN_OR_RETURN(Config file, Config::Load(path));
  ProfileOptions out;
  file.Require("name", out.name);
  file.Read("source", out.source);
  file.Read("units", out.units);
  file.Read("queue_ms_max", out.queue_ms_max);
  if (out.units < 1 || out.units > kUnitsMax) file.Fail("units", "must be 1 to 64");
  for (const Section& section : kSections) {
    Config table = file.Table(section.name);
    for (const char* key_class : kKeyClasses) {
      if (!table.Has(key_class)) continue;
      double rate = 0;
      table.Read(key_class, rate);
      if (!(rate > 0)) table.Fail(key_class, "must be more than 0 operations per second");
      out.rates[section.operation][key_class] = rate;
    }
  }
  HSM_RETURN_IF_ERROR(file.Finish());
  return out;
}

std::optional<double> DeviceProfile::Rate(ProfileOperation operation, const KeySpec& spec) const {
  auto section = options_.rates.find(operation);
  if (section == options_.rates.end()) return std::nullopt;
  auto rate = section->second.find(KeyClassName(spec));
  if (rate == section->second.end()) return std::nullopt;
  return rate->second;
}

absl::Status DeviceProfile::Serve(ProfileOperation operation, const KeySpec& spec) {
  std::optional<double> rate = Rate(operation, spec);
  if (!rate) return absl::OkStatus();
  absl::Duration service = absl::Seconds(options_.units / *rate);
  absl::Duration now = clock_.Uptime();
  MutexLock lock(mutex_);
  auto unit = std::min_element(free_at_.begin(), free_at_.end());
  absl::Duration start = std::max(now, *unit);
  if (start - now > absl::Milliseconds(options_.queue_ms_max)) {
    return BusyError(static_cast<uint32_t>(absl::ToInt64Milliseconds(start - now)),
                     "the device's queue is full (profile " + options_.name + ")");
  }
  *unit = start + service;
  clock_.Await(mutex_, never_, [] { return false; }, start + service - now);
  return absl::OkStatus();
}

}  // namespace hsm
