#pragma once
#include "common/bytes.h"

namespace hsm::fuzz {

void Record(ByteView input);
void CatalogueRows(ByteView input);
void Manifest(ByteView input);
void Chunk(ByteView input);
void Uri(ByteView input);
void ConfigFile(ByteView input);
void JsonText(ByteView input);
void X509(ByteView input);
void KeyEncoding(ByteView input);
void Text(ByteView input);
void TokenObject(ByteView input);
void UseAuditFile(ByteView input);
void SecurityDomain(ByteView input);

}  // namespace hsm::fuzz
