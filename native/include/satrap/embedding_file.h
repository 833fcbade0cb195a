// PERSIA's .emb files: one internal shard of one replica's table, as PERSIA's linked list was in memory.
//
//     header   u64 count | u32 first | u32 last | u32 free | u32 end | u32 nodes                 28 bytes
//     node     u32 next | u32 previous | u8 live | entry, if live                                9 bytes +
//     entry entry    u32 inner_len | inner_len x f32 | u64 dim | u64 sign                              20 + 4
//     inner_len
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
// with the offset. Nothing keeps a reference to the bytes; they must not change meanwhile.
#ifndef SATRAP_EMBEDDING_FILE_H_
#define SATRAP_EMBEDDING_FILE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "satrap/byte_reader.h"
#include "satrap/table.h"

namespace satrap {

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

// Reads the whole file and counts. Throws DecodeError.
EmbeddingFileSummary summarize_embedding_file(std::span<const std::byte> file, ShardRoute route);

// Upserts the route's rows into the table of their dim, in the order of the file. Returns how many rows the
// route has. Throws DecodeError (some of the rows before that place are in the tables), std::invalid_argument
// if a dim has no table.
std::size_t load_embedding_file(std::span<const std::byte> file, ShardRoute route,
                                std::span<Table* const> tables, std::uint32_t ordinal);

struct EmbeddingEntries {
  std::vector<std::uint64_t> signs;
  std::vector<std::uint32_t> dims;
  std::vector<std::uint32_t> inner_lens;  // floats in the file, the optimizer's included
  std::vector<float> values;              // the rows, one after the other: sum of dims floats
};

// Every live entry, in the order of the file. Throws DecodeError.
EmbeddingEntries read_embedding_file(std::span<const std::byte> file);

}  // namespace satrap

#endif  // SATRAP_EMBEDDING_FILE_H_
