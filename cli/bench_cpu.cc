#include "cli/bench_cpu.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <sched.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>

#include "cli/bench_load.h"
#include "common/file.h"
#include "fmt/format.h"

namespace hsm::cli {
namespace {

double Microseconds(const timespec& time) {
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

std::optional<double> CpuOf(const std::vector<int>& pids) {
  if (pids.empty()) return std::nullopt;
  double sum = 0;
  for (int pid : pids) {
    clockid_t clock;
    timespec time;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0) return std::nullopt;
    sum += Microseconds(time);
  }
  return sum;
}

bool Bind(int pid, const cpu_set_t& set) {
  auto threads = ListDirectory(fmt::format("/proc/{}/task", pid));
  if (!threads.ok()) return false;
  bool all = true;
  for (const std::string& thread : *threads)
    all &= sched_setaffinity(std::atoi(thread.c_str()), sizeof set, &set) == 0;
  return all;
}

}  // namespace

CpuSample SampleCpu(const MeasuredProcesses& processes) {
  timespec own;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
  return {.client = Microseconds(own),
          .coordinator = CpuOf(processes.coordinators),
          .node = CpuOf(processes.nodes)};
}

SameCore::SameCore(const MeasuredProcesses& processes, int cpu) : pids_{getpid()} {
  pids_.insert(pids_.end(), processes.coordinators.begin(), processes.coordinators.end());
  pids_.insert(pids_.end(), processes.nodes.begin(), processes.nodes.end());
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  for (int pid : pids_) held_ &= Bind(pid, set);
}

SameCore::~SameCore() {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (long cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); ++cpu) CPU_SET(static_cast<size_t>(cpu), &set);
  for (int pid : pids_) Bind(pid, set);
}

double Calibrate() {
  static EVP_PKEY* key = EVP_EC_gen("P-256");
  if (key == nullptr) return 0;
  unsigned char digest[32] = {1}, signature[128];
  LoadResult result = RunClosedLoop(1, absl::Milliseconds(50), [&](uint32_t) {
    size_t size = sizeof signature;
    std::unique_ptr<EVP_PKEY_CTX, void (*)(EVP_PKEY_CTX*)> context(EVP_PKEY_CTX_new(key, nullptr),
                                                                   &EVP_PKEY_CTX_free);
    bool signed_it = EVP_PKEY_sign_init(context.get()) == 1 &&
                     EVP_PKEY_sign(context.get(), signature, &size, digest, sizeof digest) == 1;
    return signed_it ? absl::OkStatus() : absl::InternalError("sign");
  });
  return result.PerSecond();
}

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string KernelRelease() {
  utsname name{};
  uname(&name);
  return name.release;
}

}  // namespace hsm::cli
