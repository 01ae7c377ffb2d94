#pragma once
// Where this build comes from and where it is. Their definitions are generated with the build: paths in
// compiler options would let a compiler cache hand out an object that names another build's programs.
#include <string>

namespace hsm {

std::string SourceDir();
std::string BinaryDir();

}  // namespace hsm
