#include <grpcpp/grpcpp.h>

#include "common/error.h"
#include "common/rpc_bind.h"
#include "coordinator/handlers.h"
#include "coordinator/jobs.h"
#include "hsm/v1/job.grpc.pb.h"

namespace hsm {
namespace {

class JobHandlers final : public v1::JobService::Service {
 public:
  explicit JobHandlers(Front& front) : front_(front) {}

#define HSM_JOB_CALL(Method, Request, Response)                                                          \
  grpc::Status Method(grpc::ServerContext* context, const v1::Request* request, v1::Response* response)  \
      override {                                                                                         \
    return Serve(front_, context, "JobService." #Method, [&](const Caller& caller) -> absl::Status {     \
      if (front_.jobs == nullptr) return Error(v1::REASON_UNSUPPORTED, "this coordinator runs no jobs"); \
      return Fill(response, front_.jobs->Method(caller, *request));                                      \
    });                                                                                                  \
  }
  HSM_JOB_CALL(GetJob, GetJobRequest, Job)
  HSM_JOB_CALL(ListJobs, ListJobsRequest, ListJobsResponse)
#undef HSM_JOB_CALL

 private:
  Front& front_;
};

}  // namespace

void BindJobHandlers(Front& front, RpcServer& server) {
  RpcBinder<v1::JobService, JobHandlers>(server, std::make_shared<JobHandlers>(front))
      .Unary("GetJob", &JobHandlers::GetJob)
      .Unary("ListJobs", &JobHandlers::ListJobs);
}

}  // namespace hsm
