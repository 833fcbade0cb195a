#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "check.h"
#include "satrap/embedding_file.h"

namespace {

using satrap::DecodeError;
using satrap::EmbeddingFile;
using satrap::RowType;
using satrap::ShardRoute;
using satrap::Table;

// A .emb file, field by field.
class FileBuilder {
 public:
  FileBuilder(std::uint64_t count, std::uint32_t first, std::uint32_t last, std::uint32_t nodes) {
    put(count);
    put(first);
    put(last);
    put(std::uint32_t{0});
    put(nodes);
    put(nodes);
  }

  FileBuilder& live(std::uint64_t sign, std::uint64_t dim, std::uint32_t inner_len, std::uint32_t next = 0) {
    put(next);
    put(std::uint32_t{0});
    put(std::uint8_t{1});
    put(inner_len);
    for (std::uint32_t i = 0; i < inner_len; ++i) put(static_cast<float>(sign) + static_cast<float>(i));
    put(dim);
    put(sign);
    return *this;
  }

  FileBuilder& free(std::size_t nodes) {
    bytes_.resize(bytes_.size() + 9 * nodes);
    return *this;
  }

  std::vector<std::byte> bytes() const { return bytes_; }

 private:
  template <class T>
  void put(T value) {
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), from, from + sizeof(value));
  }

  std::vector<std::byte> bytes_;
};

std::vector<std::byte> small_file() {
  return FileBuilder(4, 1, 5, 40)
      .live(10, 2, 2, 2)
      .live(11, 2, 5, 4)
      .free(1)
      .live(12, 3, 3, 5)
      .live(13, 2, 2)
      .free(35)
      .bytes();
}

// What a decoder does with `size` bytes at the end of their own allocation, where a sanitizer sees a read
// behind them.
template <class Use>
void with_exact_copy(const std::byte* from, std::size_t size, Use&& use) {
  const auto copy = std::make_unique<std::byte[]>(size);
  std::memcpy(copy.get(), from, size);
  use(std::span<const std::byte>(copy.get(), size));
}

void test_reads_rows_and_drops_the_optimizer() {
  const auto file = small_file();
  const auto entries = satrap::read_embedding_file(file);
  CHECK((entries.signs == std::vector<std::uint64_t>{10, 11, 12, 13}));
  CHECK((entries.dims == std::vector<std::uint32_t>{2, 2, 3, 2}));
  CHECK((entries.inner_lens == std::vector<std::uint32_t>{2, 5, 3, 2}));
  CHECK((entries.values == std::vector<float>{10, 11, 11, 12, 12, 13, 14, 13, 14}));
}

void test_summary_counts_and_trusts_no_header() {
  const auto whole = satrap::summarize_embedding_file(small_file(), {});
  CHECK(whole.count == 4 && whole.live == 4 && whole.nodes == 40 && !whole.linked);
  CHECK(whole.rows_by_dim.at(2) == 3 && whole.rows_by_dim.at(3) == 1);

  const auto damaged = satrap::summarize_embedding_file(FileBuilder(9, 1, 4, 5)
                                                            .live(1, 1, 1, 3)
                                                            .live(2, 1, 1, 1)
                                                            .live(3, 1, 1, 5)
                                                            .live(4, 1, 1)
                                                            .free(1)
                                                            .bytes(),
                                                        {});
  CHECK(damaged.count == 9 && damaged.live == 4);
  CHECK(damaged.linked == 2u);  // 1 -> 3 -> 5, which is free
}

void test_a_walk_in_circles_ends() {
  const auto circle =
      satrap::summarize_embedding_file(FileBuilder(9, 1, 7, 2).live(1, 1, 1, 2).live(2, 1, 1, 1).bytes(), {});
  CHECK(circle.linked == 2u);
}

void test_loads_what_the_route_owns() {
  Table of_two(2, RowType::kFloat32);
  Table of_three(3, RowType::kFloat16);
  Table* const tables[] = {&of_two, &of_three};
  const auto file = small_file();
  std::size_t taken = 0;
  for (std::uint32_t index = 0; index < 3; ++index) {
    const ShardRoute route{index, 3};
    std::size_t owned = 0;
    for (const std::uint64_t sign : {10u, 11u, 12u, 13u}) owned += route.owns(sign);
    std::size_t got = 0;
    for (const auto& [dim, rows] : satrap::load_embedding_file(file, route, tables, 7).rows_by_dim)
      got += rows;
    CHECK(got == owned);
    taken += got;
  }
  CHECK(taken == 4 && of_two.size() == 3 && of_three.size() == 1);
  const std::uint64_t sign = 11;
  float row[2];
  CHECK(of_two.lookup(reinterpret_cast<const std::byte*>(&sign), 1, reinterpret_cast<std::byte*>(row),
                      nullptr) == 0);
  CHECK(row[0] == 11 && row[1] == 12);

  Table* const only_two[] = {&of_two};
  CHECK_THROWS(satrap::MissingDimError, satrap::load_embedding_file(file, {}, only_two, 7));
}

void test_more_rows_than_are_gathered_at_once() {
  FileBuilder builder(2000, 1, 2000, 2000);
  for (std::uint64_t sign = 0; sign < 2000; ++sign) builder.live(sign, 2, 2);
  Table table(2, RowType::kFloat32);
  Table* const tables[] = {&table};
  CHECK(satrap::load_embedding_file(builder.bytes(), {}, tables, 0).rows_by_dim.at(2) == 2000);
  CHECK(table.size() == 2000);
}

void test_cut_at_every_length() {
  const auto file = small_file();
  for (std::size_t size = 0; size < file.size(); ++size) {
    with_exact_copy(file.data(), size, [&](std::span<const std::byte> cut) {
      try {
        satrap::summarize_embedding_file(cut, {});
      } catch (const DecodeError& error) {
        CHECK(error.offset <= size);
        return;
      }
      CHECK(false && "a cut file was taken");
    });
  }
}

void test_flipped_bits_never_read_outside() {
  const auto file = small_file();
  Table of_two(2, RowType::kFloat32);
  Table of_three(3, RowType::kFloat32);
  Table* const tables[] = {&of_two, &of_three};
  for (std::size_t bit = 0; bit < file.size() * 8; ++bit) {
    with_exact_copy(file.data(), file.size(), [&](std::span<const std::byte> copy) {
      auto* bytes = const_cast<std::byte*>(copy.data());
      bytes[bit / 8] ^= std::byte{1} << static_cast<int>(bit % 8);
      try {
        satrap::summarize_embedding_file(copy, {});
        satrap::load_embedding_file(copy, {}, tables, 0);
      } catch (const DecodeError&) {
      } catch (const std::invalid_argument&) {  // a dim became one without a table
      }
    });
  }
}

void test_huge_counts_are_refused_before_any_allocation() {
  CHECK_THROWS(DecodeError,
               satrap::summarize_embedding_file(FileBuilder(1, 1, 1, 0xffffffffu).free(8).bytes(), {}));
  auto file = FileBuilder(1, 1, 1, 1).live(1, 1, 1).bytes();
  const std::uint32_t huge = 0xffffffffu;
  std::memcpy(file.data() + 28 + 9, &huge, sizeof(huge));  // inner_len
  CHECK_THROWS(DecodeError, satrap::read_embedding_file(file));
}

void test_dims_out_of_range() {
  CHECK_THROWS(DecodeError, satrap::read_embedding_file(FileBuilder(1, 1, 1, 1).live(1, 0, 1).bytes()));
  CHECK_THROWS(DecodeError, satrap::read_embedding_file(FileBuilder(1, 1, 1, 1).live(1, 2, 1).bytes()));
  CHECK_THROWS(DecodeError, satrap::read_embedding_file(FileBuilder(1, 1, 1, 1).live(1, 5000, 5000).bytes()));
}

void test_bytes_behind_the_last_node() {
  CHECK_THROWS(DecodeError,
               satrap::read_embedding_file(FileBuilder(1, 1, 1, 1).live(1, 1, 1).free(1).bytes()));
}

void test_every_length_of_a_free_run() {
  for (std::uint32_t before = 0; before < 20; ++before) {
    for (std::uint32_t after = 0; after < 20; ++after) {
      const auto file = FileBuilder(1, before + 1, before + 1, before + 1 + after)
                            .free(before)
                            .live(5, 1, 1)
                            .free(after)
                            .bytes();
      with_exact_copy(file.data(), file.size(), [&](std::span<const std::byte> copy) {
        const auto summary = satrap::summarize_embedding_file(copy, {});
        CHECK(summary.live == 1 && summary.nodes == before + 1 + after && !summary.linked);
      });
    }
  }
}

// A file of its own on disk; it goes with its owner.
class FileOnDisk {
 public:
  explicit FileOnDisk(std::span<const std::byte> bytes) {
    CHECK((descriptor_ = ::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)) >= 0);
    CHECK(::write(descriptor_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  ~FileOnDisk() { ::close(descriptor_); }
  FileOnDisk(const FileOnDisk&) = delete;
  FileOnDisk& operator=(const FileOnDisk&) = delete;

  EmbeddingFile open() const { return EmbeddingFile::open(descriptor_); }
  void cut(std::size_t size) const { CHECK(::ftruncate(descriptor_, static_cast<off_t>(size)) == 0); }

 private:
  int descriptor_;
};

// Larger than the window several times, with runs of free nodes, entries of other lengths, and one that is
// larger than the window by itself.
std::vector<std::byte> large_file() {
  constexpr std::uint32_t kRows = 40'000;
  FileBuilder builder(kRows, 1, kRows, kRows + 300'000);
  for (std::uint32_t row = 0; row < kRows; ++row) {
    if (row == 15'000) {
      builder.live(row, 4, 400'000);
    } else {
      builder.live(row, row % 5'000 < 10 ? 2 : 4, row % 1'000 < 3 ? 5 : 4);
    }
    if (row == 1'000 || row == 30'000) builder.free(150'000);
  }
  return builder.bytes();
}

bool equal(const satrap::EmbeddingEntries& a, const satrap::EmbeddingEntries& b) {
  return a.signs == b.signs && a.dims == b.dims && a.inner_lens == b.inner_lens && a.values == b.values;
}

void test_a_file_that_is_read_is_one_that_is_in_memory() {
  for (const auto& bytes : {small_file(), large_file()}) {
    const FileOnDisk file(bytes);
    CHECK(equal(satrap::read_embedding_file(file.open()), satrap::read_embedding_file(bytes)));
    Table of_two(2, RowType::kFloat32), of_three(3, RowType::kFloat32), of_four(4, RowType::kFloat16);
    Table* const tables[] = {&of_two, &of_three, &of_four};
    const auto loaded = satrap::load_embedding_file(file.open(), {}, tables, 0);
    CHECK(loaded.rows_by_dim == satrap::summarize_embedding_file(bytes, {}).rows_by_dim);
    for (Table* const table : tables) {
      const auto rows = loaded.rows_by_dim.find(table->dim());
      CHECK(table->size() == (rows == loaded.rows_by_dim.end() ? 0 : rows->second));
    }
    const auto entries = satrap::read_embedding_file(bytes);
    for (std::size_t i = 0, at = 0; i < entries.signs.size(); at += entries.dims[i++]) {
      if (entries.dims[i] != 2) continue;
      float row[2];
      CHECK(of_two.lookup(reinterpret_cast<const std::byte*>(&entries.signs[i]), 1,
                          reinterpret_cast<std::byte*>(row), nullptr) == 0);
      CHECK(row[0] == entries.values[at] && row[1] == entries.values[at + 1]);
    }
  }
}

void test_errors_of_a_file_that_is_read() {
  const auto whole = large_file();
  std::mt19937_64 random(5);
  for (int turn = 0; turn < 60; ++turn) {
    auto bytes = whole;
    if (turn % 2) {
      bytes.resize(random() % bytes.size());
    } else {
      bytes[random() % bytes.size()] ^= std::byte{1} << static_cast<int>(random() % 8);
    }
    const FileOnDisk file(bytes);
    std::optional<DecodeError> expected, met;
    satrap::EmbeddingEntries read, in_memory;
    try {
      in_memory = satrap::read_embedding_file(bytes);
    } catch (const DecodeError& error) {
      expected = error;
    }
    try {
      read = satrap::read_embedding_file(file.open());
    } catch (const DecodeError& error) {
      met = error;
    }
    CHECK(met.has_value() == expected.has_value());
    if (met) CHECK(std::string(met->what()) == expected->what() && met->offset == expected->offset);
    CHECK(read.signs == in_memory.signs && read.dims == in_memory.dims);
  }
}

void test_a_file_that_shrinks_while_it_is_read() {
  const auto bytes = large_file();
  for (const std::size_t left : {std::size_t{0}, std::size_t{20}, std::size_t{1} << 20, bytes.size() - 1}) {
    const FileOnDisk file(bytes);
    const EmbeddingFile opened = file.open();
    file.cut(left);
    try {
      satrap::summarize_embedding_file(opened, {});
      CHECK(false && "a file that shrank was taken");
    } catch (const DecodeError& error) {
      CHECK(error.offset == left && std::string(error.field) == "end");
    }
  }
}

void test_a_descriptor_that_cannot_be_read() {
  CHECK_THROWS(std::system_error, EmbeddingFile::open(-1));
  const int directory = ::open("/tmp", O_RDONLY | O_DIRECTORY);
  CHECK(directory >= 0);
  CHECK_THROWS(std::exception, satrap::summarize_embedding_file(EmbeddingFile::open(directory), {}));
  ::close(directory);
}

void test_estimates() {
  const auto estimate = [](const std::vector<std::byte>& bytes) {
    return satrap::estimate_embedding_file(bytes);
  };
  CHECK(estimate(FileBuilder(0, 0, 0, 7).free(7).bytes())->rows == 0);
  const auto alike =
      estimate(FileBuilder(99, 1, 9, 20).live(1, 2, 5).free(8).live(2, 2, 5).free(9).live(3, 2, 5).bytes());
  CHECK(alike && alike->dim == 2 && alike->rows == 3);  // whatever the header counts
  CHECK(!estimate(FileBuilder(2, 1, 2, 2).live(1, 2, 5).live(2, 2, 4).bytes()));
  CHECK(!estimate(FileBuilder(2, 1, 2, 2).live(1, 2, 5).live(2, 3, 5).bytes()));
  // Nothing but free nodes where it looks, or a difference behind: sizes that are not those of rows all
  // alike.
  CHECK(!estimate(FileBuilder(1, 1, 1, 20'001).free(20'000).live(1, 2, 5).bytes()));
  FileBuilder late(101, 1, 101, 101);
  for (std::uint64_t sign = 0; sign < 100; ++sign) late.live(sign, 2, 5);
  CHECK(!estimate(late.live(100, 2, 6).bytes()));
  // A difference that the sizes hide is met when the file is loaded.
  FileBuilder hidden(101, 1, 101, 101);
  for (std::uint64_t sign = 0; sign < 100; ++sign) hidden.live(sign, 2, 5);
  const auto bytes = hidden.live(100, 3, 5).bytes();
  CHECK(estimate(bytes)->rows == 101);
  Table of_two(2, RowType::kFloat32), of_three(3, RowType::kFloat32);
  Table* const only_two[] = {&of_two};
  Table* const both[] = {&of_two, &of_three};
  CHECK_THROWS(satrap::MissingDimError, satrap::load_embedding_file(bytes, {}, only_two, 0));
  CHECK(satrap::load_embedding_file(bytes, {}, both, 0).live == 101);
  CHECK(of_two.size() == 100 && of_three.size() == 1);
  // What is damaged is damaged here, too.
  auto damaged = FileBuilder(1, 1, 1, 1).live(1, 2, 5).bytes();
  damaged[28 + 8] = std::byte{2};
  CHECK_THROWS(DecodeError, estimate(damaged));
  CHECK_THROWS(DecodeError, estimate({}));
}

}  // namespace

int main() {
  test_reads_rows_and_drops_the_optimizer();
  test_summary_counts_and_trusts_no_header();
  test_a_walk_in_circles_ends();
  test_loads_what_the_route_owns();
  test_more_rows_than_are_gathered_at_once();
  test_cut_at_every_length();
  test_flipped_bits_never_read_outside();
  test_huge_counts_are_refused_before_any_allocation();
  test_dims_out_of_range();
  test_bytes_behind_the_last_node();
  test_every_length_of_a_free_run();
  test_a_file_that_is_read_is_one_that_is_in_memory();
  test_errors_of_a_file_that_is_read();
  test_a_file_that_shrinks_while_it_is_read();
  test_a_descriptor_that_cannot_be_read();
  test_estimates();
  std::puts("embedding_file: ok");
}
