#include "satrap/table_inspection.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>
#include <vector>

#include "satrap/table_memory.h"
#include "table_segment.h"

namespace satrap {

namespace {

constexpr int kTries = 100;  // a growing table replaces segments while we look

// The segments that the directory names; nothing if one was replaced meanwhile.
std::optional<std::vector<std::shared_ptr<Segment>>> open_segments(TableMemory& memory,
                                                                   const Directory& directory,
                                                                   RowShape shape) {
  const std::string what = memory.describe(kDirectoryFile);
  const std::uint32_t change = directory.change.load(std::memory_order_acquire);
  std::vector<std::shared_ptr<Segment>> segments;
  for (std::size_t entry = 0; entry < kEntries; ++entry) {
    const std::uint32_t number = directory.words[entry].load(std::memory_order_acquire);
    const auto known = std::find_if(segments.begin(), segments.end(),
                                    [number](const auto& segment) { return segment->number() == number; });
    std::shared_ptr<Segment> segment = known != segments.end() ? *known : nullptr;
    if (!segment) {
      segment = Segment::open(memory, directory.header, shape, number);
      if (!segment) {
        if (directory.words[entry].load(std::memory_order_acquire) != number) return std::nullopt;
        throw TableError(what + ": names " + Segment::file_name(number) + ", which is missing");
      }
      segments.push_back(segment);
    }
    if (entry < segment->first_entry() || entry >= segment->end_entry()) {
      throw TableError(what + ": entry " + std::to_string(entry) + " names " + Segment::file_name(number) +
                       ", which serves other entries");
    }
  }
  if (directory.change.load(std::memory_order_acquire) != change) return std::nullopt;
  return segments;
}

void count_buckets(const std::string& what, const Segment& segment, TableInspection& found) {
  for (std::size_t i = 0; i < segment.bucket_count(); ++i) {
    const std::uint64_t header = segment.bucket(i).header.load(std::memory_order_acquire);
    const std::uint64_t occupied = bucket_header::occupied(header);
    const std::uint64_t tombstones = bucket_header::tombstones(header);
    if ((header & bucket_header::kUnused) != 0 || (occupied & tombstones) != 0) {
      throw TableError(what + ": the header of bucket " + std::to_string(i) + " is damaged");
    }
    found.occupied += static_cast<unsigned>(std::popcount(occupied));
    found.tombstones += static_cast<unsigned>(std::popcount(tombstones));
    found.overflowed += (header & bucket_header::kOverflow) != 0;
    found.changing += bucket_header::is_changing(header);
  }
  found.slots += segment.bucket_count() * kSlots;
}

}  // namespace

TableInspection inspect_table(const std::string& folder, bool count_slots) {
  const auto memory = read_only_folder_memory(folder);
  TableOrigin origin;  // whichever it is: it must be the same everywhere
  if (const auto header = memory->open(kDirectoryFile);
      header && header->bytes() >= sizeof(DirectoryHeader)) {
    const auto& words = *reinterpret_cast<const DirectoryHeader*>(header->data());
    origin = {words.boot, words.generation};
  }
  const Mapping mapping = open_directory(*memory, origin);
  const Directory& directory = directory_in(mapping);
  TableInspection found{.shape = shape_of(directory.header), .boot = origin.boot};

  std::optional<std::vector<std::shared_ptr<Segment>>> segments;
  for (int tries = 0; !segments; ++tries) {
    if (tries == kTries) throw TableError(folder + ": changes faster than it can be looked at; try again");
    segments = open_segments(*memory, directory, found.shape);
  }
  found.rows = directory.rows.load(std::memory_order_acquire);
  found.segments = segments->size();
  for (const auto& segment : *segments) {
    if (!count_slots) break;
    count_buckets(memory->describe(Segment::file_name(segment->number())), *segment, found);
  }
  for (const std::string& name : memory->names()) {
    struct stat status{};
    if (::stat(memory->describe(name).c_str(), &status) == 0) {
      found.bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
  }
  return found;
}

}  // namespace satrap
