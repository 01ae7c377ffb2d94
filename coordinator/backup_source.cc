#include "coordinator/backup_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/aead.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

constexpr size_t kPage = 200;
constexpr uint32_t kChunkVersions = 1'024;  // so that a resumed job repeats a second's work, not a minute's
constexpr size_t kVersionOverheadBytes = 128;

std::string DigestLine(const CatalogueKey& key) {
  return fmt::format("{} {}\n", key.name, key.head_revision);
}
std::string DigestOf(const std::string& text) { return ToString(Sha256(View(text))); }

}  // namespace

void BackupSource::Seek(const std::string& name, size_t keys_per_batch) {
  page_.clear();
  after_ = name;
  exhausted_ = false;
  keys_per_batch_ = keys_per_batch;
  digest_text_.clear();
  chunk_versions_ = 0;
  chunk_bytes_ = 0;
  versions_taken_ = 0;
}

absl::StatusOr<const CatalogueKey*> BackupSource::Peek() {
  if (page_.empty() && !exhausted_) {
    HSM_ASSIGN_OR_RETURN(CatalogueKeys page, snapshot_.Keys(data_set_, after_, kPage));
    exhausted_ = !page.more;
    if (!page.keys.empty()) after_ = page.keys.back().name;
    page_.assign(std::make_move_iterator(page.keys.begin()), std::make_move_iterator(page.keys.end()));
  }
  return page_.empty() ? nullptr : &page_.front();
}

void BackupSource::Pop() {
  page_.pop_front();
  versions_taken_ = 0;
}

absl::StatusOr<PlannedBatch> BackupSource::Next() {
  PlannedBatch batch;
  for (;;) {
    HSM_ASSIGN_OR_RETURN(const CatalogueKey* key, Peek());
    if (key == nullptr) {
      if (!batch.records.empty()) batch.ends_chunk = true;
      break;
    }
    const auto& versions = key->records.versions();
    const int left = static_cast<int>(limits::kExportVersionsPerCall) - static_cast<int>(batch.versions);
    const int take = std::min(left, versions.size() - versions_taken_);
    rpc::KeyRecords records;
    *records.mutable_head() = key->records.head();
    for (int i = 0; i < take; ++i) *records.add_versions() = versions[versions_taken_ + i];
    versions_taken_ += take;
    chunk_bytes_ += records.ByteSizeLong() + static_cast<size_t>(take) * kVersionOverheadBytes;
    chunk_versions_ += static_cast<uint32_t>(take);
    batch.versions += static_cast<uint32_t>(take);
    batch.records.push_back(std::move(records));
    if (versions_taken_ < versions.size()) break;  // the rest of this key is the next batch's
    batch.last = key->name;
    digest_text_ += DigestLine(*key);
    Pop();
    if (chunk_versions_ >= kChunkVersions || chunk_bytes_ >= limits::kChunkBytesTarget) {
      batch.ends_chunk = true;
      break;
    }
    const bool full = batch.versions >= limits::kExportVersionsPerCall ||
                      (keys_per_batch_ != 0 && batch.records.size() >= keys_per_batch_);
    if (full) {
      // A chunk that ends with the last key must be told so now: there is no further batch to tell it.
      HSM_ASSIGN_OR_RETURN(const CatalogueKey* next, Peek());
      batch.ends_chunk = next == nullptr;
      break;
    }
  }
  if (batch.ends_chunk) {
    batch.source = DigestOf(digest_text_);
    digest_text_.clear();
    chunk_versions_ = 0;
    chunk_bytes_ = 0;
  }
  return batch;
}

absl::StatusOr<uint32_t> BackupSource::StillHold(const std::vector<rpc::StoredChunk>& parts) {
  Seek("", 0);
  uint32_t hold = 0;
  for (const rpc::StoredChunk& part : parts) {
    if (part.tombstones()) break;
    std::string text;
    for (;;) {
      HSM_ASSIGN_OR_RETURN(const CatalogueKey* key, Peek());
      if (key == nullptr || key->name > part.last()) break;
      text += DigestLine(*key);
      Pop();
    }
    if (DigestOf(text) != part.source()) break;
    ++hold;
  }
  return hold;
}

}  // namespace hsm
