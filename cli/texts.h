#pragma once
// Texts made from the command line's own declaration, so that they cannot fall behind it.
#include <string>

#include "cli/options.h"

namespace hsm::cli {

// A script that bash sources: completes commands, flags, choices and file names.
std::string BashCompletion(const CommandText& program);
// One page in section 1 (roff, man macros) with every command, its options and its examples.
std::string ManPage(const CommandText& program, const std::string& version);

}  // namespace hsm::cli
