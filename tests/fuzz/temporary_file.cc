#include "tests/fuzz/temporary_file.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "common/check.h"

namespace hsm::fuzz {

const std::string& Folder() {
  struct Owner {
    Owner() {
      char name[] = "/dev/shm/qhsm-fuzz.XXXXXX";
      HSM_CHECK(mkdtemp(name) != nullptr);
      path = name;
    }
    ~Owner() { std::filesystem::remove_all(path); }
    std::string path;
  };
  static const Owner owner;
  return owner.path;
}

std::string PutInFile(const std::string& name, ByteView content) {
  const std::string path = Folder() + "/" + name;
  std::FILE* file = std::fopen(path.c_str(), "wb");
  HSM_CHECK(file != nullptr);
  HSM_CHECK(std::fwrite(content.data(), 1, content.size(), file) == content.size());
  HSM_CHECK(std::fclose(file) == 0);
  return path;
}

}  // namespace hsm::fuzz
