#pragma once
// What lies in a backup folder, as bytes: docs/backup_file.md has the grammar and an example. Pure functions:
// nothing here touches a target, a partition or the catalogue. Whatever does not fit is BACKUP_INVALID.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/bytes.h"
#include "common/ids.h"
#include "common/record.h"
#include "common/secret.h"
#include "hsm/internal/v1/backup_file.pb.h"

namespace hsm {

inline constexpr uint32_t kBackupFormat = 1;
inline constexpr std::string_view kManifestObject = "manifest";
inline constexpr size_t kChunkStoredBytesMax = 16 * 1024 * 1024;
inline constexpr size_t kManifestBytesMax = 32 * 1024 * 1024;
inline constexpr uint32_t kChunksMax = 100'000;

using ChunkAttempt = Id16<struct ChunkAttemptTag>;  // random, new for each try at writing a chunk

// One try at one chunk. Its AEAD key comes from DeriveAead(backup, Id()) and seals this one text.
struct ChunkPlace {
  BackupId backup;
  uint32_t place = 0;
  ChunkAttempt attempt;

  Bytes Id() const;                // place, 4 bytes big-endian, then the attempt
  std::string ObjectName() const;  // "{place}-{attempt hex}"
};

absl::StatusOr<Bytes> SealChunk(const internal::v1::Chunk& chunk, const ChunkPlace& place,
                                const SecretBytes& key);
// The place a stored chunk claims to be; size and SHA-256 are checked against the manifest's entry first.
absl::StatusOr<ChunkPlace> CheckStoredChunk(ByteView stored, const BackupId& backup,
                                            const internal::v1::ChunkEntry& entry);
// Decrypts, and compares place and counts with the entry.
absl::StatusOr<internal::v1::Chunk> OpenChunk(ByteView stored, const ChunkPlace& place,
                                              const internal::v1::ChunkEntry& entry, const SecretBytes& key);

Bytes EncodeManifestFile(const internal::v1::ManifestFile& file);
absl::StatusOr<internal::v1::ManifestFile> ParseManifestFile(ByteView stored);
// Whether signed fields are consistent in themselves and belong to this folder: format, places without gaps,
// counts that add up, names sorted and unique, hashes of the right length.
absl::Status CheckManifest(const internal::v1::ManifestFields& fields, const std::string& folder);

// "mhsm-{NAME}-{YYYYMMDDHHmmSS}{cc}", UTC, from the time the request was received.
std::string BackupFolderName(std::string_view hsm_name, absl::Time received);

// The part of a key that a backup carries and a restore must bring back, as one Merkle leaf: all that people
// and applications see of it, nothing that a restore renews (data set, incarnation, revision, wrapping, dates
// of deletion).
Bytes InventoryLeaf(const KeyHead& head, std::span<const VersionRecord> versions);

}  // namespace hsm
