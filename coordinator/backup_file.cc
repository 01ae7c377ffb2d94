#include "coordinator/backup_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/aead.h"
#include "common/error.h"
#include "common/limits.h"
#include "common/mutant.h"
#include "common/status_macros.h"

namespace hsm {
namespace {

namespace rpc = internal::v1;

constexpr std::string_view kChunkMagic = "qhsmchk1";
constexpr std::string_view kManifestMagic = "qhsmman1";
constexpr size_t kChunkHeaderBytes = 8 + 4 + 16;
constexpr size_t kSha256Bytes = 32;
// The key of an attempt seals one text, so its nonce can be constant.
constexpr uint8_t kOnlyNonce[kAeadNonceBytes] = {};

absl::Status Invalid(std::string_view why) { return Error(v1::REASON_BACKUP_INVALID, why); }

void AppendU32(Bytes& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
}

void Append(Bytes& out, ByteView bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

Bytes Header(const ChunkPlace& place) {
  Bytes header = ToBytes(kChunkMagic);
  Append(header, place.Id());
  return header;
}

// What the AEAD binds besides the text: the format, the backup, and the place and attempt within it.
Bytes AssociatedData(const ChunkPlace& place) {
  Bytes data = ToBytes("qhsm-backup-chunk");
  AppendU32(data, kBackupFormat);
  Append(data, place.backup.value);
  Append(data, place.Id());
  return data;
}

uint64_t CountVersions(const rpc::Chunk& chunk) {
  uint64_t versions = 0;
  for (const rpc::BackupKey& key : chunk.keys()) versions += static_cast<uint64_t>(key.versions_size());
  return versions;
}

absl::Status CheckEntries(const rpc::ManifestFields& fields) {
  uint64_t keys = 0, versions = 0;
  for (int i = 0; i < fields.chunks_size(); ++i) {
    const rpc::ChunkEntry& entry = fields.chunks(i);
    const bool sound = entry.place() == static_cast<uint32_t>(i) && entry.sha256().size() == kSha256Bytes &&
                       entry.bytes() <= kChunkStoredBytesMax &&
                       entry.object().starts_with(fmt::format("{}-", entry.place()));
    if (!sound) return Invalid(fmt::format("chunk {} of the manifest is not described as it must be", i));
    keys += entry.keys();
    versions += entry.versions();
  }
  // Tombstones travel in chunks without being names.
  if (keys < fields.keys() || versions != fields.versions())
    return Invalid("the manifest's counts do not add up");
  return absl::OkStatus();
}

}  // namespace

Bytes ChunkPlace::Id() const {
  Bytes id;
  AppendU32(id, place);
  Append(id, attempt.value);
  return id;
}

std::string ChunkPlace::ObjectName() const { return fmt::format("{}-{}", place, attempt.ToHex()); }

absl::StatusOr<Bytes> SealChunk(const rpc::Chunk& chunk, const ChunkPlace& place, const SecretBytes& key) {
  HSM_ASSIGN_OR_RETURN(const Bytes sealed,
                       AeadSeal(key, kOnlyNonce, View(chunk.SerializeAsString()), AssociatedData(place)));
  Bytes stored = Header(place);
  Append(stored, sealed);
  if (stored.size() > kChunkStoredBytesMax)
    return Error(v1::REASON_LIMIT_EXCEEDED, "a backup chunk grew too large");
  return stored;
}

absl::StatusOr<ChunkPlace> CheckStoredChunk(ByteView stored, const BackupId& backup,
                                            const rpc::ChunkEntry& entry) {
  const std::string where = fmt::format("chunk {}", entry.place());
  if (stored.size() != entry.bytes()) {
    return Invalid(fmt::format("{} has {} bytes, {} were written", where, stored.size(), entry.bytes()));
  }
  if (!HSM_MUTANT("backup-skip-chunk-hash") && !EqualConstantTime(Sha256(stored), View(entry.sha256()))) {
    return Invalid(fmt::format("{} was altered: its hash is not the manifest's", where));
  }
  if (stored.size() < kChunkHeaderBytes + kAeadTagBytes || StringView(stored.first(8)) != kChunkMagic) {
    return Invalid(fmt::format("{} is no backup chunk", where));
  }
  ChunkPlace place;
  place.backup = backup;
  for (uint8_t byte : stored.subspan(8, 4)) place.place = (place.place << 8) | byte;
  place.attempt = *ChunkAttempt::From(StringView(stored.subspan(12, 16)));
  if (place.place != entry.place() || place.ObjectName() != entry.object()) {
    return Invalid(fmt::format("{} carries the name of another chunk", where));
  }
  return place;
}

absl::StatusOr<rpc::Chunk> OpenChunk(ByteView stored, const ChunkPlace& place, const rpc::ChunkEntry& entry,
                                     const SecretBytes& key) {
  if (stored.size() < kChunkHeaderBytes + kAeadTagBytes) return Invalid("a backup chunk is truncated");
  auto plain = AeadOpen(key, kOnlyNonce, stored.subspan(kChunkHeaderBytes), AssociatedData(place));
  if (!plain.ok()) return Invalid(fmt::format("chunk {} cannot be decrypted", entry.place()));
  rpc::Chunk chunk;
  const ByteView text = plain->Expose();
  if (!chunk.ParseFromArray(text.data(), static_cast<int>(text.size()))) {
    return Invalid(fmt::format("chunk {} cannot be read", entry.place()));
  }
  const bool fits = chunk.place() == entry.place() &&
                    static_cast<uint32_t>(chunk.keys_size()) == entry.keys() &&
                    CountVersions(chunk) == entry.versions();
  if (!fits) return Invalid(fmt::format("chunk {} does not hold what the manifest says", entry.place()));
  return chunk;
}

Bytes EncodeManifestFile(const rpc::ManifestFile& file) {
  Bytes stored = ToBytes(kManifestMagic);
  Append(stored, View(file.SerializeAsString()));
  return stored;
}

absl::StatusOr<rpc::ManifestFile> ParseManifestFile(ByteView stored) {
  rpc::ManifestFile file;
  if (stored.size() < 8 || stored.size() > kManifestBytesMax ||
      StringView(stored.first(8)) != kManifestMagic ||
      !file.ParseFromArray(stored.data() + 8, static_cast<int>(stored.size() - 8)) ||
      file.manifest().empty() || file.signature().empty()) {
    return Invalid("the manifest is no manifest");
  }
  return file;
}

absl::Status CheckManifest(const rpc::ManifestFields& fields, const std::string& folder) {
  if (fields.format() != kBackupFormat) {
    return Invalid(fmt::format("format {} is not one this version reads", fields.format()));
  }
  if (!HSM_MUTANT("backup-any-folder") && fields.folder() != folder) {
    return Invalid(fmt::format("the manifest belongs to the folder {}", fields.folder()));
  }
  if (fields.backup_id().size() != 16 || fields.hsm_id().size() != 16 ||
      fields.merkle_root().size() != kSha256Bytes) {
    return Invalid("the manifest lacks an id or the root");
  }
  if (static_cast<uint32_t>(fields.chunks_size()) > kChunksMax)
    return Invalid("the manifest names too many chunks");
  if (static_cast<uint64_t>(fields.names_size()) != fields.keys() ||
      std::adjacent_find(fields.names().begin(), fields.names().end(), std::greater_equal<>()) !=
          fields.names().end()) {
    return Invalid("the manifest's names are not a sorted set of the right size");
  }
  return CheckEntries(fields);
}

std::string BackupFolderName(std::string_view hsm_name, absl::Time received) {
  const absl::TimeZone utc = absl::UTCTimeZone();
  const int64_t hundredths = absl::ToUnixMillis(received) % 1000 / 10;
  return fmt::format("mhsm-{}-{}{:02}", hsm_name, absl::FormatTime("%Y%m%d%H%M%S", received, utc),
                     hundredths);
}

Bytes InventoryLeaf(const KeyHead& head, std::span<const VersionRecord> versions) {
  KeyHead seen = head;
  seen.data_set = 0;
  seen.incarnation = 0;
  seen.revision = 0;
  seen.updated = 0;
  seen.deleted.reset();
  seen.scheduled_purge.reset();
  seen.purge_protection = false;
  Bytes leaf;
  auto add = [&leaf](const Bytes& part) {
    AppendU32(leaf, static_cast<uint32_t>(part.size()));
    Append(leaf, part);
  };
  add(Encode(seen));
  for (VersionRecord version : versions) {
    version.incarnation = 0;
    version.kek_generation = 0;
    version.wrapped.clear();
    add(Encode(version));
  }
  return leaf;
}

}  // namespace hsm
