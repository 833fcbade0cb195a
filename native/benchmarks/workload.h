// What is looked up: signs of a table's rows, and batches of them drawn evenly or by Zipf's law. Everything
// follows from the seed.
#ifndef SATRAP_BENCHMARKS_WORKLOAD_H_
#define SATRAP_BENCHMARKS_WORKLOAD_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace satrap::benchmarks {

// Numbers that look random, quickly: xoshiro256++.
class Random {
 public:
  explicit Random(std::uint64_t seed);
  std::uint64_t next();
  std::size_t below(std::size_t limit) {
    return static_cast<std::size_t>((static_cast<unsigned __int128>(next()) * limit) >> 64);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // in [0, 1)

 private:
  std::uint64_t state_[4];
};

// 0 ... count - 1 in random order.
std::vector<std::uint32_t> permutation(std::size_t count, Random& random);

// Ranks 0 ... count - 1, drawn with probability proportional to (rank + 1) ^ -exponent.
class Zipf {
 public:
  Zipf(std::size_t count, double exponent);
  std::size_t draw(Random& random) const;

 private:
  std::vector<double> cumulative_;
};

// The sign of row `row`: three features, as PERSIA's prefixes have them.
constexpr std::uint64_t sign_of(std::size_t row) {
  return (static_cast<std::uint64_t>(row % 3 + 1) << 56) + row / 3;
}

// Value `column` of row `row`.
constexpr float value_of(std::size_t row, std::size_t column) {
  return static_cast<float>(row % 65'521) + static_cast<float>(column) / 64;
}

// Batches of equal size: which rows, and their signs.
struct Batches {
  std::string name;
  std::size_t size;
  std::vector<std::uint32_t> rows;   // count x size
  std::vector<std::uint64_t> signs;  // the same

  std::size_t count() const { return rows.size() / size; }
  const std::uint32_t* rows_at(std::size_t batch) const { return rows.data() + batch * size; }
  const std::byte* signs_at(std::size_t batch) const {
    return reinterpret_cast<const std::byte*>(signs.data() + batch * size);
  }
};

// Rows drawn evenly, or (exponent > 0) by Zipf's law, where which row is popular is random.
Batches draw_batches(std::size_t table_rows, double exponent, std::size_t count, std::size_t size,
                     Random& random);

}  // namespace satrap::benchmarks

#endif  // SATRAP_BENCHMARKS_WORKLOAD_H_
