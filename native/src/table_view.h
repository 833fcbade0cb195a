// The reader's side of a table: which segments are mapped where, who still reads them, and lookups in
// batches.
#ifndef SATRAP_TABLE_VIEW_H_
#define SATRAP_TABLE_VIEW_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "satrap/table.h"
#include "satrap/table_layout.h"
#include "satrap/table_memory.h"
#include "table_segment.h"

namespace satrap {

// A segment as the pipeline needs it.
struct SegmentView {
  const Bucket* buckets;
  const std::byte* rows;
  std::uint64_t bucket_count;
};

// The segments of a table at one moment. Never changes.
struct Snapshot {
  std::uint32_t change = 0;  // Directory::change that it is of
  RowShape shape;
  const RedoRecord* redo;
  std::array<std::uint16_t, kEntries> segment_of;  // by directory entry
  std::vector<SegmentView> views;
  std::vector<std::shared_ptr<const Segment>> segments;

  const Segment& segment_at(std::uint64_t hash) const { return *segments[segment_of[entry_of(hash)]]; }
};

// Who reads which generation of something that is replaced now and then: epochs. A reader takes a slot of its
// own for the time of a batch. Threads: any.
class Pins {
 public:
  class Pin {
   public:
    explicit Pin(const Pins& pins) : slot_(pins.take()) {}
    ~Pin() { slot_->store(0, std::memory_order_release); }
    Pin(const Pin&) = delete;
    Pin& operator=(const Pin&) = delete;

   private:
    std::atomic<std::uint64_t>* slot_;
  };

  // Ends an epoch; what was replaced before this call may go once has_older(the value returned) is false.
  std::uint64_t advance() { return epoch_.fetch_add(1); }
  bool has_older(std::uint64_t epoch) const;

 private:
  std::atomic<std::uint64_t>* take() const;

  struct alignas(64) Slot {
    std::atomic<std::uint64_t> epoch{0};  // 0: free
  };
  static constexpr std::size_t kCount = 256;  // more batches at once than this wait for one another
  std::atomic<std::uint64_t> epoch_{1};
  mutable std::array<Slot, kCount> slots_;
};

// How rows are copied; the best one that the processor has is chosen. Every one gives the same answers.
enum class CopyForm { kPortable, kAvx2, kAvx512 };
std::vector<CopyForm> copy_forms();  // those that run here, the best last

// Threads: lookup, contains, scan from any; publish, follow and refresh exclude each other inside.
class TableView {
 public:
  // Over a table whose writer is in this process, and publishes.
  TableView(RowShape shape, Directory& directory);
  // A table that another process writes, in read-only memory. Throws TableError, TableSpaceError.
  static std::unique_ptr<TableView> attach(std::unique_ptr<TableMemory> memory, const TableOrigin& origin);
  ~TableView();
  TableView(const TableView&) = delete;
  TableView& operator=(const TableView&) = delete;

  RowShape shape() const { return shape_; }
  std::size_t size() const { return directory_->rows.load(std::memory_order_acquire); }
  std::size_t bytes() const;
  bool huge_pages() const;

  // As Table's. Attached: throws TableError or TableSpaceError if a segment that has replaced another cannot
  // be mapped.
  std::size_t lookup(const std::byte* signs, std::size_t n, std::byte* out, std::uint8_t* found) const {
    return lookup(signs, n, out, found, form_);
  }
  std::size_t lookup(const std::byte* signs, std::size_t n, std::byte* out, std::uint8_t* found,
                     CopyForm form) const;
  std::size_t contains(const std::byte* signs, std::size_t n, std::uint8_t* found) const;
  TablePage scan(std::uint64_t start, std::size_t limit) const;
  // Signs and ordinals only. Nobody may write meanwhile.
  TablePage scan_tombstones(std::uint64_t start, std::size_t limit) const;

  // For the writer, in two steps, of which only the first one can fail: readers that begin after the second
  // see these segments, which divide all entries among them.
  std::unique_ptr<const Snapshot> prepare(const std::vector<std::shared_ptr<const Segment>>& segments,
                                          std::uint32_t change) const;
  void publish(std::unique_ptr<const Snapshot> snapshot);
  // Gives back mappings that nobody reads any more.
  void reclaim() const;

  // For a thread of an attached reader: maps and populates what the writer announces, takes over what it has
  // switched to, gives back what nobody reads any more. Throws as lookup.
  void follow();
  // Waits until there is something to follow, `timeout` at most, or until somebody calls wake().
  void wait_for_signal(std::chrono::milliseconds timeout) const;
  void wake() const;

 private:
  struct Retired {
    std::unique_ptr<const Snapshot> snapshot;
    std::uint64_t epoch;
  };

  bool is_stale(const Snapshot& snapshot) const {
    return static_cast<std::int32_t>(directory_->change.load(std::memory_order_acquire) - snapshot.change) >
           0;
  }
  template <class Read>
  auto with_snapshot(Read&& read) const;
  template <class Read>
  TablePage page_of(std::uint64_t start, std::size_t limit, Read&& read) const;
  void refresh() const;
  // Both with mutex_ held. What they return nobody reads any more; it is unmapped, which takes its time,
  // without the lock.
  [[nodiscard]] std::vector<Retired> install(std::unique_ptr<const Snapshot> snapshot) const;
  [[nodiscard]] std::vector<Retired> take_unread() const;
  std::shared_ptr<const Segment> mapped(std::uint32_t number, const Snapshot* present) const;  // holds mutex_

  const RowShape shape_;
  const CopyForm form_;
  std::unique_ptr<TableMemory> memory_;  // attached only
  Mapping directory_mapping_;            // attached only
  Directory* directory_;
  mutable Pins pins_;
  mutable std::atomic<const Snapshot*> snapshot_{nullptr};  // owned
  mutable std::mutex mutex_;                                // guards all below, and who stores snapshot_
  mutable std::vector<Retired> retired_;
  mutable std::vector<std::shared_ptr<const Segment>> ahead_;  // mapped before they serve
  mutable std::uint32_t followed_ = 0;                         // Directory::signal that follow() has seen
};

}  // namespace satrap

#endif  // SATRAP_TABLE_VIEW_H_
