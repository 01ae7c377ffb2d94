#pragma once
#include <string>

#include "common/bytes.h"

namespace hsm::fuzz {

// One file in memory for parsers that take a path; its content is replaced by each call. Returns its path.
std::string PutInFile(const std::string& name, ByteView content);
// The folder it is in, made at the first call and gone with the process.
const std::string& Folder();

}  // namespace hsm::fuzz
