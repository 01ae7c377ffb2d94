// Values of the coordinator's store, and the sealed records inside them: what a damaged or edited database
// holds.
#include "common/record.h"
#include "store/catalogue.h"
#include "tests/fuzz/targets.h"

namespace hsm::fuzz {
namespace {

namespace rpc = internal::v1;

template <typename Message>
absl::StatusOr<CatalogueRow<Message>> Row(ByteView input) {
  return ParseRow<Message>({.key = "/key", .value = ToString(input)});
}

}  // namespace

void CatalogueRows(ByteView input) {
  if (auto row = Row<rpc::SealedRecord>(input); row.ok()) (void)DecodeHead(row->value);
  if (auto row = Row<rpc::StoredVersion>(input); row.ok()) (void)DecodeVersion(row->value.record());
  if (auto row = Row<rpc::StoredTombstone>(input); row.ok()) (void)DecodeHead(row->value.head());
  if (rpc::KeyRecords records; records.ParseFromArray(input.data(), static_cast<int>(input.size()))) {
    (void)PutKeyOps(1, records, {"p1"});
  }
  (void)Row<rpc::StoredHsm>(input);
  (void)Row<rpc::StoredJob>(input);
  (void)Row<rpc::StoredOp>(input);
}

}  // namespace hsm::fuzz
