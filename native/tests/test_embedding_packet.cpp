// PERSIA's .inc files: what is read, and that no damage makes it read or allocate beyond the file.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "check.h"
#include "satrap/embedding_packet.h"

namespace {

using namespace satrap;

// A file, field by field.
class PacketBuilder {
 public:
  explicit PacketBuilder(std::uint32_t n) { put(n); }

  PacketBuilder& entry(std::uint64_t sign, std::uint64_t dim, std::uint32_t inner_len) {
    put(inner_len);
    for (std::uint32_t i = 0; i < inner_len; ++i) put(static_cast<float>(sign) + static_cast<float>(i));
    put(dim);
    put(sign);
    return *this;
  }
  std::vector<std::byte> ending(std::uint64_t unix_seconds) {
    put(unix_seconds);
    return bytes_;
  }

 private:
  template <class T>
  void put(T value) {
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), from, from + sizeof(value));
  }

  std::vector<std::byte> bytes_;
};

std::vector<std::byte> small_packet() {
  return PacketBuilder(4).entry(10, 2, 4).entry(11, 3, 3).entry(10, 2, 2).entry(12, 2, 5).ending(1234);
}

// At the end of an allocation of its own, where a sanitizer sees a read behind it.
EmbeddingPacket read(const std::vector<std::byte>& file, std::size_t size, ShardRoute route = {}) {
  const auto copy = std::make_unique<std::byte[]>(size);
  std::memcpy(copy.get(), file.data(), size);
  return read_embedding_packet(std::span<const std::byte>(copy.get(), size), route);
}
EmbeddingPacket read(const std::vector<std::byte>& file, ShardRoute route = {}) {
  return read(file, file.size(), route);
}

void test_rows_without_the_optimizer() {
  const EmbeddingPacket packet = read(small_packet());
  CHECK(packet.unix_seconds == 1234);
  CHECK((packet.entries_by_dim == std::map<std::uint64_t, std::uint64_t>{{2, 3}, {3, 1}}));
  CHECK((packet.rows_by_dim.at(2).signs == std::vector<std::uint64_t>{10, 10, 12}));
  CHECK((packet.rows_by_dim.at(2).values == std::vector<float>{10, 11, 10, 11, 12, 13}));
  CHECK((packet.rows_by_dim.at(3).values == std::vector<float>{11, 12, 13}));
}

void test_each_row_belongs_to_one_shard() {
  std::size_t rows = 0;
  for (std::uint32_t index = 0; index < 3; ++index) {
    const ShardRoute route{index, 3};
    const EmbeddingPacket packet = read(small_packet(), route);
    CHECK(packet.entries_by_dim.at(2) == 3);
    for (const auto& [dim, own] : packet.rows_by_dim) {
      CHECK(own.values.size() == own.signs.size() * dim);
      for (const std::uint64_t sign : own.signs) CHECK(route.owns(sign));
      rows += own.signs.size();
    }
  }
  CHECK(rows == 4);
}

void test_cut_at_any_length() {
  const std::vector<std::byte> file = small_packet();
  for (std::size_t size = 0; size < file.size(); ++size) CHECK_THROWS(DecodeError, read(file, size));
  std::vector<std::byte> longer = file;
  longer.push_back(std::byte{0});
  CHECK_THROWS(DecodeError, read(longer));
}

void test_counts_that_lie() {
  CHECK_THROWS(DecodeError, read(PacketBuilder(0xffffffffu).entry(1, 1, 1).ending(1)));
  CHECK_THROWS(DecodeError, read(PacketBuilder(1).entry(1, 0, 1).ending(1)));
  CHECK_THROWS(DecodeError, read(PacketBuilder(1).entry(1, 2, 1).ending(1)));
  CHECK_THROWS(DecodeError, read(PacketBuilder(1).entry(1, kMaxDim + 1, kMaxDim + 1).ending(1)));
  CHECK_THROWS(DecodeError, read(PacketBuilder(1).entry(1, ~std::uint64_t{0}, 1).ending(1)));
  CHECK(read(PacketBuilder(1).entry(1, kMaxDim, kMaxDim).ending(1)).rows_by_dim.at(kMaxDim).signs.size() ==
        1);
}

void test_damage_of_any_kind() {
  std::mt19937_64 random(7);
  const std::vector<std::byte> good = small_packet();
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bad = good;
    for (std::uint64_t flips = 1 + random() % 4; flips > 0; --flips) {
      bad[random() % bad.size()] = static_cast<std::byte>(random());
    }
    if (random() % 3 == 0) bad.resize(random() % bad.size());
    try {
      const EmbeddingPacket packet = read(bad);
      std::uint64_t entries = 0, rows = 0;
      for (const auto& [dim, n] : packet.entries_by_dim) entries += n;
      for (const auto& [dim, own] : packet.rows_by_dim) rows += own.signs.size();
      CHECK(entries == rows && rows * 20 <= bad.size());
    } catch (const DecodeError& error) {
      CHECK(error.offset <= bad.size());
    }
  }
}

}  // namespace

int main() {
  test_rows_without_the_optimizer();
  test_each_row_belongs_to_one_shard();
  test_cut_at_any_length();
  test_counts_that_lie();
  test_damage_of_any_kind();
  std::puts("embedding_packet: ok");
}
