#include "node/watchdog.h"

#include <unistd.h>

#include "common/log.h"

namespace hsm {

Watchdog::Watchdog(Clock& clock, absl::Duration limit, std::function<void(const char*)> overrun)
    : clock_(clock),
      limit_(limit),
      overrun_(std::move(overrun)),
      thread_("watchdog", [this] { WatchLoop(); }) {}

Watchdog::~Watchdog() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  thread_.Join();
}

Watchdog::Guard::Guard(Watchdog& watchdog, const char* call, int times) : slot_(nullptr) {
  int64_t ends = absl::ToInt64Nanoseconds(watchdog.clock_.Uptime() + watchdog.limit_ * times);
  thread_local uint32_t mine = watchdog.next_.fetch_add(1);
  // A thread finds its own slot free unless there are more than 256 threads or a guard within a guard.
  for (uint32_t i = 0; i < watchdog.slots_.size(); ++i) {
    Slot& slot = watchdog.slots_[(mine + i) % watchdog.slots_.size()];
    int64_t free = 0;
    if (slot.ends_ns.load(std::memory_order_relaxed) != 0) continue;
    slot.call.store(call, std::memory_order_relaxed);
    if (slot.ends_ns.compare_exchange_strong(free, ends)) {
      slot_ = &slot.ends_ns;
      return;
    }
  }
}

Watchdog::Guard::~Guard() {
  if (slot_ != nullptr) slot_->store(0, std::memory_order_release);
}

void Watchdog::WatchLoop() {
  absl::Duration pause = std::max(limit_ / 10, absl::Milliseconds(50));
  while (true) {
    {
      MutexLock lock(mutex_);
      if (clock_.Await(mutex_, changed_, [this]() HSM_NO_ANALYSIS { return stop_; }, pause)) return;
    }
    int64_t now = absl::ToInt64Nanoseconds(clock_.Uptime());
    for (Slot& slot : slots_) {
      int64_t ends = slot.ends_ns.load();
      if (ends == 0 || now < ends) continue;
      const char* call = slot.call.load();
      LogError("a token call overran its limit: the process ends", {{"call", call == nullptr ? "?" : call}});
      if (overrun_ == nullptr) _exit(kExitCode);
      overrun_(call);
      return;
    }
  }
}

namespace {

constexpr int kGenerateTimes = 6;
constexpr int kSelfTestTimes = 6;

class WatchedToken final : public Token {
 public:
  WatchedToken(Token& inner, Watchdog& watchdog) : inner_(inner), watchdog_(watchdog) {}

  TokenIdentity Identity() const override { return inner_.Identity(); }
  absl::StatusOr<GeneratedKey> Generate(const KeySpec& spec, const ObjectPolicy& policy) override {
    Watchdog::Guard guard(watchdog_, "Generate", kGenerateTimes);
    return inner_.Generate(spec, policy);
  }
  absl::StatusOr<TokenKey> Unwrap(Kek kek, const KeySpec& spec, const ObjectPolicy& policy,
                                  ByteView wrapped) override {
    Watchdog::Guard guard(watchdog_, "Unwrap");
    return inner_.Unwrap(kek, spec, policy, wrapped);
  }
  absl::StatusOr<Bytes> Wrap(Kek kek, TokenKey key) override {
    Watchdog::Guard guard(watchdog_, "Wrap");
    return inner_.Wrap(kek, key);
  }
  void Destroy(TokenKey key) override {
    Watchdog::Guard guard(watchdog_, "Destroy");
    inner_.Destroy(key);
  }
  absl::StatusOr<Bytes> Sign(TokenKey key, const KeySpec& spec, v1::Algorithm algorithm,
                             ByteView data) override {
    Watchdog::Guard guard(watchdog_, "Sign");
    return inner_.Sign(key, spec, algorithm, data);
  }
  absl::StatusOr<SecretBytes> RsaDecrypt(TokenKey key, const KeySpec& spec, v1::Algorithm algorithm,
                                         ByteView ciphertext) override {
    Watchdog::Guard guard(watchdog_, "RsaDecrypt");
    return inner_.RsaDecrypt(key, spec, algorithm, ciphertext);
  }
  absl::StatusOr<GcmResult> GcmEncrypt(TokenKey key, ByteView plaintext, ByteView aad) override {
    Watchdog::Guard guard(watchdog_, "GcmEncrypt");
    return inner_.GcmEncrypt(key, plaintext, aad);
  }
  absl::StatusOr<SecretBytes> GcmDecrypt(TokenKey key, ByteView ciphertext, ByteView iv, ByteView tag,
                                         ByteView aad) override {
    Watchdog::Guard guard(watchdog_, "GcmDecrypt");
    return inner_.GcmDecrypt(key, ciphertext, iv, tag, aad);
  }
  absl::StatusOr<Bytes> CbcEncrypt(TokenKey key, ByteView plaintext, ByteView iv, bool pad) override {
    Watchdog::Guard guard(watchdog_, "CbcEncrypt");
    return inner_.CbcEncrypt(key, plaintext, iv, pad);
  }
  absl::StatusOr<SecretBytes> CbcDecrypt(TokenKey key, ByteView ciphertext, ByteView iv, bool pad) override {
    Watchdog::Guard guard(watchdog_, "CbcDecrypt");
    return inner_.CbcDecrypt(key, ciphertext, iv, pad);
  }
  absl::StatusOr<Bytes> KeyWrap(TokenKey key, ByteView plaintext_key) override {
    Watchdog::Guard guard(watchdog_, "KeyWrap");
    return inner_.KeyWrap(key, plaintext_key);
  }
  absl::StatusOr<SecretBytes> KeyUnwrap(TokenKey key, ByteView wrapped) override {
    Watchdog::Guard guard(watchdog_, "KeyUnwrap");
    return inner_.KeyUnwrap(key, wrapped);
  }
  absl::StatusOr<Bytes> Hmac(TokenKey key, ByteView data) override {
    Watchdog::Guard guard(watchdog_, "Hmac");
    return inner_.Hmac(key, data);
  }
  absl::StatusOr<Bytes> Cmac(TokenKey key, ByteView data) override {
    Watchdog::Guard guard(watchdog_, "Cmac");
    return inner_.Cmac(key, data);
  }
  absl::StatusOr<Bytes> RandomBytes(size_t size) override {
    Watchdog::Guard guard(watchdog_, "RandomBytes");
    return inner_.RandomBytes(size);
  }
  absl::StatusOr<Bytes> KekFingerprint(Kek kek) override {
    Watchdog::Guard guard(watchdog_, "KekFingerprint");
    return inner_.KekFingerprint(kek);
  }
  absl::Status SelfTest() override {
    Watchdog::Guard guard(watchdog_, "SelfTest", kSelfTestTimes);
    return inner_.SelfTest();
  }
  absl::Status Probe() override {
    Watchdog::Guard guard(watchdog_, "Probe");
    return inner_.Probe();
  }

 private:
  Token& inner_;
  Watchdog& watchdog_;
};

}  // namespace

std::unique_ptr<Token> WatchToken(Token& inner, Watchdog& watchdog) {
  return std::make_unique<WatchedToken>(inner, watchdog);
}

}  // namespace hsm
