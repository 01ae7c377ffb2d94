#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_cluster.h"
#include "cli/bench_cpu.h"
#include "cli/bench_load.h"
#include "cli/bench_scale.h"
#include "cli/bench_token.h"
#include "cli/commands.h"
#include "cli/connect.h"
#include "cli/dev_cluster.h"
#include "cli/dev_control.h"
#include "cli/output.h"
#include "common/error.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

constexpr double kCalibrationSlack = 0.05;  // a round in which the CPU was off by more than this is dropped
constexpr size_t kRoundsKeptMin = 2;
constexpr uint32_t kOpenWorkersMax = 256;

struct BenchArguments {
  std::vector<std::string> cases = {"sign-p256", "hmac"};
  std::vector<std::string> callers = {"1", "8"};
  std::vector<std::string> faces = {"openssl", "token", "token-session", "cluster"};
  std::string kind = "p256", target;
  uint32_t keys = 100;
  std::string data, key, module = "/usr/lib/softhsm/libsofthsm2.so", pin = "same-core";
  double seconds = 0.5, open_share = 0, rate = 0;
  uint32_t rounds = 6;
};

struct Round {
  LoadResult load;
  double calibration = 0;
  CpuSample cpu;  // an operation's share, us
  double Total() const { return cpu.client + cpu.coordinator.value_or(0) + cpu.node.value_or(0); }
};

struct Row {
  std::string face, op, key, mode = "closed";
  uint32_t callers = 1;
  std::vector<Round> rounds;  // those kept
  uint32_t dropped = 0;
  std::optional<double> r, r_deviation, rate;
};

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

template <typename Get>
std::optional<double> MedianOf(const std::vector<Round>& rounds, Get get) {
  std::vector<double> values;
  for (const Round& round : rounds) {
    std::optional<double> value = get(round);
    if (!value) return std::nullopt;
    values.push_back(*value);
  }
  if (values.empty()) return std::nullopt;
  return Median(values);
}

class Bench {
 public:
  explicit Bench(const BenchArguments& a) : a_(a), time_(absl::Seconds(a.seconds)) {}

  absl::Status Run() {
    HSM_RETURN_IF_ERROR(FindProcesses());
    if (Wants("cluster")) {
      HSM_ASSIGN_OR_RETURN(client_, Connect());
      HSM_ASSIGN_OR_RETURN(status_, client_->GetStatus());
      keys_ = std::make_unique<ClusterKeys>(*client_);
    }
    if (Wants("token") || Wants("token-session")) {
      HSM_ASSIGN_OR_RETURN(token_, BareToken::Make(a_.module));
    }
    if (a_.pin == "same-core") pinned_ = std::make_unique<SameCore>(processes_, 0);
    for (const std::string& name : a_.cases) {
      HSM_ASSIGN_OR_RETURN(BenchCase bench, FindBenchCase(name));
      HSM_RETURN_IF_ERROR(RunCase(bench));
    }
    Print(Document(), Table());
    uint64_t errors = 0;
    for (const Row& row : rows_) {
      for (const Round& round : row.rounds) errors += round.load.errors;
    }
    return errors == 0 ? absl::OkStatus() : AlreadyReported();
  }

 private:
  bool Wants(const std::string& face) const {
    return std::find(a_.faces.begin(), a_.faces.end(), face) != a_.faces.end();
  }

  absl::Status FindProcesses() {
    const char* variable = std::getenv("QHSM_DEV_DATA");
    if (a_.data.empty() && (variable == nullptr || *variable == 0)) return absl::OkStatus();
    HSM_ASSIGN_OR_RETURN(std::string data, DevDirectory(a_.data));
    HSM_ASSIGN_OR_RETURN(std::vector<DevProcessState> states, ListProcesses(data));
    for (const DevProcessState& state : states) {
      if (state.pid == 0) continue;
      (state.name == kCoordinatorName ? processes_.coordinators : processes_.nodes).push_back(state.pid);
    }
    return absl::OkStatus();
  }

  Round Measure(uint32_t callers, const Operation& operation) {
    Round round;
    round.calibration = Calibrate();
    CpuSample before = SampleCpu(processes_);
    round.load = RunClosedLoop(callers, time_, operation);
    AddCpu(before, round);
    return round;
  }

  // Of the time since `before`, to each operation its share.
  void AddCpu(const CpuSample& before, Round& round) const {
    CpuSample after = SampleCpu(processes_);
    double count = std::max<double>(1, static_cast<double>(round.load.operations));
    round.cpu.client = (after.client - before.client) / count;
    if (before.coordinator && after.coordinator)
      round.cpu.coordinator = (*after.coordinator - *before.coordinator) / count;
    if (before.node && after.node) round.cpu.node = (*after.node - *before.node) / count;
  }

  // Drops rounds in which the CPU was not itself; keeps the steadiest two at least.
  static void Drop(Row& row) {
    std::vector<double> speeds;
    for (const Round& round : row.rounds) speeds.push_back(round.calibration);
    double usual = Median(speeds);
    auto off = [usual](const Round& round) {
      return std::abs(round.calibration - usual) / std::max(usual, 1.0);
    };
    std::sort(row.rounds.begin(), row.rounds.end(),
              [&](const Round& a, const Round& b) { return off(a) < off(b); });
    while (row.rounds.size() > kRoundsKeptMin && off(row.rounds.back()) > kCalibrationSlack) {
      row.rounds.pop_back();
      ++row.dropped;
    }
  }

  Row& Keep(Row row) {
    Drop(row);
    rows_.push_back(std::move(row));
    return rows_.back();
  }

  Row Alone(const std::string& face, const BenchCase& bench, const Operation& operation) {
    Row row{.face = face, .op = bench.op, .key = BenchKeyName(bench.key)};
    for (uint32_t i = 0; i < a_.rounds; ++i) row.rounds.push_back(Local(Measure(1, operation)));
    return row;
  }
  static Round Local(Round round) {  // the cluster idles meanwhile; what it burns is not this operation's
    round.cpu.coordinator.reset();
    round.cpu.node.reset();
    return round;
  }

  // What works on many keys: calls in closed loop, jobs once.
  absl::Status RunOfMany(const BenchCase& bench) {
    if (!Wants("cluster") || a_.keys < 1)
      return Error(v1::REASON_INVALID_ARGUMENT, bench.name + " needs keys");
    const BenchKey kind = a_.kind == "p256"      ? BenchKey::kP256
                          : a_.kind == "rsa2048" ? BenchKey::kRsa2048
                                                 : BenchKey::kAes256;
    ScaleKeys keys(*client_, kind, a_.keys);
    HSM_RETURN_IF_ERROR(keys.Make());
    const std::string shown = fmt::format("{} x {}", a_.keys, BenchKeyName(kind));
    if (bench.op == "backup" || bench.op == "restore") {
      if (!a_.target.starts_with('/'))
        return Error(v1::REASON_INVALID_ARGUMENT,
                     "--target takes an absolute path on the coordinator's host");
      Row row{.face = "cluster", .op = bench.op, .key = shown, .mode = "job"};
      for (uint32_t i = 0; i < a_.rounds; ++i) {
        Round round;
        CpuSample before = SampleCpu(processes_);
        HSM_ASSIGN_OR_RETURN(round.load,
                             bench.op == "backup" ? keys.Backup(a_.target) : keys.Restore(a_.target));
        AddCpu(before, round);
        row.rounds.push_back(std::move(round));
      }
      rows_.push_back(std::move(row));
      return absl::OkStatus();
    }
    const Operation operation = bench.op == "list" ? keys.List() : keys.Get();
    for (const std::string& callers : a_.callers) {
      const auto count = static_cast<uint32_t>(std::clamp(std::atoi(callers.c_str()), 1, 1024));
      Row row{.face = "cluster", .op = bench.op, .key = shown, .callers = count};
      for (uint32_t i = 0; i < a_.rounds; ++i) row.rounds.push_back(Measure(count, operation));
      Keep(std::move(row));
    }
    return absl::OkStatus();
  }

  absl::Status RunCase(const BenchCase& bench) {
    if (bench.of_many) return RunOfMany(bench);
    std::optional<Operation> bare;
    if (bench.has_token_twin && Wants("openssl")) {
      HSM_ASSIGN_OR_RETURN(Operation operation, PrepareOpenSsl(bench.key));
      Keep(Alone("openssl", bench, operation));
    }
    if (bench.has_token_twin && Wants("token-session")) {
      HSM_ASSIGN_OR_RETURN(Operation operation, token_->Prepare(bench.key, false));
      Keep(Alone("token-session", bench, operation));
    }
    if (bench.has_token_twin && Wants("token")) {
      HSM_ASSIGN_OR_RETURN(bare, token_->Prepare(bench.key, true));
      if (!Wants("cluster")) Keep(Alone("token", bench, *bare));
    }
    if (!Wants("cluster")) return absl::OkStatus();
    HSM_ASSIGN_OR_RETURN(Operation cluster, keys_->Prepare(bench, a_.key));
    RunClosedLoop(1, std::min(time_, absl::Milliseconds(200)), cluster);  // connections, cold keys
    for (const std::string& callers : a_.callers) {
      HSM_RETURN_IF_ERROR(Compare(bench, static_cast<uint32_t>(std::atoi(callers.c_str())), cluster, bare));
    }
    return absl::OkStatus();
  }

  // Bare token and cluster in turn, A B B A, so that a drift of the machine hits both.
  absl::Status Compare(const BenchCase& bench, uint32_t callers, const Operation& cluster,
                       const std::optional<Operation>& bare) {
    if (callers < 1 || callers > 1024) return Error(v1::REASON_INVALID_ARGUMENT, "--callers takes 1 to 1024");
    Row token{.face = "token", .op = bench.op, .key = BenchKeyName(bench.key)};
    Row chain{.face = "cluster", .op = bench.op, .key = BenchKeyName(bench.key), .callers = callers};
    std::vector<double> ratios;
    for (uint32_t i = 0; i < a_.rounds; ++i) {
      bool token_first = i % 2 == 0;
      if (bare && token_first) token.rounds.push_back(Local(Measure(1, *bare)));
      chain.rounds.push_back(Measure(callers, cluster));
      if (bare && !token_first) token.rounds.push_back(Local(Measure(1, *bare)));
      const Round& b = chain.rounds.back();
      if (bare && b.cpu.node && b.load.operations > 0)
        ratios.push_back(token.rounds.back().Total() / b.Total());
    }
    if (!ratios.empty()) {
      chain.r = Median(ratios);
      std::vector<double> deviations;
      for (double ratio : ratios) deviations.push_back(std::abs(ratio - *chain.r));
      chain.r_deviation = Median(deviations);
    }
    if (bare) {
      token.r = 1.0;
      Keep(std::move(token));
    }
    double saturation =
        MedianOf(chain.rounds, [](const Round& r) { return std::optional(r.load.PerSecond()); }).value_or(0);
    Keep(std::move(chain));
    if (a_.open_share > 0 || a_.rate > 0)
      Open(bench, callers, a_.rate > 0 ? a_.rate : saturation * a_.open_share, cluster);
    return absl::OkStatus();
  }

  void Open(const BenchCase& bench, uint32_t callers, double rate, const Operation& cluster) {
    Row row{.face = "cluster",
            .op = bench.op,
            .key = BenchKeyName(bench.key),
            .mode = "open",
            .callers = callers,
            .rate = rate};
    uint32_t workers = std::min(kOpenWorkersMax, std::max(32u, callers * 4));
    for (uint32_t i = 0; i < a_.rounds; ++i) {
      Round round;
      round.calibration = Calibrate();
      round.load = RunOpenLoop(rate, workers, time_, 1000 + i, cluster);
      row.rounds.push_back(std::move(round));
    }
    Keep(std::move(row));
  }

  static LoadResult Merged(const Row& row) {
    LoadResult all;
    for (const Round& round : row.rounds) all.Merge(round.load);
    return all;
  }

  static Json RowJson(const Row& row) {
    LoadResult all = Merged(row);
    bool any = all.operations > 0, measured = row.mode != "open" && any, timed = row.mode != "job" && any;
    auto figure = [](std::optional<double> value) { return value ? Json(*value) : Json(); };
    auto percentile = [&](double percent) {
      return timed ? Json(all.latency_us.PercentileUs(percent)) : Json();
    };
    Json reasons = Json::Object();
    for (const auto& [reason, count] : all.errors_by_reason) reasons.Add(reason, count);
    Json cpu = Json::Object(
        {{"client",
          measured ? figure(MedianOf(row.rounds, [](const Round& r) { return std::optional(r.cpu.client); }))
                   : Json()},
         {"coordinator",
          measured ? figure(MedianOf(row.rounds, [](const Round& r) { return r.cpu.coordinator; })) : Json()},
         {"node",
          measured ? figure(MedianOf(row.rounds, [](const Round& r) { return r.cpu.node; })) : Json()}});
    return Json::Object(
        {{"face", row.face},
         {"op", row.op},
         {"key", row.key},
         {"callers", row.callers},
         {"mode", row.mode},
         {"rate", figure(row.rate)},
         {"ops_per_second",
          figure(MedianOf(row.rounds, [](const Round& r) { return std::optional(r.load.PerSecond()); }))},
         {"cpu_us", cpu},
         {"r", figure(row.r)},
         {"r_deviation", figure(row.r_deviation)},
         {"p50_us", percentile(50)},
         {"p90_us", percentile(90)},
         {"p99_us", percentile(99)},
         {"p999_us", percentile(99.9)},
         {"max_us", timed ? Json(all.latency_us.max_us()) : Json()},
         {"operations", all.operations},
         {"errors", all.errors},
         {"errors_by_reason", reasons},
         {"generator_lag_us", row.mode == "open" ? Json(all.lag_us_max) : Json()},
         {"rounds", row.rounds.size()},
         {"dropped_rounds", row.dropped}});
  }

  Json Document() const {
    Json rows = Json::Array(), partitions = Json::Array();
    for (const Row& row : rows_) rows.Add(RowJson(row));
    for (const auto& p : status_.partitions()) {
      partitions.Add(Json::Object({{"name", p.name()}, {"backend", p.backend()}, {"profile", p.profile()}}));
    }
    return Json::Object(
        {{"environment", Json::Object({{"cpu", CpuModel()},
                                       {"kernel", KernelRelease()},
                                       {"module", a_.module},
                                       {"pin", pinned_ == nullptr ? "none"
                                               : pinned_->held()  ? "same-core"
                                                                  : "failed"},
                                       {"transport", "mutual TLS, authorisation and use-audit on"},
                                       {"seconds_per_round", a_.seconds},
                                       {"partitions", partitions}})},
         {"rows", rows}});
  }

  std::string Table() const {
    std::vector<std::vector<std::string>> lines = {{"FACE", "OP", "KEY", "CALLERS", "MODE", "OPS/S",
                                                    "CPU CLIENT", "COORD", "NODE", "R", "P50 us", "P99 us",
                                                    "ERRORS", "DROPPED"}};
    for (const Row& row : rows_) {
      Json json = RowJson(row);
      auto number = [&](const char* path, int digits) {
        std::optional<double> value = Select(json, path).AsNumber();
        return value ? fmt::format("{:.{}f}", *value, digits) : std::string("-");
      };
      lines.push_back({row.face, row.op, row.key, fmt::format("{}", row.callers), row.mode,
                       number("ops_per_second", 0), number("cpu_us.client", 1),
                       number("cpu_us.coordinator", 1), number("cpu_us.node", 1), number("r", 2),
                       number("p50_us", 0), number("p99_us", 0), number("errors", 0),
                       number("dropped_rounds", 0)});
    }
    return Columns(lines);
  }

  const BenchArguments& a_;
  const absl::Duration time_;
  MeasuredProcesses processes_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<ClusterKeys> keys_;
  std::unique_ptr<BareToken> token_;
  std::unique_ptr<SameCore> pinned_;
  v1::HsmStatus status_;
  std::vector<Row> rows_;
};

}  // namespace

void AddBenchCommand(Command& root) {
  auto a = std::make_shared<BenchArguments>();
  Command bench =
      root.Sub("bench", "Speed and CPU per operation, beside the bare token and OpenSSL in the same run");
  std::string names;
  for (const BenchCase& one : BenchCases()) names += " " + one.name;
  bench.Texts("--cases", a->cases, "what to do:" + names);
  bench.Texts("--callers", a->callers, "threads in closed loop, one row each");
  bench.Texts("--faces", a->faces, "openssl token token-session cluster");
  bench.Number("--seconds", a->seconds, "of each round");
  bench.Number("--rounds", a->rounds, "rounds of each face, interleaved");
  bench.Number("--open", a->open_share,
               "also an open loop at this share of the throughput just measured, e.g. 0.65");
  bench.Number("--rate", a->rate, "also an open loop at this many operations a second");
  bench.Text("--key", a->key, "use this key instead of making one");
  bench.Number(
      "--keys", a->keys,
      "how many keys list-keys, get-key and the full- cases work on; missing ones are made and stay");
  bench.Text("--kind", a->kind, "of those keys").OneOf({"p256", "aes256", "rsa2048"});
  bench.Text("--target", a->target, "directory on the coordinator's host, for backup and restore");
  bench.Text("--pin", a->pin, "all processes on one core, or wherever they like")
      .OneOf({"same-core", "none"});
  bench.Text("--module", a->module, "PKCS#11 library of the bare token");
  bench.Text("--data", a->data,
             "the dev cluster whose processes' CPU is counted; $QHSM_DEV_DATA if left out");
  bench.Does([a] { return Bench(*a).Run(); });
  bench.Example("eval \"$(qhsm dev env --data ~/demo)\"; qhsm bench");
  bench.Example("qhsm bench --cases sign-p256 sign-rsa2048 hmac gcm --callers 1 8 32 -o json > bench.json");
  bench.Example(
      "qhsm bench --faces cluster --cases list-keys get-key --keys 20000 --kind aes256 --callers 1   # what "
      "a large "
      "HSM costs");
  bench.Example(
      "qhsm bench --faces cluster --cases full-backup full-restore --keys 2000 --target /var/tmp/backups "
      "--pin none "
      "--rounds 1");
  bench.Example(
      "qhsm bench --faces cluster --cases sign-p256 --key invoices --callers 8 --seconds 10 --rounds 1   # "
      "just load");
}

}  // namespace hsm::cli
