#include "pkcs11/slot.h"

#include <fmt/format.h>

#include <vector>

#include "common/error.h"
#include "common/status_macros.h"
#include "pkcs11/rv.h"

namespace hsm::pkcs11 {
namespace {

template <size_t size>
std::string Trimmed(const unsigned char (&field)[size]) {
  std::string text(reinterpret_cast<const char*>(field), size);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\0')) text.pop_back();
  return text;
}

absl::StatusOr<std::vector<CK_SLOT_ID>> SlotsWithTokens(const Library& library) {
  constexpr CK_ULONG kSlotsMax = 1024;
  std::vector<CK_SLOT_ID> slots;
  CK_ULONG count = 0;
  // Asking for the number first is what makes modules look for new tokens.
  HSM_RETURN_IF_ERROR(FromRv(library->C_GetSlotList(CK_TRUE, nullptr, &count), "C_GetSlotList"));
  slots.resize(std::max<CK_ULONG>(count, kSlotsMax));
  count = slots.size();
  HSM_RETURN_IF_ERROR(FromRv(library->C_GetSlotList(CK_TRUE, slots.data(), &count), "C_GetSlotList"));
  slots.resize(count);
  return slots;
}

}  // namespace

absl::StatusOr<TokenInfo> ReadTokenInfo(const Library& library, CK_SLOT_ID slot) {
  CK_TOKEN_INFO info = {};
  HSM_RETURN_IF_ERROR(FromRv(library->C_GetTokenInfo(slot, &info), "C_GetTokenInfo"));
  return TokenInfo{slot,
                   Trimmed(info.label),
                   Trimmed(info.manufacturerID),
                   Trimmed(info.model),
                   Trimmed(info.serialNumber),
                   info.flags};
}

absl::StatusOr<TokenInfo> FindToken(const Library& library, const std::string& label,
                                    const std::string& serial) {
  if (label.empty() && serial.empty())
    return Error(v1::REASON_CONFIG_INVALID,
                 "the token needs a label or a serial number in the configuration");
  HSM_ASSIGN_OR_RETURN(std::vector<CK_SLOT_ID> slots, SlotsWithTokens(library));
  std::vector<TokenInfo> found;
  for (CK_SLOT_ID slot : slots) {
    auto info = ReadTokenInfo(library, slot);
    if (!info.ok() || !(info->flags & CKF_TOKEN_INITIALIZED)) continue;
    if ((label.empty() || info->label == label) && (serial.empty() || info->serial == serial))
      found.push_back(*info);
  }
  std::string wanted = fmt::format("label '{}', serial '{}'", label, serial);
  if (found.empty()) return Error(v1::REASON_NOT_FOUND, fmt::format("no initialised token with {}", wanted));
  if (found.size() > 1)
    return Error(v1::REASON_CONFIG_INVALID, fmt::format("several tokens with {}", wanted));
  return found[0];
}

absl::StatusOr<CK_SLOT_ID> FindUninitializedSlot(const Library& library) {
  HSM_ASSIGN_OR_RETURN(std::vector<CK_SLOT_ID> slots, SlotsWithTokens(library));
  for (CK_SLOT_ID slot : slots) {
    auto info = ReadTokenInfo(library, slot);
    if (info.ok() && !(info->flags & CKF_TOKEN_INITIALIZED)) return slot;
  }
  return Error(v1::REASON_NOT_FOUND, "the module has no slot with an uninitialised token");
}

}  // namespace hsm::pkcs11
