#pragma once
// The simulated scenarios; each is one seed's run and reports through SimScheduler::Fail.
#include <string_view>
#include <utility>
#include <vector>

#include "tests/sim/seeds.h"

namespace hsm::testing {

void CallersWithoutFaults(SimScheduler& scheduler);
// Crashes, power losses, netsplits, lost and repeated messages, store and token faults, all at once.
void CallersUnderFaults(SimScheduler& scheduler);
// Disable and delete under netsplits: from the acknowledgement on no partition uses the key, whoever asks
// (I2, I3).
void RevocationsAreFinal(SimScheduler& scheduler);
// A coordinator that stood still while another took over (I6, I7).
void AStaleLeaderHasNoEffect(SimScheduler& scheduler);
// A node that lost its disk gets all records again, proves them, and only then serves (I1, I21).
void WipedNodesComeBack(SimScheduler& scheduler);
// A token that holds another key under the right id is found by the proof before it serves.
void APlantedWrongKeyNeverServes(SimScheduler& scheduler);
// A backup, changes, a restore, each while processes die (I8, I13).
void BackupsAndRestores(SimScheduler& scheduler);

const std::vector<std::pair<std::string_view, Scenario>>& AllScenarios();

}  // namespace hsm::testing
