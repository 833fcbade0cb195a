#include "table_segment.h"

#include <linux/futex.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>

namespace satrap {
namespace {

template <class Header>
std::span<const std::byte> summed_bytes(const Header& header) {
  return {reinterpret_cast<const std::byte*>(&header), offsetof(Header, sum)};
}

TableId random_id() {
  TableId id;
  if (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
    throw TableError("the kernel gives no random bytes");
  }
  return id;
}

// What both kinds of file are checked for first: that there is a header, that it is one of ours, and
// unchanged.
template <class Header>
void check_header(const std::string& what, const Mapping& mapping) {
  if (mapping.bytes() < kPageBytes) {
    throw TableError(what + ": truncated: it has " + std::to_string(mapping.bytes()) +
                     " bytes, less than a header page");
  }
  const auto& header = *reinterpret_cast<const Header*>(mapping.data());
  if (header.magic != Header::kMagic) throw TableError(what + ": is no file of a satrap table");
  if (header.layout != kTableLayout) {
    throw TableError(what + ": has layout " + std::to_string(header.layout) +
                     ", this version of satrap knows layout " + std::to_string(kTableLayout));
  }
  if (header.sum != checksum(summed_bytes(header)))
    throw TableError(what + ": the checksum of its header is wrong");
  if (header.file_bytes != mapping.bytes()) {
    throw TableError(what + ": truncated: it has " + std::to_string(mapping.bytes()) +
                     " bytes, its header says " + std::to_string(header.file_bytes));
  }
}

}  // namespace

Segment::Segment(Mapping mapping, std::size_t bucket_count, std::size_t row_words)
    : mapping_(std::move(mapping)), bucket_count_(bucket_count), row_words_(row_words) {
  const SegmentLayout layout = segment_layout(bucket_count, row_words);
  buckets_ = reinterpret_cast<Bucket*>(mapping_.data() + layout.buckets);
  rows_ = reinterpret_cast<std::atomic<std::uint64_t>*>(mapping_.data() + layout.rows);
  ordinals_ = reinterpret_cast<std::atomic<std::uint32_t>*>(mapping_.data() + layout.ordinals);
}

std::string Segment::file_name(std::uint32_t number) {
  char name[32];
  std::snprintf(name, sizeof name, "%s%08x", kSegmentPrefix, number);
  return name;
}

std::shared_ptr<Segment> Segment::create(TableMemory& memory, const DirectoryHeader& directory,
                                         RowShape shape, std::uint32_t number, std::uint32_t first_entry,
                                         std::uint32_t end_entry, std::size_t bucket_count) {
  const std::size_t bytes = segment_layout(bucket_count, shape.words()).end;
  Mapping mapping = memory.create(file_name(number), bytes);
  auto* const header = new (mapping.data()) SegmentHeader{SegmentHeader::kMagic,
                                                          kTableLayout,
                                                          number,
                                                          directory.table,
                                                          directory.boot,
                                                          first_entry,
                                                          end_entry,
                                                          bucket_count,
                                                          shape.words(),
                                                          bytes,
                                                          mapping.is_huge(),
                                                          0,
                                                          0};
  header->sum = checksum(summed_bytes(*header));
  return std::shared_ptr<Segment>(new Segment(std::move(mapping), bucket_count, shape.words()));
}

std::shared_ptr<Segment> Segment::open(TableMemory& memory, const DirectoryHeader& directory, RowShape shape,
                                       std::uint32_t number) {
  std::optional<Mapping> mapping = memory.open(file_name(number));
  if (!mapping) return nullptr;
  const std::string what = memory.describe(file_name(number));
  check_header<SegmentHeader>(what, *mapping);
  const auto& header = *reinterpret_cast<const SegmentHeader*>(mapping->data());
  if (header.table != directory.table) throw TableError(what + ": belongs to another table");
  if (header.boot != directory.boot) throw TableError(what + ": is from before the machine's last start");
  if (header.number != number || header.row_words != shape.words() ||
      header.first_entry >= header.end_entry || header.end_entry > kEntries || header.bucket_count == 0 ||
      header.bucket_count > mapping->bytes() / sizeof(Bucket) ||
      segment_layout(header.bucket_count, header.row_words).end != header.file_bytes) {
    throw TableError(what + ": its header contradicts itself");
  }
  const std::size_t bucket_count = header.bucket_count;
  mapping->set_huge(header.huge != 0);
  return std::shared_ptr<Segment>(new Segment(std::move(*mapping), bucket_count, shape.words()));
}

Mapping create_directory(TableMemory& memory, RowShape shape, const TableOrigin& origin) {
  memory.remove(kNewDirectoryFile);
  Mapping mapping = memory.create(kNewDirectoryFile, kDirectoryBytes);
  auto* const directory = new (mapping.data()) Directory{};
  DirectoryHeader& header = directory->header;
  header = {DirectoryHeader::kMagic,
            kTableLayout,
            static_cast<std::uint32_t>(shape.dim),
            static_cast<std::uint32_t>(shape.type),
            0,
            random_id(),
            origin.boot,
            origin.generation,
            kDirectoryBytes,
            0};
  header.sum = checksum(summed_bytes(header));
  directory->next_segment.store(1, std::memory_order_relaxed);
  return mapping;
}

Mapping open_directory(TableMemory& memory, const TableOrigin& origin) {
  const std::string what = memory.describe(kDirectoryFile);
  std::optional<Mapping> mapping = memory.open(kDirectoryFile);
  if (!mapping) throw TableError(what + ": is missing");
  check_header<DirectoryHeader>(what, *mapping);
  const auto& header = *reinterpret_cast<const DirectoryHeader*>(mapping->data());
  if (header.boot != origin.boot) throw TableError(what + ": is from before the machine's last start");
  if (header.generation != origin.generation) throw TableError(what + ": belongs to another generation");
  if (header.file_bytes != kDirectoryBytes || header.dim < 1 || header.dim > kMaxDim ||
      header.row_type > static_cast<std::uint32_t>(RowType::kFloat16)) {
    throw TableError(what + ": its header contradicts itself");
  }
  return std::move(*mapping);
}

void check_serves(const TableMemory& memory, const Segment& segment, std::size_t entry) {
  if (segment.serves(entry)) return;
  throw TableError(memory.describe(kDirectoryFile) + ": entry " + std::to_string(entry) + " names " +
                   Segment::file_name(segment.number()) + ", which serves others");
}

void wake_followers(const Directory& directory) {
  static_cast<void>(::syscall(SYS_futex, &directory.signal, FUTEX_WAKE, std::numeric_limits<int>::max(),
                              nullptr, nullptr, 0));
}

RowShape shape_of(const DirectoryHeader& header) {
  return {header.dim, static_cast<RowType>(header.row_type)};
}

std::string table_folder(RowShape shape) {
  return std::to_string(shape.dim) + (shape.type == RowType::kFloat32 ? "-float32" : "-float16");
}

std::optional<RowShape> shape_of_folder(const std::string& name) {
  std::size_t dim = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), dim);
  if (error != std::errc() || dim < 1 || dim > kMaxDim) return std::nullopt;
  for (const RowType type : {RowType::kFloat32, RowType::kFloat16}) {
    if (name == table_folder({dim, type})) return RowShape{dim, type};
  }
  return std::nullopt;
}

}  // namespace satrap
