#pragma once
// The JSON documents and tables of the service's answers. snake_case; an absent figure is null, never 0.
#include <string>
#include <string_view>

#include "common/json.h"
#include "hsm/v1/backup.pb.h"
#include "hsm/v1/hsm.pb.h"
#include "hsm/v1/job.pb.h"
#include "hsm/v1/key.pb.h"
#include "hsm/v1/role.pb.h"

namespace hsm::cli {

Json KeyJson(const v1::Key& key);  // {key: a JWK with kid, attributes, tags, name, version, revision}
std::string KeyTable(const v1::Key& key);
Json DeletedKeyJson(
    const v1::DeletedKey& deleted);  // KeyJson with deleted_date, scheduled_purge_date, recovery_id
std::string DeletedKeyTable(const v1::DeletedKey& deleted);
void AddPublicNumbers(const v1::PublicKey& key, Json& jwk);  // n and e, or x and y; nothing for oct and lists
Json ProofsJson(std::string_view name, const v1::ProveKeyResponse& proofs);
std::string ProofsTable(const v1::ProveKeyResponse& proofs);

Json StatusJson(const v1::HsmStatus& status);
std::string StatusTable(const v1::HsmStatus& status);
std::string PartitionsTable(const v1::HsmStatus& status);  // the part of it with a line per partition
Json PartitionJson(const v1::PartitionStatus& partition);
std::string PartitionStateText(v1::PartitionState state);  // "READY"
Json AuditJson(const v1::ListAuditResponse& page);

Json RoleDefinitionJson(const v1::RoleDefinition& role);  // Azure's names, in snake_case
std::string RoleDefinitionTable(const v1::RoleDefinition& role);
Json RoleAssignmentJson(const v1::RoleAssignment& assignment);
std::string RoleAssignmentTable(const v1::RoleAssignment& assignment);

Json ForecastJson(const v1::ThroughputForecast& forecast);
Json MeasuredJson(const v1::ThroughputMeasured& measured);
Json PlanJson(const v1::BackupPlan& plan);
std::string PlanTable(const v1::BackupPlan& plan);
Json BackupSummaryJson(const v1::BackupSummary& backup);
std::string JobStatusText(v1::JobStatus status);  // "succeeded"
// The fields of its result stand beside job_id and status: what `backup start --wait` prints.
Json JobJson(const v1::Job& job);
std::string JobTable(const v1::Job& job);

std::string RatioText(bool present, double ratio);      // "87 %", "-"
std::string SecondsText(bool present, double seconds);  // "1.2 s", "-"

}  // namespace hsm::cli
