#pragma once
#include <vector>

#include "common/mutex.h"
#include "pkcs11/session.h"

namespace hsm {

// Sessions for operations, one caller at a time each. Thread-safe. A session that returned an error after an
// Init is closed, not pooled: the token may think the operation is still going on.
class SessionPool {
 public:
  SessionPool(const pkcs11::Library& library, CK_SLOT_ID slot, size_t sessions_max)
      : library_(library), slot_(slot), sessions_max_(sessions_max) {}

  class Lease {
   public:
    Lease(Lease&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), session_(std::move(other.session_)) {}
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (pool_ != nullptr) pool_->Return(std::move(session_));
    }
    pkcs11::Session& operator*() { return session_; }
    pkcs11::Session* operator->() { return &session_; }

   private:
    friend class SessionPool;
    Lease(SessionPool* pool, pkcs11::Session session) : pool_(pool), session_(std::move(session)) {}
    SessionPool* pool_;
    pkcs11::Session session_;
  };

  // Waits while sessions_max are out. TOKEN_CAPACITY, TOKEN_FAILED.
  absl::StatusOr<Lease> Take();
  void CloseIdle();  // after the token lost its sessions
  size_t idle() const;

 private:
  void Return(pkcs11::Session session);

  const pkcs11::Library& library_;
  const CK_SLOT_ID slot_;
  const size_t sessions_max_;
  mutable Mutex mutex_;
  CondVar returned_;
  std::vector<pkcs11::Session> idle_ HSM_GUARDED_BY(mutex_);
  size_t out_ HSM_GUARDED_BY(mutex_) = 0;
};

}  // namespace hsm
