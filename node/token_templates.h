#pragma once
// What objects in a token may do: DESIGN 4. Every usage attribute is always spelled out, since defaults
// differ between modules and most are too generous.
#include <string>

#include "common/ids.h"
#include "node/token.h"
#include "pkcs11/attributes.h"

namespace hsm {

inline constexpr std::string_view kKekLabelPrefix = "qhsm:kek:";
inline constexpr std::string_view kProbeLabelPrefix = "qhsm:probe:";

std::string DomainTagOf(const HsmId& hsm, uint32_t generation);  // "hex:1"
std::string KekLabel(Kek kek, const std::string& domain_tag);    // "qhsm:kek:replication:hex:1"

// A KEK as the SO makes it: a TRUSTED public session object. KekPromotion() then makes it the user's token
// object.
pkcs11::Template KekTemplate(Kek kek, const std::string& domain_tag, CK_MECHANISM_TYPE kwp);
pkcs11::Template KekPromotion();

// A key made or unwrapped for `policy`, without CLASS and KEY_TYPE. It fits the KEKs' WRAP_TEMPLATE (unless
// it is made to wrap others) and repeats their UNWRAP_TEMPLATE word by word, as SoftHSM wants it.
pkcs11::Template ObjectTemplate(const KeySpec& spec, const ObjectPolicy& policy);
// The same key as an HMAC key: an oct key is one object for AES and, where HMAC is wanted, another for that.
pkcs11::Template HmacTemplate();
// CLASS and KEY_TYPE of the object made for `spec` and `policy`.
pkcs11::Template KindTemplate(const KeySpec& spec, const ObjectPolicy& policy);
// A public key object that may do nothing; generated beside a private key and thrown away.
pkcs11::Template IdlePublicTemplate();

// The joiner's key pair, made by the SO: the private half can do nothing but unwrap by OAEP.
pkcs11::Template JoinPublicTemplate(CK_ULONG modulus_bits);
pkcs11::Template JoinPrivateTemplate();
// The same public key on the sponsor, TRUSTED.
pkcs11::Template SponsorPublicTemplate(ByteView modulus, ByteView exponent);

}  // namespace hsm
