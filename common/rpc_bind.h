#pragma once
// Binds the methods of a generated service class to an RpcServer. For handler files only: it brings gRPC's
// headers.
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <memory>
#include <string>
#include <utility>

#include "common/error.h"
#include "common/rpc_server.h"
#include "common/rpc_status.h"

namespace hsm {

template <typename Request>
grpc::Status ParseMessage(grpc::ByteBuffer& bytes, Request& message, grpc::ServerContext& context) {
  if (grpc::SerializationTraits<Request>::Deserialize(&bytes, &message).ok()) return grpc::Status::OK;
  return ToGrpc(Error(v1::REASON_INVALID_ARGUMENT, "the message is not of the type that this call takes"),
                &context);
}

// `Service` is the generated class (it knows its name); `Handlers` overrides its methods.
template <typename Service, typename Handlers>
class RpcBinder {
 public:
  RpcBinder(RpcServer& server, std::shared_ptr<Handlers> handlers)
      : server_(server), handlers_(std::move(handlers)) {}

  template <typename Request, typename Response>
  RpcBinder& Unary(std::string_view method,
                   grpc::Status (Handlers::*call)(grpc::ServerContext*, const Request*, Response*),
                   RpcServer::Urgency urgency = RpcServer::Urgency::kNormal) {
    auto serve = [handlers = handlers_, call](grpc::ServerContext& context, grpc::ByteBuffer& in,
                                              grpc::ByteBuffer& out) {
      Request request;
      Response response;
      grpc::Status status = ParseMessage(in, request, context);
      if (status.ok()) status = ((*handlers).*call)(&context, &request, &response);
      bool own = false;
      if (status.ok()) status = grpc::SerializationTraits<Response>::Serialize(response, &out, &own);
      return status;
    };
    server_.AddUnary(Path(method), std::move(serve), urgency);
    return *this;
  }

  // open(grpc::ServerContext&) -> StatusOr<unique_ptr<BatchSession>>
  template <typename Open>
  RpcBinder& Stream(std::string_view method, Open open) {
    server_.AddStream(Path(method), [handlers = handlers_, open](grpc::ServerContext& context) {
      return open(*handlers, context);
    });
    return *this;
  }

 private:
  static std::string Path(std::string_view method) {
    return "/" + std::string(Service::service_full_name()) + "/" + std::string(method);
  }

  RpcServer& server_;
  const std::shared_ptr<Handlers> handlers_;
};

}  // namespace hsm
