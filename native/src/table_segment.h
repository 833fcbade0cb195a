// A segment file in this process: its arrays, and the checks before anybody may use them.
#ifndef SATRAP_TABLE_SEGMENT_H_
#define SATRAP_TABLE_SEGMENT_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "satrap/table_layout.h"
#include "satrap/table_memory.h"

namespace satrap {

// Where a slot is.
struct Place {
  std::size_t bucket;
  std::size_t slot;
};

class Segment {
 public:
  // A new file for the directory entries [first_entry, end_entry); its header is complete. Throws
  // TableSpaceError.
  static std::shared_ptr<Segment> create(TableMemory& memory, const DirectoryHeader& directory,
                                         RowShape shape, std::uint32_t number, std::uint32_t first_entry,
                                         std::uint32_t end_entry, std::size_t bucket_count);
  // A file that is there; null if there is none. Throws TableError unless it is this table's, whole and
  // valid.
  static std::shared_ptr<Segment> open(TableMemory& memory, const DirectoryHeader& directory, RowShape shape,
                                       std::uint32_t number);

  static std::string file_name(std::uint32_t number);

  std::uint32_t number() const { return header().number; }
  std::uint32_t first_entry() const { return header().first_entry; }
  std::uint32_t end_entry() const { return header().end_entry; }
  bool serves(std::size_t entry) const { return first_entry() <= entry && entry < end_entry(); }
  std::size_t bucket_count() const { return bucket_count_; }
  std::size_t row_words() const { return row_words_; }
  const Mapping& mapping() const { return mapping_; }

  std::size_t home(std::uint64_t hash) const { return home_bucket(hash, bucket_count_); }
  std::size_t next(std::size_t bucket) const { return bucket + 1 == bucket_count_ ? 0 : bucket + 1; }
  Bucket& bucket(std::size_t index) const { return buckets_[index]; }
  Bucket* buckets() const { return buckets_; }
  std::atomic<std::uint64_t>* rows() const { return rows_; }
  std::atomic<std::uint64_t>* row(Place place) const { return rows_ + position(place) * row_words_; }
  std::atomic<std::uint32_t>& ordinal(Place place) const { return ordinals_[position(place)]; }

 private:
  Segment(Mapping mapping, std::size_t bucket_count, std::size_t row_words);
  const SegmentHeader& header() const { return *reinterpret_cast<const SegmentHeader*>(mapping_.data()); }
  static std::size_t position(Place place) { return place.bucket * kSlots + place.slot; }

  Mapping mapping_;
  std::size_t bucket_count_;
  std::size_t row_words_;
  Bucket* buckets_;
  std::atomic<std::uint64_t>* rows_;
  std::atomic<std::uint32_t>* ordinals_;
};

// The directory file of a table: made, or opened and verified.
Mapping create_directory(TableMemory& memory, RowShape shape, const TableOrigin& origin);
// Throws TableError unless it is whole, valid, and of this boot.
Mapping open_directory(TableMemory& memory, const TableOrigin& origin);

inline Directory& directory_in(const Mapping& mapping) {
  return *reinterpret_cast<Directory*>(mapping.data());
}
// Throws TableError unless `segment` may be what the directory's word `entry` names. The words have no
// checksum, and one that is wrong would send lookups to other signs' rows.
void check_serves(const TableMemory& memory, const Segment& segment, std::size_t entry);
RowShape shape_of(const DirectoryHeader& header);
// Wakes whoever waits for directory.signal, in any process.
void wake_followers(const Directory& directory);

constexpr const char* kSegmentPrefix = "segment-";  // of segments' file names
// The folder of a table in its generation: "16-float32".
std::string table_folder(RowShape shape);
// The shape that a table's folder is named after; nothing if it is none.
std::optional<RowShape> shape_of_folder(const std::string& name);

constexpr const char* kDirectoryFile = "directory";
constexpr const char* kNewDirectoryFile = "directory.new";  // before it is whole

}  // namespace satrap

#endif  // SATRAP_TABLE_SEGMENT_H_
