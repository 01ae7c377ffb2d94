#pragma once
// Every cap in one place. A configured value may be lower, never higher, unless the comment says so.
#include <cstddef>
#include <cstdint>

namespace hsm::limits {

// Requests.
inline constexpr size_t kKeyNameBytesMax = 127;
inline constexpr size_t kTagsMax = 15;
inline constexpr size_t kTagBytesMax = 256;                               // name, and value
inline constexpr uint32_t kKeyVersionsMax = 100;                          // of one key
inline constexpr uint32_t kRetentionDaysMin = 7, kRetentionDaysMax = 90;  // of what is deleted
inline constexpr size_t kCryptoDataBytesMax = 64 * 1024;
inline constexpr size_t kAadBytesMax = 16 * 1024;
inline constexpr size_t kHmacDataBytesMax = 16 * 1024;
inline constexpr uint32_t kRandomBytesMax = 128;
inline constexpr uint32_t kPageSizeMax = 500;
inline constexpr uint32_t kPageSizeDefault = 100;
inline constexpr size_t kMessageBytesMax = 8 * 1024 * 1024;  // any gRPC message
inline constexpr size_t kErrorTextBytesMax = 1024;

// Roles. What a configuration may allow at most; its defaults are Azure's, 50 / 50 / 10.
inline constexpr uint32_t kRoleDefinitionsMax = 500;
inline constexpr uint32_t kRoleAssignmentsMax = 500;     // over the whole HSM, and at each key
inline constexpr size_t kConfiguredAssignmentsMax = 80;  // fit one transaction of the store
inline constexpr size_t kRoleNameBytesMax = 128;
inline constexpr size_t kRoleDescriptionBytesMax = 1024;

// Crypto streams.
inline constexpr size_t kBatchOpsMax = 64;
inline constexpr size_t kBatchBytesMax = 1024 * 1024;
inline constexpr size_t kCombinerQueueMax = 4096;  // callers waiting in one process
inline constexpr uint32_t kCryptoTimeoutMsDefault = 5'000;
inline constexpr uint32_t kCryptoTimeoutMsMax = 60'000;

// Op ids.
inline constexpr int64_t kOpIdAgeMsMax = 24LL * 3600 * 1000;
inline constexpr int64_t kOpRecordKeptMs = 48LL * 3600 * 1000;
inline constexpr int64_t kOpIdFutureMsMax = 5LL * 60 * 1000;

// Cluster.
inline constexpr uint32_t kServingLeaseMs = 3'000;
inline constexpr uint32_t kHeartbeatMs = 1'000;
inline constexpr uint32_t kPartitionsMax = 16;
inline constexpr uint32_t kInstallTimeoutMs = 5'000;
inline constexpr size_t kSyncRecordsPerCall = 200;
inline constexpr size_t kBuckets = 256;

// Store (shared by all engines, whatever they could do).
inline constexpr size_t kStoreOpsMax = 96;  // operations, and guards, in one transaction
inline constexpr size_t kStoreTransactionBytesMax = 1024 * 1024;
inline constexpr size_t kStoreValueBytesMax = 256 * 1024;
inline constexpr size_t kStoreKeyBytesMax = 512;
inline constexpr size_t kStorePageMax = 500;
inline constexpr size_t kStorePageBytesMax =
    4 * 1024 * 1024;  // a page ends early, but has one record at least

// Backup.
inline constexpr size_t kExportVersionsPerCall = 64;
inline constexpr size_t kChunkBytesTarget = 4 * 1024 * 1024;
inline constexpr int64_t kRestoreGateSeconds = 30 * 60;

}  // namespace hsm::limits
