#include "coordinator/server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/resource_quota.h>

#include <atomic>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/status_macros.h"
#include "coordinator/handlers.h"

namespace hsm {
namespace {

constexpr int kThreadsMax = 768;  // crypto streams have one each; the rest is for calls

}  // namespace

class CoordinatorServer::Impl {
 public:
  explicit Impl(Front& front) {
    services_.push_back(MakeKeyHandlers(front));
    services_.push_back(MakeCryptoHandlers(front, draining_));
    services_.push_back(MakeHsmHandlers(front));
    services_.push_back(MakeJobHandlers(front));
    services_.push_back(MakeBackupHandlers(front));
    services_.push_back(MakeMembershipHandlers(front));
  }
  ~Impl() { Drain(absl::ZeroDuration()); }

  absl::Status Start(const std::string& listen, const TlsFiles& tls) {
    HSM_ASSIGN_OR_RETURN(auto credentials, MakeServerCredentials(tls));
    grpc::ServerBuilder builder;
    SetServerArguments(builder);
    grpc::ResourceQuota quota("coordinator");
    quota.SetMaxThreads(kThreadsMax);
    builder.SetResourceQuota(quota);
    builder.AddListeningPort(listen, credentials, &port_);
    for (auto& service : services_) builder.RegisterService(service.get());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) return Error(v1::REASON_CONFLICT, "cannot listen on " + listen);
    return absl::OkStatus();
  }

  void Drain(absl::Duration grace) {
    if (server_ == nullptr) return;
    draining_.store(true);
    server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(grace));
    server_->Wait();
    server_.reset();
  }

  int port() const { return port_; }

 private:
  std::atomic<bool> draining_{false};
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

CoordinatorServer::CoordinatorServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CoordinatorServer::~CoordinatorServer() = default;

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(const std::string& listen,
                                                                            const TlsFiles& tls,
                                                                            Front& front) {
  auto impl = std::make_unique<Impl>(front);
  HSM_RETURN_IF_ERROR(impl->Start(listen, tls));
  return std::unique_ptr<CoordinatorServer>(new CoordinatorServer(std::move(impl)));
}

int CoordinatorServer::port() const { return impl_->port(); }
void CoordinatorServer::Drain(absl::Duration grace) { impl_->Drain(grace); }

}  // namespace hsm
