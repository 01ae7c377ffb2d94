// The manifest of a backup folder, before anything of it is believed. Input: the stored file.
#include "coordinator/backup_file.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {

void Manifest(ByteView input) {
  auto file = ParseManifestFile(input);
  if (!file.ok()) return;
  internal::v1::ManifestFields fields;
  if (fields.ParseFromString(file->manifest())) (void)CheckManifest(fields, fields.folder());
}

}  // namespace hsm::fuzz
