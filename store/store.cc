#include "store/store.h"

#include <algorithm>
#include <set>

#include "common/error.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

absl::Status CheckText(std::string_view text, const char* what) {
  if (text.size() > limits::kStoreKeyBytesMax) {
    return Error(v1::REASON_LIMIT_EXCEEDED, std::string("store: ") + what + " is too long");
  }
  bool printable = std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x21 && c <= 0x7e; });
  if (!printable)
    return Error(v1::REASON_INVALID_ARGUMENT, std::string("store: ") + what + " is not printable ASCII");
  return absl::OkStatus();
}

absl::Status CheckKey(std::string_view key) {
  if (key.empty()) return Error(v1::REASON_INVALID_ARGUMENT, "store: empty key");
  return CheckText(key, "key");
}

// One more than others may have for who guards, or asks for, the epoch key: FencedStore adds that to a full
// one.
template <typename Keys, typename KeyOf>
absl::Status CheckCount(const Keys& keys, KeyOf key_of, const char* what) {
  size_t fenced =
      std::any_of(keys.begin(), keys.end(), [&](const auto& k) { return key_of(k) == kEpochKey; });
  if (keys.size() <= limits::kStoreOpsMax + fenced) return absl::OkStatus();
  return Error(v1::REASON_LIMIT_EXCEEDED, std::string("store: too many ") + what);
}

}  // namespace

absl::Status CheckTransaction(const StoreTransaction& transaction) {
  HSM_RETURN_IF_ERROR(CheckCount(transaction.guards, [](const StoreGuard& g) { return g.key; }, "guards"));
  HSM_RETURN_IF_ERROR(
      CheckCount(transaction.read_on_conflict, [](const std::string& k) { return k; }, "keys to read"));
  if (transaction.ops.size() > limits::kStoreOpsMax)
    return Error(v1::REASON_LIMIT_EXCEEDED, "store: too many operations");

  size_t bytes = 0;
  for (const StoreGuard& guard : transaction.guards) {
    HSM_RETURN_IF_ERROR(CheckKey(guard.key));
    bytes += guard.key.size();
  }
  std::set<std::string_view> seen;
  for (const StoreOp& op : transaction.ops) {
    HSM_RETURN_IF_ERROR(CheckKey(op.key));
    if (op.key == kEpochKey)
      return Error(v1::REASON_INVALID_ARGUMENT, "store: only a campaign writes the epoch key");
    if (!seen.insert(op.key).second) return Error(v1::REASON_INVALID_ARGUMENT, "store: a key occurs twice");
    if (op.value.size() > limits::kStoreValueBytesMax)
      return Error(v1::REASON_LIMIT_EXCEEDED, "store: value is too long");
    if (op.kind == StoreOp::Kind::kDelete && !op.value.empty()) {
      return Error(v1::REASON_INVALID_ARGUMENT, "store: a delete has no value");
    }
    bytes += op.key.size() + op.value.size();
  }
  for (const std::string& key : transaction.read_on_conflict) HSM_RETURN_IF_ERROR(CheckKey(key));
  if (bytes > limits::kStoreTransactionBytesMax)
    return Error(v1::REASON_LIMIT_EXCEEDED, "store: transaction is too large");
  return absl::OkStatus();
}

absl::Status CheckKeys(std::span<const std::string> keys) {
  if (keys.size() > limits::kStoreOpsMax) return Error(v1::REASON_LIMIT_EXCEEDED, "store: too many keys");
  for (const std::string& key : keys) HSM_RETURN_IF_ERROR(CheckKey(key));
  return absl::OkStatus();
}

absl::Status CheckScan(const std::string& prefix, const std::string& after, size_t limit) {
  if (limit == 0) return Error(v1::REASON_INVALID_ARGUMENT, "store: a page of nothing");
  if (limit > limits::kStorePageMax) return Error(v1::REASON_LIMIT_EXCEEDED, "store: page is too large");
  HSM_RETURN_IF_ERROR(CheckText(prefix, "prefix"));
  return CheckText(after, "cursor");
}

bool AppendToPage(StoreRecord record, size_t limit, size_t& bytes, StorePage& page) {
  bytes += record.key.size() + record.value.size();
  if (page.records.size() == limit || (!page.records.empty() && bytes > limits::kStorePageBytesMax)) {
    page.more = true;
    return false;
  }
  page.records.push_back(std::move(record));
  return true;
}

}  // namespace hsm
