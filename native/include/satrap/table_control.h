// The control file of a table generation: who owns it, what state it is in, and how far it is. docs/table.md
// has the design.
//
//     page 0   header (static, with a checksum) | words that change
//     then     two places for the info, of which a word says the present one
//
// The header is written before the file gets its name. Everything that changes later is an atomic word; what
// is larger than a word (info, watermark) is written beside its present value, and then one word chooses:
// whoever is killed in between leaves the present value.
#ifndef SATRAP_TABLE_CONTROL_H_
#define SATRAP_TABLE_CONTROL_H_

#include <sys/types.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "satrap/descriptor.h"
#include "satrap/table_layout.h"
#include "satrap/table_memory.h"

namespace satrap {

// Far from each other, so that no flipped bit makes one from another.
enum class GenerationState : std::uint32_t {
  kLoading = 0x44414f4c,    // "LOAD": not whole; of no use once its server is gone
  kServing = 0x56524553,    // "SERV"
  kAbandoned = 0x4e414241,  // "ABAN": superseded or given up; about to be removed
};

const char* name_of(GenerationState state);

struct ControlHeader {
  std::array<char, 8> magic;
  std::uint32_t layout;
  std::uint32_t replica_index;
  std::uint32_t replica_size;
  std::uint32_t zero;
  InstanceId instance;
  BootId boot;
  std::uint64_t file_bytes;
  std::uint64_t sum;  // checksum of all before

  static constexpr std::array<char, 8> kMagic{'S', 'A', 'T', 'R', 'A', 'P', 'C', 'T'};
};
static_assert(sizeof(ControlHeader) == 72 && offsetof(ControlHeader, sum) == 64);

// How far the updates are: the sequence number of the last packet that is wholly applied, and its newest
// event.
struct Watermark {
  std::uint64_t sequence = 0;
  std::int64_t event_time_ns = 0;  // since the epoch
  bool operator==(const Watermark&) const = default;
};

struct ControlInfo {
  static constexpr std::size_t kWords = 3838;
  static constexpr std::size_t kMaxBytes = kWords * 8;

  std::atomic<std::uint64_t> bytes;
  std::atomic<std::uint64_t> sum;
  std::atomic<std::uint64_t> words[kWords];
};

struct ControlPage {
  ControlHeader header;
  alignas(64) std::atomic<std::uint32_t> state;
  std::atomic<std::uint32_t> pid;           // of the server that holds the lock, or held it last
  std::atomic<std::uint64_t> heartbeat_ns;  // CLOCK_MONOTONIC
  std::atomic<std::uint32_t> tables;        // that are whole
  std::atomic<std::uint32_t> info_version;  // infos[version % 2] is the present one
  alignas(64) std::atomic<std::uint32_t> watermark_version;  // the same for watermarks
  struct {
    std::atomic<std::uint64_t> sequence;
    std::atomic<std::int64_t> event_time_ns;
  } watermarks[2];
  alignas(kPageBytes) ControlInfo infos[2];
};
static_assert(sizeof(ControlPage) == 65536);

// The machine's present run, from the kernel. Throws TableSpaceError (no descriptors), std::runtime_error.
BootId present_boot();

// CLOCK_MONOTONIC, in nanoseconds: comparable between the processes of a machine.
std::uint64_t monotonic_ns();

// What a generation is, written once.
struct GenerationIdentity {
  InstanceId instance{};
  BootId boot{};
  std::uint32_t replica_index = 0;
  std::uint32_t replica_size = 1;
};

// A control file, mapped. Its descriptor stays open as long as this lives, because locks belong to
// descriptors.
//
// Threads: every const function from any thread, in any process; the others by the one holder of the lock, on
// one thread at a time, except beat().
class ControlFile {
 public:
  static constexpr const char* kName = "control";
  static constexpr const char* kUnnamed = "control.new";  // until it is whole

  // A new file in `folder`, which must exist: locked, in state kLoading, with a first heartbeat. It gets its
  // name when all of that is done. Throws TableSpaceError, TableError, std::invalid_argument (info longer
  // than ControlInfo::kMaxBytes).
  static ControlFile create(const std::string& folder, const GenerationIdentity& identity,
                            std::span<const std::byte> info, const FileModes& modes);

  // The file of a generation of this machine's or another run, for its next writer: checked, not locked yet.
  // Throws TableError, TableSpaceError.
  static ControlFile open_for_writing(const std::string& folder);

  // The same for readers: mapped read-only. With `owner`, that user or root must own the file, and a symbolic
  // link is refused either way. Throws TableError, TableSpaceError.
  static ControlFile open_for_reading(const std::string& folder, std::optional<uid_t> owner = {});

  ControlFile(ControlFile&&) = default;
  ControlFile& operator=(ControlFile&&) = default;

  const std::string& path() const { return path_; }
  const ControlHeader& header() const { return page().header; }
  // Throws TableError: the word is none of the states.
  GenerationState state() const;
  std::uint32_t pid() const { return page().pid.load(std::memory_order_acquire); }
  std::uint32_t tables() const { return page().tables.load(std::memory_order_acquire); }
  std::uint64_t heartbeat_ns() const { return page().heartbeat_ns.load(std::memory_order_acquire); }
  Watermark watermark() const;
  // Throws TableError: its checksum is wrong.
  std::vector<std::byte> info() const;
  // Whether a process holds the lock, this one included if through another ControlFile. A system call.
  bool is_locked() const;
  // The modes that the file was created with, for the files of its tables.
  FileModes modes() const;

  // False if another process holds it; once taken, held until this is destroyed.
  bool try_lock();
  void set_state(GenerationState state);
  void set_pid(std::uint32_t pid);
  void set_tables(std::uint32_t count);
  void set_watermark(const Watermark& watermark);
  // Throws std::invalid_argument: too long.
  void set_info(std::span<const std::byte> info);
  void beat();

 private:
  ControlFile(std::string path, Descriptor descriptor, Mapping mapping)
      : path_(std::move(path)), descriptor_(std::move(descriptor)), mapping_(std::move(mapping)) {}

  static ControlFile open(const std::string& folder, bool writable, std::optional<uid_t> owner);
  ControlPage& page() const { return *reinterpret_cast<ControlPage*>(mapping_.data()); }

  std::string path_;
  Descriptor descriptor_;
  Mapping mapping_;
};

// Beats every 100 ms, on a thread of its own, as long as it lives.
class Heartbeat {
 public:
  explicit Heartbeat(ControlFile& control);  // which must outlive this
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace satrap

#endif  // SATRAP_TABLE_CONTROL_H_
