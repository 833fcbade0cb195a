#include "satrap/embedding_packet.h"

#include <array>
#include <cstring>
#include <string>

#include "satrap/id_kernels.h"
#include "satrap/table_layout.h"

namespace satrap {
namespace {

constexpr std::size_t kLeastEntry = 20;  // one without values
constexpr std::size_t kTimeBytes = sizeof(std::uint64_t);

struct Entry {
  std::uint64_t sign;
  std::size_t dim;
  const std::byte* values;  // dim floats, unaligned
};

// The entry at `at`, whose lengths were proved.
Entry entry_at(const std::byte* at, std::size_t inner_len) {
  const std::byte* const tail = at + 4 + inner_len * sizeof(float);
  return {load<std::uint64_t>(tail + 8), static_cast<std::size_t>(load<std::uint64_t>(tail)), at + 4};
}

Entry checked_entry(ByteReader& reader, std::uint32_t index) {
  const std::size_t at = reader.offset();
  const auto inner_len = reader.read_u32("an entry's number of floats");
  if (reader.remaining() < 16 || inner_len > (reader.remaining() - 16) / sizeof(float)) {
    reader.fail("entry " + std::to_string(index) + " promises " + std::to_string(inner_len) +
                    " floats, but the file ends before them",
                at);
  }
  const std::byte* const values = reader.take(inner_len * sizeof(float), "values").data();
  const std::size_t dim_at = reader.offset();
  const auto dim = reader.read_u64("dim");
  if (dim < 1 || dim > kMaxDim || dim > inner_len) {
    reader.fail("entry " + std::to_string(index) + " has an embedding of dim " + std::to_string(dim) +
                    " in " + std::to_string(inner_len) + " floats; it must be 1 to " +
                    std::to_string(kMaxDim) + ", and in them",
                dim_at);
  }
  return {reader.read_u64("sign"), static_cast<std::size_t>(dim), values};
}

}  // namespace

EmbeddingPacket read_embedding_packet(std::span<const std::byte> file, ShardRoute route) {
  ByteReader reader(file);
  reader.set_field("entries");
  const auto n = static_cast<std::uint32_t>(reader.read_count("entries", kLeastEntry));
  const ShardOfSign shard_of(route.size);
  // First all is proved and counted, then memory is taken for what is there.
  std::array<std::uint64_t, kMaxDim + 1> entries{}, owned{};
  const std::size_t begin = reader.offset();
  for (std::uint32_t i = 0; i < n; ++i) {
    const Entry entry = checked_entry(reader, i);
    ++entries[entry.dim];
    owned[entry.dim] += shard_of(entry.sign) == route.index;
  }
  reader.set_field("unix_seconds");
  EmbeddingPacket packet;
  packet.unix_seconds = reader.read_u64("the time at the end");
  if (reader.remaining() != 0) {
    reader.set_field("end");
    reader.fail(std::to_string(reader.remaining()) + " bytes follow the time, which must end the file");
  }

  struct Target {
    std::uint64_t* signs;
    float* values;
  };
  std::array<Target, kMaxDim + 1> targets{};
  for (std::size_t dim = 1; dim <= kMaxDim; ++dim) {
    if (entries[dim] == 0) continue;
    packet.entries_by_dim[dim] = entries[dim];
    if (owned[dim] == 0) continue;
    EmbeddingPacket::Rows& rows = packet.rows_by_dim[dim];
    rows.signs.resize(owned[dim]);
    rows.values.resize(owned[dim] * dim);
    targets[dim] = {rows.signs.data(), rows.values.data()};
  }
  const std::byte* at = file.data() + begin;
  for (std::uint32_t i = 0; i < n; ++i) {
    const auto inner_len = load<std::uint32_t>(at);
    const Entry entry = entry_at(at, inner_len);
    at += kLeastEntry + std::size_t{inner_len} * sizeof(float);
    if (shard_of(entry.sign) != route.index) continue;
    Target& target = targets[entry.dim];
    *target.signs++ = entry.sign;
    std::memcpy(target.values, entry.values, entry.dim * sizeof(float));
    target.values += entry.dim;
  }
  return packet;
}

}  // namespace satrap
