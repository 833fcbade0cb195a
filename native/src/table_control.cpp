#include "satrap/table_control.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace satrap {

namespace {

constexpr std::chrono::milliseconds kBeat{100};

std::string reason(int error) { return std::generic_category().message(error); }

// The error for a system call on `path` that failed: weather (no room, no descriptors), or something in the
// way.
[[noreturn]] void fail(const std::string& path, const char* what, int error) {
  const std::string sentence = path + ": " + what + ": " + reason(error);
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      throw TableSpaceError(sentence +
                            "; give the folder more room (containers: --shm-size), or name another "
                            "--table-directory");
    case EMFILE:
    case ENFILE:
      throw TableSpaceError(sentence + "; raise the limit of open files (ulimit -n)");
    case ENOMEM:
      throw TableSpaceError(sentence + "; the process may not take more memory");
    default:
      throw TableError(sentence);
  }
}

std::uint64_t header_sum(const ControlHeader& header) {
  return checksum({reinterpret_cast<const std::byte*>(&header), offsetof(ControlHeader, sum)});
}

// Throws TableError unless `header`, of a file of `bytes`, is one that this code may map.
void check_header(const std::string& path, const ControlHeader& header, std::uint64_t bytes) {
  if (header.magic != ControlHeader::kMagic) {
    throw TableError(path + ": no control file of a table (its first 8 bytes are others)");
  }
  if (header.layout != kTableLayout) {
    throw TableError(path + ": of layout " + std::to_string(header.layout) + ", this version has " +
                     std::to_string(kTableLayout));
  }
  if (header.sum != header_sum(header))
    throw TableError(path + ": the header is damaged (its checksum is wrong)");
  if (header.file_bytes != sizeof(ControlPage) || bytes != sizeof(ControlPage)) {
    throw TableError(path + ": has " + std::to_string(bytes) + " bytes, not " +
                     std::to_string(sizeof(ControlPage)) + ": it was cut or is of another version");
  }
  if (header.replica_index >= header.replica_size) {
    throw TableError(path + ": of shard " + std::to_string(header.replica_index) + " of " +
                     std::to_string(header.replica_size) + ", which cannot be");
  }
}

struct flock whole_file(short type) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

const char* name_of(GenerationState state) {
  switch (state) {
    case GenerationState::kLoading:
      return "loading";
    case GenerationState::kServing:
      return "serving";
    case GenerationState::kAbandoned:
      return "abandoned";
  }
  return "unknown";
}

BootId present_boot() {
  constexpr const char* kPath = "/proc/sys/kernel/random/boot_id";
  std::ifstream file(kPath);
  if (!file.is_open()) fail(kPath, "cannot be opened", errno);
  BootId boot{};
  std::size_t digits = 0;
  for (char character; file.get(character) && digits < 2 * boot.size();) {
    int value = 0;
    if (character >= '0' && character <= '9') {
      value = character - '0';
    } else if (character >= 'a' && character <= 'f') {
      value = character - 'a' + 10;
    } else {
      continue;
    }
    std::byte& byte = boot[digits / 2];
    byte = (byte << 4) | static_cast<std::byte>(value);
    ++digits;
  }
  if (digits != 2 * boot.size()) throw std::runtime_error(std::string(kPath) + ": has no boot id");
  return boot;
}

std::uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

ControlFile ControlFile::create(const std::string& folder, const GenerationIdentity& identity,
                                std::span<const std::byte> info, const FileModes& modes) {
  const std::string path = folder + "/" + kName;
  const std::string unnamed = folder + "/" + kUnnamed;
  Descriptor descriptor(::open(unnamed.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!descriptor) fail(unnamed, "cannot be made", errno);
  if (modes.group && ::fchown(descriptor.get(), static_cast<uid_t>(-1), *modes.group) != 0) {
    fail(unnamed, "cannot be given to its group", errno);
  }
  if (::fchmod(descriptor.get(), modes.file) != 0) fail(unnamed, "cannot be given its mode", errno);
  // Allocated before it is mapped: a store to a page that tmpfs cannot have would end the process.
  int refused;
  do {
    refused = ::posix_fallocate(descriptor.get(), 0, sizeof(ControlPage));
  } while (refused == EINTR);  // a signal interrupts it on tmpfs
  if (refused) fail(unnamed, "no room", refused);
  void* const data =
      ::mmap(nullptr, sizeof(ControlPage), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor.get(), 0);
  if (data == MAP_FAILED) fail(unnamed, "cannot be mapped", errno);
  ControlFile file(path, std::move(descriptor), Mapping(data, sizeof(ControlPage)));

  ControlHeader& header = file.page().header;
  header.magic = ControlHeader::kMagic;
  header.layout = kTableLayout;
  header.replica_index = identity.replica_index;
  header.replica_size = identity.replica_size;
  header.instance = identity.instance;
  header.boot = identity.boot;
  header.file_bytes = sizeof(ControlPage);
  header.sum = header_sum(header);
  file.set_info(info);
  file.set_state(GenerationState::kLoading);
  file.set_pid(static_cast<std::uint32_t>(::getpid()));
  file.beat();
  if (!file.try_lock()) throw TableError(unnamed + ": another process has locked it");
  if (::rename(unnamed.c_str(), path.c_str()) != 0) fail(path, "cannot be named", errno);
  return file;
}

ControlFile ControlFile::open_for_writing(const std::string& folder) { return open(folder, true, {}); }

ControlFile ControlFile::open_for_reading(const std::string& folder, std::optional<uid_t> owner) {
  return open(folder, false, owner);
}

ControlFile ControlFile::open(const std::string& folder, bool writable, std::optional<uid_t> owner) {
  const std::string path = folder + "/" + kName;
  Descriptor descriptor(
      ::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!descriptor) {
    fail(path, errno == ELOOP ? "refused" : "cannot be opened", errno);
  }
  struct stat status{};
  if (::fstat(descriptor.get(), &status) != 0) fail(path, "cannot be examined", errno);
  if (!S_ISREG(status.st_mode)) throw TableError(path + ": no regular file");
  if (owner && status.st_uid != *owner && status.st_uid != 0) {
    throw TableError(path + ": belongs to user " + std::to_string(status.st_uid) + ", not to " +
                     std::to_string(*owner));
  }
  const auto bytes = static_cast<std::uint64_t>(status.st_size);
  ControlHeader header{};
  const ssize_t read = ::pread(descriptor.get(), &header, sizeof(header), 0);
  if (read < 0) fail(path, "cannot be read", errno);
  if (static_cast<std::size_t>(read) < sizeof(header)) {
    throw TableError(path + ": has " + std::to_string(bytes) + " bytes, less than its header: it was cut");
  }
  check_header(path, header, bytes);
  void* const data = ::mmap(nullptr, sizeof(ControlPage), writable ? PROT_READ | PROT_WRITE : PROT_READ,
                            MAP_SHARED, descriptor.get(), 0);
  if (data == MAP_FAILED) fail(path, "cannot be mapped", errno);
  return ControlFile(path, std::move(descriptor), Mapping(data, sizeof(ControlPage)));
}

GenerationState ControlFile::state() const {
  const auto state = static_cast<GenerationState>(page().state.load(std::memory_order_acquire));
  switch (state) {
    case GenerationState::kLoading:
    case GenerationState::kServing:
    case GenerationState::kAbandoned:
      return state;
  }
  throw TableError(path_ + ": the state is damaged (none of those that there are)");
}

Watermark ControlFile::watermark() const {
  for (;;) {
    const std::uint32_t version = page().watermark_version.load(std::memory_order_acquire);
    const auto& words = page().watermarks[version % 2];
    const Watermark watermark{words.sequence.load(std::memory_order_acquire),
                              words.event_time_ns.load(std::memory_order_acquire)};
    // The writer touches this place again only after it has chosen the other one.
    if (page().watermark_version.load(std::memory_order_acquire) == version) return watermark;
  }
}

std::vector<std::byte> ControlFile::info() const {
  for (;;) {
    const std::uint32_t version = page().info_version.load(std::memory_order_acquire);
    const ControlInfo& info = page().infos[version % 2];
    const std::uint64_t bytes = info.bytes.load(std::memory_order_acquire);
    const std::uint64_t sum = info.sum.load(std::memory_order_acquire);
    std::vector<std::byte> copy(bytes <= ControlInfo::kMaxBytes ? bytes : 0);
    for (std::size_t at = 0; at < copy.size(); at += 8) {
      const std::uint64_t word = info.words[at / 8].load(std::memory_order_acquire);
      std::memcpy(copy.data() + at, &word, std::min<std::size_t>(8, copy.size() - at));
    }
    if (page().info_version.load(std::memory_order_acquire) != version) continue;
    if (bytes > ControlInfo::kMaxBytes || checksum(copy) != sum) {
      throw TableError(path_ + ": the description of the generation is damaged (its checksum is wrong)");
    }
    return copy;
  }
}

bool ControlFile::is_locked() const {
  struct flock lock = whole_file(F_WRLCK);
  if (::fcntl(descriptor_.get(), F_OFD_GETLK, &lock) != 0) fail(path_, "its lock cannot be asked for", errno);
  return lock.l_type != F_UNLCK;
}

FileModes ControlFile::modes() const {
  struct stat status{};
  if (::fstat(descriptor_.get(), &status) != 0) fail(path_, "cannot be examined", errno);
  const bool shared = status.st_mode & S_IRGRP;
  return {.file = status.st_mode & 0777u,
          .folder = shared ? 0750u : 0700u,
          .group = shared ? std::optional<gid_t>(status.st_gid) : std::nullopt};
}

bool ControlFile::try_lock() {
  struct flock lock = whole_file(F_WRLCK);
  if (::fcntl(descriptor_.get(), F_OFD_SETLK, &lock) == 0) return true;
  if (errno == EAGAIN || errno == EACCES) return false;
  fail(path_, "cannot be locked", errno);
}

void ControlFile::set_state(GenerationState state) {
  page().state.store(static_cast<std::uint32_t>(state), std::memory_order_release);
}

void ControlFile::set_pid(std::uint32_t pid) { page().pid.store(pid, std::memory_order_release); }

void ControlFile::set_tables(std::uint32_t count) { page().tables.store(count, std::memory_order_release); }

void ControlFile::set_watermark(const Watermark& watermark) {
  const std::uint32_t version = page().watermark_version.load(std::memory_order_relaxed) + 1;
  auto& words = page().watermarks[version % 2];
  words.sequence.store(watermark.sequence, std::memory_order_release);
  words.event_time_ns.store(watermark.event_time_ns, std::memory_order_release);
  page().watermark_version.store(version, std::memory_order_release);
}

void ControlFile::set_info(std::span<const std::byte> bytes) {
  if (bytes.size() > ControlInfo::kMaxBytes) {
    throw std::invalid_argument("info has " + std::to_string(bytes.size()) + " bytes; at most " +
                                std::to_string(ControlInfo::kMaxBytes) + " fit");
  }
  const std::uint32_t version = page().info_version.load(std::memory_order_relaxed) + 1;
  ControlInfo& info = page().infos[version % 2];
  info.bytes.store(bytes.size(), std::memory_order_release);
  info.sum.store(checksum(bytes), std::memory_order_release);
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min<std::size_t>(8, bytes.size() - at));
    info.words[at / 8].store(word, std::memory_order_release);
  }
  page().info_version.store(version, std::memory_order_release);
}

void ControlFile::beat() { page().heartbeat_ns.store(monotonic_ns(), std::memory_order_release); }

Heartbeat::Heartbeat(ControlFile& control)
    : thread_([this, &control] {
        std::unique_lock lock(mutex_);
        do {
          control.beat();
        } while (!wake_.wait_for(lock, kBeat, [this] { return stopping_; }));
      }) {}

Heartbeat::~Heartbeat() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

}  // namespace satrap
