#include "node/session_pool.h"

#include "common/mutant.h"

namespace hsm {

absl::StatusOr<SessionPool::Lease> SessionPool::Take() {
  {
    MutexLock lock(mutex_);
    while (out_ >= sessions_max_) returned_.Wait(mutex_);
    ++out_;
    if (!idle_.empty()) {
      pkcs11::Session session = std::move(idle_.back());
      idle_.pop_back();
      return Lease(this, std::move(session));
    }
  }
  auto session = pkcs11::Session::Open(library_, slot_);
  if (session.ok()) return Lease(this, *std::move(session));
  MutexLock lock(mutex_);
  --out_;
  returned_.NotifyAll();
  return session.status();
}

void SessionPool::Return(pkcs11::Session session) {
  std::vector<pkcs11::Session> closed;  // outside the lock: closing is a token call
  MutexLock lock(mutex_);
  --out_;
  if (session.poisoned() && !HSM_MUTANT("pool-poisoned-session")) {
    closed.push_back(std::move(session));
  } else {
    idle_.push_back(std::move(session));
  }
  if (out_ + 1 == sessions_max_) returned_.NotifyAll();
}

void SessionPool::CloseIdle() {
  std::vector<pkcs11::Session> closed;
  MutexLock lock(mutex_);
  closed.swap(idle_);
}

size_t SessionPool::idle() const {
  MutexLock lock(mutex_);
  return idle_.size();
}

}  // namespace hsm
