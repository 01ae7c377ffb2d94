#pragma once
// One function per noun; each declares its verbs under `root`.
#include "cli/options.h"

namespace hsm::cli {

void AddKeyCommands(Command& root);
void AddCryptoCommands(Command& key, Command& root);  // verbs of `key` that use keys, and `random`
void AddStatusCommands(Command& root);                // status, partition, audit
void AddRoleCommands(Command& root);
void AddBackupCommands(Command& root);  // backup, restore, job
void AddDevCommands(Command& root);
void AddDevClockCommands(Command& dev);
void AddBenchCommand(Command& root);
// metrics, completion, man. `options` is the whole command line, described when a text is asked for.
void AddTextCommands(Command& root, const Options& options, const std::string& version);

}  // namespace hsm::cli
