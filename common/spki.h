#pragma once
// Public keys from their SubjectPublicKeyInfo.
#include <memory>

#include "common/bytes.h"

struct evp_pkey_st;

namespace hsm {

// Null for anything that is not one whole RSA or EC public key (a point off its curve included). The
// encodings that this project writes take a short way: OpenSSL 3.0's general decoder sets itself up anew for
// each key, which costs twice as much as the verification that follows. Other encodings take the general way.
std::shared_ptr<evp_pkey_st> PublicKeyFromSpki(ByteView spki);

}  // namespace hsm
