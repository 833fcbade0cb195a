// A generation of tables that another process writes: its rows without a copy of the tables and without an
// RPC. docs/table.md has the design.
//
// STATE
//
//     live       the writer's heart beats
//     orphaned   nobody holds the control file's lock, or no heartbeat for a second: rows may be out of date
//     abandoned  the writer said that this generation is superseded or given up
//
// An orphaned generation becomes live again when a restarted server takes it over. What to do with rows of an
// orphaned one is the caller's decision.
//
// PROCESSES
//
// Made after fork, never before: the threads that map ahead exist in the process that made them only. In a
// fork's child an inherited reader may be destroyed (which leaves its mappings to the child's end), and
// nothing else.
#ifndef SATRAP_TABLE_READER_H_
#define SATRAP_TABLE_READER_H_

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "satrap/table_control.h"
#include "satrap/table_layout.h"

namespace satrap {

class TableView;

enum class ReaderState { kLive, kOrphaned, kAbandoned };

// What a reader makes of what it sees: `silent_ns` is the heartbeat's age, negative if it comes from another
// clock. `is_locked`, a system call, is asked for only where the heartbeat leaves it open.
template <class IsLocked>
ReaderState judge(GenerationState state, std::int64_t silent_ns, IsLocked&& is_locked) {
  constexpr std::int64_t kDoubtNs = 250'000'000;
  constexpr std::int64_t kDeadNs = 1'000'000'000;
  if (state == GenerationState::kAbandoned) return ReaderState::kAbandoned;
  if (silent_ns < 0 || silent_ns > kDeadNs) return ReaderState::kOrphaned;
  return silent_ns <= kDoubtNs || is_locked() ? ReaderState::kLive : ReaderState::kOrphaned;
}

// Threads: every function from any thread, at any time, close() included.
class TableReader {
 public:
  struct Condition {
    ReaderState state;
    std::int64_t silent_ns;  // since the writer's last heartbeat; kForeverNs if that is of another clock
  };
  static constexpr std::int64_t kForeverNs = std::int64_t{1} << 62;

  // n signs, of any alignment, of one dim.
  struct Group {
    std::size_t dim;
    const std::byte* signs;
    std::size_t n;
  };

  struct Counts {
    std::uint64_t missing = 0;       // signs that no table holds
    std::uint64_t dim_mismatch = 0;  // signs that a table of another dim holds
  };

  // Attaches the generation in `folder`, which `owner` or root must own, with that instance id. Everything is
  // checked before anything is read from it. Throws TableError, with the reason; TableSpaceError (no
  // descriptors, no memory).
  TableReader(std::string folder, const InstanceId& instance, uid_t owner);
  ~TableReader();
  TableReader(const TableReader&) = delete;
  TableReader& operator=(const TableReader&) = delete;

  const std::string& folder() const { return folder_; }
  const InstanceId& instance() const { return instance_; }

  // Throws TableError: closed, or the state is damaged.
  Condition condition() const;
  // How far the writer's updates are. Throws TableError: closed.
  Watermark watermark() const;

  // Keeps everything mapped as long as it lives, which is a batch: close() waits for it.
  class Hold {
   public:
    // Throws TableError: closed.
    explicit Hold(const TableReader& reader);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    void leave() const;

    const TableReader& reader_;
  };

  // The tables, for a batch.
  class Use {
   public:
    // Throws TableError: closed, or a table that has been added cannot be used; TableSpaceError.
    explicit Use(const TableReader& reader);

    // How rows of that dim are stored; of a dim that has no table, as those of the others.
    RowType type_of(std::size_t dim) const;
    // Copies rows to `rows`, of group.n x dim values of type_of(dim); zeros for those that are absent. Throws
    // TableError, TableSpaceError: a file that the writer has added since cannot be mapped.
    Counts lookup(const Group& group, std::byte* rows) const;

   private:
    std::uint64_t held_elsewhere(const Group& group, const std::uint8_t* found) const;

    const TableReader& reader_;
    const Hold hold_;
  };

  // Unmaps everything as soon as the batches that run have ended; what comes later throws TableError. May be
  // called again.
  void close();

 private:
  struct Attached;

  void attach_added_tables() const;
  const TableView* table_of(std::size_t dim) const;

  const std::string folder_;
  const InstanceId instance_;
  const uid_t owner_;
  const pid_t process_;
  std::optional<ControlFile> control_;
  mutable std::atomic<std::uint32_t> uses_{0};      // of batches that run; kClosed is added by close()
  mutable std::mutex adding_;                       // guards names_, and who stores tables_ and known_
  mutable std::vector<std::string> names_;          // of the tables' folders that are attached
  mutable std::atomic<std::uint32_t> known_{0};     // ControlFile::tables() when they were
  mutable std::atomic<Attached*> tables_{nullptr};  // a list that only grows; owned
};

}  // namespace satrap

#endif  // SATRAP_TABLE_READER_H_
