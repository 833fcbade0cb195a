// PERSIA's .inc files: the rows that changed in one trainer, as one of its incremental dumps wrote them.
//
//     u32 n | n x entry | u64 unix_seconds
//     entry   u32 inner_len | inner_len x f32 | u64 dim | u64 sign        20 + 4 inner_len
//
// All little-endian, without padding. The embedding is the first `dim` floats of an entry, the rest is the
// optimizer's and is not read. The time is the last thing in the file and has to end where the file ends, so
// a file that is still being written never passes.
#ifndef SATRAP_EMBEDDING_PACKET_H_
#define SATRAP_EMBEDDING_PACKET_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "satrap/byte_reader.h"
#include "satrap/embedding_file.h"

namespace satrap {

struct EmbeddingPacket {
  struct Rows {
    std::vector<std::uint64_t> signs;
    std::vector<float> values;  // signs.size() x dim
  };

  std::uint64_t unix_seconds = 0;
  std::map<std::uint64_t, Rows> rows_by_dim;              // of the route, in the order of the file
  std::map<std::uint64_t, std::uint64_t> entries_by_dim;  // of every shard
};

// Reads a whole file, proving every length before it is used or memory is taken for it. Throws DecodeError.
EmbeddingPacket read_embedding_packet(std::span<const std::byte> file, ShardRoute route);

}  // namespace satrap

#endif  // SATRAP_EMBEDDING_PACKET_H_
