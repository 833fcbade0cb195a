// PERSIA's .emb files: one internal shard of one replica's table, as PERSIA's linked list was in memory.
//
//     header   u64 count | u32 first | u32 last | u32 free | u32 end | u32 nodes      28 bytes
//     node     u32 next | u32 previous | u8 live | entry, if live                     9 bytes + entry
//     entry    u32 inner_len | inner_len x f32 | u64 dim | u64 sign                   20 + 4 inner_len
//
// All little-endian, without padding; indices are 1-based positions in the file, 0 is none. The embedding is
// the first `dim` floats of an entry, the rest is the optimizer's and is not read. PERSIA preallocates its
// list and writes every node of it, so most of a file may be free nodes of 9 bytes.
//
// Every live node is taken, whatever count and links say: PERSIA's eviction puts wrong nodes on its free
// list, after which both are wrong while the entries are right. `summarize` tells when that has happened.
//
// A file is proved good while it is read: sizes are compared with the bytes that are there before anything is
// allocated or read, and the last node has to end where the file ends. What does not hold is a DecodeError
// with the offset.
#ifndef SATRAP_EMBEDDING_FILE_H_
#define SATRAP_EMBEDDING_FILE_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

#include "satrap/byte_reader.h"
#include "satrap/table.h"

namespace satrap {

// A file's bytes: in memory, or behind a descriptor, from which they are read piece by piece. Reading costs
// no more than a mapping would, and a file that shrinks meanwhile is a DecodeError; a mapping of it would end
// the process.
class EmbeddingFile {
 public:
  // Bytes that outlive this object and do not change.
  template <std::convertible_to<std::span<const std::byte>> Bytes>
  EmbeddingFile(const Bytes& bytes) : memory_(bytes), size_(memory_.size()) {}
  // A regular file, which stays the caller's; its offset is neither used nor moved. What is appended to it
  // from now on is not read. Throws std::system_error.
  static EmbeddingFile open(int descriptor);

  std::size_t size() const { return size_; }

 private:
  friend class FileWindow;
  EmbeddingFile(int descriptor, std::size_t size) : descriptor_(descriptor), size_(size) {}

  std::span<const std::byte> memory_;
  int descriptor_ = -1;
  std::size_t size_;
};

// Which signs are wanted: those of shard `index` of `size`, by PERSIA's rule farmhash64(sign) % size.
struct ShardRoute {
  std::uint32_t index = 0;
  std::uint32_t size = 1;

  bool owns(std::uint64_t sign) const;
};

struct EmbeddingFileSummary {
  std::uint64_t count = 0;                             // what the header says
  std::uint64_t nodes = 0;                             // live and free
  std::uint64_t live = 0;                              // what is there, of every shard
  std::map<std::uint64_t, std::uint64_t> rows_by_dim;  // of the route
  // Live nodes that PERSIA's own loader would find by the links; counted only if `count` is not `live`.
  std::optional<std::uint64_t> linked;
};

// Rows that a file has if all of its entries are like its first ones.
struct EmbeddingFileEstimate {
  std::uint64_t dim = 0;  // 0 if there are no rows
  std::uint64_t rows = 0;
};

// From the size of the file and its first live nodes, without reading the rest; neither `count` nor `nodes`
// by itself says anything. Nothing if the first ones differ, or lie too far behind, or if the size is not
// that of entries which are all alike: such a file has to be summarized. Throws DecodeError,
// std::system_error.
std::optional<EmbeddingFileEstimate> estimate_embedding_file(const EmbeddingFile& file);

// Reads the whole file and counts. Throws DecodeError, std::system_error.
EmbeddingFileSummary summarize_embedding_file(const EmbeddingFile& file, ShardRoute route);

// A file has rows of a dim for which no table was given.
struct MissingDimError : std::invalid_argument {
  explicit MissingDimError(std::uint64_t dim);
};

// Inserts the route's rows into the table of their dim, in the order of the file, and counts as summarize
// does. The tables are being loaded (Table::bulk_insert), by any number of threads. Throws DecodeError,
// MissingDimError, std::system_error, TableSpaceError: some of the rows before are in the tables, and the
// file may be loaded again.
EmbeddingFileSummary load_embedding_file(const EmbeddingFile& file, ShardRoute route,
                                         std::span<Table* const> tables, std::uint32_t ordinal);

struct EmbeddingEntries {
  std::vector<std::uint64_t> signs;
  std::vector<std::uint32_t> dims;
  std::vector<std::uint32_t> inner_lens;  // floats in the file, the optimizer's included
  std::vector<float> values;              // the rows, one after the other: sum of dims floats
};

// Every live entry, in the order of the file. Throws DecodeError, std::system_error.
EmbeddingEntries read_embedding_file(const EmbeddingFile& file);

}  // namespace satrap

#endif  // SATRAP_EMBEDDING_FILE_H_
