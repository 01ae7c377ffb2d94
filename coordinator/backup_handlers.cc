#include <grpcpp/grpcpp.h>

#include "common/error.h"
#include "common/rpc_bind.h"
#include "coordinator/handlers.h"
#include "coordinator/jobs.h"
#include "hsm/v1/backup.grpc.pb.h"

namespace hsm {
namespace {

class BackupHandlers final : public v1::BackupService::Service {
 public:
  explicit BackupHandlers(Front& front) : front_(front) {}

#define HSM_JOB_CALL(Method, Request, Response)                                                          \
  grpc::Status Method(grpc::ServerContext* context, const v1::Request* request, v1::Response* response)  \
      override {                                                                                         \
    return Serve(front_, context, "BackupService." #Method, [&](const Caller& caller) -> absl::Status {  \
      if (front_.jobs == nullptr) return Error(v1::REASON_UNSUPPORTED, "this coordinator runs no jobs"); \
      return Fill(response, front_.jobs->Method(caller, *request));                                      \
    });                                                                                                  \
  }
  HSM_JOB_CALL(PlanBackup, PlanBackupRequest, BackupPlan)
  HSM_JOB_CALL(StartBackup, StartBackupRequest, StartJobResponse)
  HSM_JOB_CALL(ListBackups, ListBackupsRequest, ListBackupsResponse)
  HSM_JOB_CALL(VerifyBackup, VerifyBackupRequest, BackupSummary)
  HSM_JOB_CALL(StartRestore, StartRestoreRequest, StartJobResponse)
  HSM_JOB_CALL(RollbackRestore, RollbackRestoreRequest, RestoreResult)
#undef HSM_JOB_CALL

 private:
  Front& front_;
};

}  // namespace

void BindBackupHandlers(Front& front, RpcServer& server) {
  RpcBinder<v1::BackupService, BackupHandlers>(server, std::make_shared<BackupHandlers>(front))
      .Unary("PlanBackup", &BackupHandlers::PlanBackup)
      .Unary("StartBackup", &BackupHandlers::StartBackup)
      .Unary("ListBackups", &BackupHandlers::ListBackups)
      .Unary("VerifyBackup", &BackupHandlers::VerifyBackup)
      .Unary("StartRestore", &BackupHandlers::StartRestore)
      .Unary("RollbackRestore", &BackupHandlers::RollbackRestore);
}

}  // namespace hsm
