#pragma once
// One function per noun; each declares its verbs under `root`.
#include "cli/options.h"

namespace hsm::cli {

void AddKeyCommands(Command& root);
void AddCryptoCommands(Command& key, Command& root);  // verbs of `key` that use keys, and `random`
void AddStatusCommands(Command& root);                // status, partition, audit
void AddBackupCommands(Command& root);                // backup, restore, job
void AddDevCommands(Command& root);
void AddBenchCommand(Command& root);

}  // namespace hsm::cli
