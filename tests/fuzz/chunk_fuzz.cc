// A chunk of a backup. Input: the stored object, taken with an entry of the manifest that describes just it,
// so that the parser is reached; and as the text inside a chunk, sealed under a known key.
#include "common/aead.h"
#include "common/check.h"
#include "coordinator/backup_file.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {
namespace {

namespace rpc = internal::v1;

const SecretBytes& Key() {
  static const SecretBytes key{Bytes(kAeadKeyBytes, 7)};
  return key;
}

rpc::ChunkEntry EntryOf(ByteView stored, const ChunkPlace& place) {
  rpc::ChunkEntry entry;
  entry.set_place(place.place);
  entry.set_object(place.ObjectName());
  entry.set_bytes(stored.size());
  entry.set_sha256(ToString(Sha256(stored)));
  return entry;
}

}  // namespace

void Chunk(ByteView input) {
  ChunkPlace place;
  if (input.size() >= 28) {
    for (uint8_t byte : input.subspan(8, 4)) place.place = (place.place << 8) | byte;
    place.attempt = *ChunkAttempt::From(StringView(input.subspan(12, 16)));
  }
  const rpc::ChunkEntry claimed = EntryOf(input, place);
  (void)CheckStoredChunk(input, place.backup, claimed);
  (void)OpenChunk(input, place, claimed, Key());

  rpc::Chunk chunk;
  if (!chunk.ParseFromArray(input.data(), static_cast<int>(input.size()))) return;
  place.place = chunk.place();
  auto sealed = SealChunk(chunk, place, Key());
  HSM_CHECK(sealed.ok());
  rpc::ChunkEntry entry = EntryOf(*sealed, place);
  entry.set_keys(static_cast<uint32_t>(chunk.keys_size()));
  for (const rpc::BackupKey& key : chunk.keys()) {
    entry.set_versions(entry.versions() + static_cast<uint32_t>(key.versions_size()));
    if (auto head = DecodeHead(key.head()); head.ok()) (void)InventoryLeaf(*head, {});
  }
  HSM_CHECK(CheckStoredChunk(*sealed, place.backup, entry).ok());
  HSM_CHECK(OpenChunk(*sealed, place, entry, Key()).ok());
}

}  // namespace hsm::fuzz
