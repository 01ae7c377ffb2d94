#include "common/rpc_status.h"

#include <grpcpp/grpcpp.h>

#include <string>

#include "common/error.h"

namespace hsm {
namespace {

constexpr char kMetadataKey[] = "hsm-error-bin";

v1::Reason ReasonOfCode(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::CANCELLED:
      return v1::REASON_CANCELLED;
    case grpc::StatusCode::INVALID_ARGUMENT:
      return v1::REASON_INVALID_ARGUMENT;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return v1::REASON_DEADLINE_EXCEEDED;
    case grpc::StatusCode::PERMISSION_DENIED:
      return v1::REASON_PERMISSION_DENIED;
    case grpc::StatusCode::UNAUTHENTICATED:
      return v1::REASON_UNAUTHENTICATED;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return v1::REASON_LIMIT_EXCEEDED;
    case grpc::StatusCode::UNIMPLEMENTED:
      return v1::REASON_UNSUPPORTED;
    case grpc::StatusCode::UNAVAILABLE:
      return v1::REASON_UNREACHABLE;
    default:
      return v1::REASON_INTERNAL;
  }
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status, grpc::ServerContextBase* context) {
  if (status.ok()) return grpc::Status::OK;
  v1::ErrorDetail detail = DetailOf(status);
  if (context != nullptr) context->AddTrailingMetadata(kMetadataKey, detail.SerializeAsString());
  return grpc::Status(static_cast<grpc::StatusCode>(FacesOf(detail.reason()).code), detail.message());
}

absl::Status FromGrpc(const grpc::Status& status, const grpc::ClientContext& context) {
  if (status.ok()) return absl::OkStatus();
  const auto& trailing = context.GetServerTrailingMetadata();
  if (auto found = trailing.find(kMetadataKey); found != trailing.end()) {
    v1::ErrorDetail detail;
    if (detail.ParseFromArray(found->second.data(), static_cast<int>(found->second.size())) &&
        detail.reason() != v1::REASON_UNSPECIFIED) {
      return Error(detail);
    }
  }
  return Error(ReasonOfCode(status.error_code()), status.error_message());
}

absl::Status StreamFailure(const grpc::Status& status, const grpc::ClientContext& context,
                           std::string_view name) {
  absl::Status failure = FromGrpc(status, context);
  switch (ReasonOf(failure)) {
    case v1::REASON_UNSPECIFIED:
      return Error(v1::REASON_UNREACHABLE, std::string(name) + " ended the stream");
    case v1::REASON_INTERNAL:
    case v1::REASON_CANCELLED:
    case v1::REASON_UNREACHABLE:
      return Error(v1::REASON_UNREACHABLE, std::string(name) + ": " + DetailOf(failure).message());
    default:
      return failure;
  }
}

}  // namespace hsm
