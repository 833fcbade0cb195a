// Distinct signs in order of first insertion, and the way from a sign to its number there.
//
// Open addressing over numbers of signs, at most two thirds full, for one request: it never grows, and goes
// with the request. The hash is seeded with the address of the table, which a sender of ids cannot know.
#ifndef SATRAP_SIGN_INDEX_H_
#define SATRAP_SIGN_INDEX_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace satrap {

class SignIndex {
 public:
  // Room for `capacity` distinct signs, fewer than 2^31.
  explicit SignIndex(std::size_t capacity)
      : numbers_(std::bit_ceil(capacity + capacity / 2 + 1)),
        mask_(numbers_.size() - 1),
        seed_(reinterpret_cast<std::uintptr_t>(numbers_.data())) {
    signs_.reserve(capacity);
  }

  // The number of `sign`, which is size() - 1 if it is new.
  std::uint32_t insert(std::uint64_t sign) {
    for (std::size_t at = hash(sign);; ++at) {
      std::uint32_t& number = numbers_[at & mask_];
      if (number == 0) {
        signs_.push_back(sign);
        number = static_cast<std::uint32_t>(signs_.size());
        return number - 1;
      }
      if (signs_[number - 1] == sign) return number - 1;
    }
  }

  std::size_t size() const { return signs_.size(); }
  const std::vector<std::uint64_t>& signs() const { return signs_; }
  std::vector<std::uint64_t> take_signs() { return std::move(signs_); }

 private:
  std::size_t hash(std::uint64_t sign) const {
    const auto product = static_cast<unsigned __int128>(sign ^ seed_) * 0x9e3779b97f4a7c15u;
    return static_cast<std::size_t>(product >> 64) ^ static_cast<std::size_t>(product);
  }

  std::vector<std::uint32_t> numbers_;  // of the sign plus one; 0 is empty
  std::size_t mask_;
  std::uint64_t seed_;
  std::vector<std::uint64_t> signs_;
};

}  // namespace satrap

#endif  // SATRAP_SIGN_INDEX_H_
