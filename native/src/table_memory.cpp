#include "satrap/table_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string_view>
#include <system_error>

#include "satrap/descriptor.h"

// Linux 6.1 and 5.14; older C libraries do not name them.
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace satrap {
namespace {

constexpr std::size_t kHugeBytes = std::size_t{2} << 20;
constexpr std::size_t kPage = 4096;

std::string error_text(int error) { return std::generic_category().message(error); }

// Names the resource that is short, and the way out.
[[noreturn]] void no_space(const std::string& what, std::size_t bytes, int error) {
  std::string hint;
  if (error == ENOSPC || error == EDQUOT) {
    hint =
        "; give the file system more room (containers: a larger shm, e.g. --shm-size), or set "
        "embedding_server.table_directory to another one";
  } else if (error == EMFILE || error == ENFILE) {
    hint = "; raise the limit of open files (ulimit -n)";
  } else if (error == ENOMEM) {
    hint = "; use more shards, or row_dtype: float16, or raise vm.max_map_count";
  }
  throw TableSpaceError(what + ": no room for " + std::to_string(bytes) + " bytes (" + error_text(error) +
                        ")" + hint);
}

[[noreturn]] void cannot(const std::string& what, const char* verb, int error) {
  if (error == EMFILE || error == ENFILE || error == ENOSPC || error == ENOMEM) no_space(what, 0, error);
  throw TableError(what + ": cannot be " + verb + ": " + error_text(error));
}

// Address space whose start is a multiple of 2 MiB, so that huge pages of a file can be mapped as such.
void* reserve_aligned(std::size_t bytes) {
  if (bytes < kHugeBytes) {
    return ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  void* const raw =
      ::mmap(nullptr, bytes + kHugeBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return raw;
  const auto begin = reinterpret_cast<std::uintptr_t>(raw);
  const std::uintptr_t aligned = (begin + kHugeBytes - 1) & ~(kHugeBytes - 1);
  if (aligned > begin) ::munmap(raw, aligned - begin);
  const std::uintptr_t end = aligned + bytes;
  if (begin + bytes + kHugeBytes > end) {
    ::munmap(reinterpret_cast<void*>(end), begin + bytes + kHugeBytes - end);
  }
  return reinterpret_cast<void*>(aligned);
}

Mapping map_file(const std::string& what, int fd, std::size_t bytes, int protection) {
  void* const place = reserve_aligned(bytes);
  if (place == MAP_FAILED) no_space(what, bytes, errno);
  void* const data = ::mmap(place, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    ::munmap(place, bytes);
    no_space(what, bytes, error);
  }
  return {data, bytes};
}

// posix_fallocate, which a signal interrupts on tmpfs, and which then has allocated nothing.
int allocate_range(int fd, std::size_t at, std::size_t bytes) {
  int error;
  do {
    error = ::posix_fallocate(fd, static_cast<off_t>(at), static_cast<off_t>(bytes));
  } while (error == EINTR);
  return error;
}

// Every page of an empty file, allocated and zeroed, in huge pages where the kernel gives them.
Mapping allocate(const std::string& what, int fd, std::size_t bytes) {
  if (bytes > available_memory()) no_space(what, bytes, ENOMEM);
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0) no_space(what, bytes, errno);
  const std::size_t whole = bytes / kHugeBytes * kHugeBytes;
  for (std::size_t at = 0; at < whole; at += kHugeBytes) {
    if (const int error = allocate_range(fd, at, kPage)) no_space(what, bytes, error);
  }
  Mapping mapping = map_file(what, fd, bytes, PROT_READ | PROT_WRITE);
  if (whole > 0) mapping.set_huge(::madvise(mapping.data(), whole, MADV_COLLAPSE) == 0);
  if (const int error = allocate_range(fd, 0, bytes)) no_space(what, bytes, error);
  return mapping;
}

// The value of a "Name:   123 kB" line in /proc/meminfo, in bytes.
std::optional<std::size_t> meminfo(std::string_view name) {
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with(name)) {
      const auto digits = line.find_first_of("0123456789");
      if (digits == std::string::npos) return std::nullopt;
      return static_cast<std::size_t>(std::stoull(line.substr(digits))) * 1024;
    }
  }
  return std::nullopt;
}

std::optional<std::size_t> number_in(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string text;
  if (!(file >> text)) return std::nullopt;
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;  // "max" is no limit
  return value;
}

// What the cgroups (version 2) of this process leave, the tightest one. Page cache that nobody used lately
// counts as free, since the kernel drops it first; the files of tables, which it cannot drop, are not among
// it.
std::optional<std::size_t> cgroup_room() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  std::optional<std::size_t> room;
  while (std::getline(file, line)) {
    if (!line.starts_with("0::/")) continue;
    const std::filesystem::path root("/sys/fs/cgroup");
    std::filesystem::path path = root / line.substr(4);
    for (;; path = path.parent_path()) {
      const auto limit = number_in(path / "memory.max");
      const auto used = number_in(path / "memory.current");
      if (limit && used) {
        std::size_t reclaimable = 0;
        std::ifstream statistics(path / "memory.stat");
        std::string name;
        std::size_t value;
        while (statistics >> name >> value) {
          if (name == "inactive_file") reclaimable = value;
        }
        const std::size_t held = *used > reclaimable ? *used - reclaimable : 0;
        const std::size_t left = *limit > held ? *limit - held : 0;
        room = room ? std::min(*room, left) : left;
      }
      if (path == root || !path.has_relative_path() || path == path.root_path()) break;
    }
  }
  return room;
}

// ---- private memory ----

class PrivateMemory final : public TableMemory {
 public:
  Mapping create(const std::string& name, std::size_t bytes) override {
    const Descriptor fd(::memfd_create("satrap-table", MFD_CLOEXEC));
    if (!fd) no_space(describe(name), bytes, errno);
    return allocate(describe(name), fd.get(), bytes);
  }
  std::optional<Mapping> open(const std::string&) override { return std::nullopt; }
  void rename(const std::string&, const std::string&) override {}
  void remove(const std::string&) override {}
  std::vector<std::string> names() const override { return {}; }
  std::string describe(const std::string& name) const override { return "private memory/" + name; }
};

// ---- folders ----

class FolderMemory final : public TableMemory {
 public:
  FolderMemory(std::string path, std::optional<FileModes> modes) : path_(std::move(path)), modes_(modes) {
    if (!modes_) return;
    if (::mkdir(path_.c_str(), modes_->folder) != 0) {
      if (errno == EEXIST) return;
      cannot(path_, "made", errno);
    }
    // mkdir's mode goes through the umask.
    if (::chmod(path_.c_str(), modes_->folder) != 0) cannot(path_, "given its mode", errno);
    if (modes_->group && ::chown(path_.c_str(), static_cast<uid_t>(-1), *modes_->group) != 0) {
      cannot(path_, "given to its group", errno);
    }
  }

  Mapping create(const std::string& name, std::size_t bytes) override {
    check_writable(name);
    const std::string path = describe(name);
    Descriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, modes_->file));
    if (!fd) cannot(path, "made", errno);
    try {
      if (::fchmod(fd.get(), modes_->file) != 0) cannot(path, "given its mode", errno);
      if (modes_->group && ::fchown(fd.get(), static_cast<uid_t>(-1), *modes_->group) != 0) {
        cannot(path, "given to its group", errno);
      }
      return allocate(path, fd.get(), bytes);
    } catch (...) {
      ::unlink(path.c_str());
      throw;
    }
  }

  std::optional<Mapping> open(const std::string& name) override {
    const std::string path = describe(name);
    const Descriptor fd(
        ::open(path.c_str(), (modes_ ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!fd) {
      if (errno == ENOENT) return std::nullopt;
      cannot(path, "opened", errno);
    }
    struct stat status;
    if (::fstat(fd.get(), &status) != 0) cannot(path, "examined", errno);
    if (!S_ISREG(status.st_mode)) throw TableError(path + ": is no file");
    if (status.st_size <= 0) throw TableError(path + ": is empty");
    return map_file(path, fd.get(), static_cast<std::size_t>(status.st_size),
                    modes_ ? PROT_READ | PROT_WRITE : PROT_READ);
  }

  void rename(const std::string& from, const std::string& to) override {
    check_writable(from);
    if (::rename(describe(from).c_str(), describe(to).c_str()) != 0) cannot(describe(from), "renamed", errno);
  }

  void remove(const std::string& name) override {
    check_writable(name);
    if (::unlink(describe(name).c_str()) != 0 && errno != ENOENT) cannot(describe(name), "removed", errno);
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    std::error_code error;
    for (const auto& file : std::filesystem::directory_iterator(path_, error)) {
      all.push_back(file.path().filename().string());
    }
    if (error) cannot(path_, "listed", error.value());
    return all;
  }

  std::string describe(const std::string& name) const override { return path_ + "/" + name; }

 private:
  void check_writable(const std::string& name) const {
    if (!modes_) throw std::logic_error(describe(name) + ": this process may only read it");
  }

  const std::string path_;
  const std::optional<FileModes> modes_;  // nothing: read-only
};

}  // namespace

Mapping::~Mapping() {
  if (data_) ::munmap(data_, bytes_);
}

void Mapping::populate_for_reading() const {
  static_cast<void>(::madvise(data_, bytes_, MADV_POPULATE_READ));
}

void Mapping::populate_for_writing() const {
  static_cast<void>(::madvise(data_, bytes_, MADV_POPULATE_WRITE));
}

std::unique_ptr<TableMemory> private_memory() { return std::make_unique<PrivateMemory>(); }

std::unique_ptr<TableMemory> folder_memory(std::string path, FileModes modes) {
  return std::make_unique<FolderMemory>(std::move(path), modes);
}

std::unique_ptr<TableMemory> read_only_folder_memory(std::string path) {
  return std::make_unique<FolderMemory>(std::move(path), std::nullopt);
}

std::size_t available_memory() {
  std::size_t room = meminfo("MemAvailable:").value_or(std::numeric_limits<std::size_t>::max());
  if (const auto left = cgroup_room()) room = std::min(room, *left);
  return room;
}

}  // namespace satrap
