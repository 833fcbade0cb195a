// Distinct signs in order of first insertion, and the way from a sign to its number there.
//
// Open addressing over numbers of signs, at most two thirds full, for one request: it never grows, and goes
// with the request. The hash is seeded with the address of the table, which a sender of ids cannot know.
#ifndef SATRAP_SIGN_INDEX_H_
#define SATRAP_SIGN_INDEX_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace satrap {

class SignIndex {
 public:
  // Room for `capacity` distinct signs, fewer than 2^31.
  explicit SignIndex(std::size_t capacity)
      : numbers_(std::bit_ceil(capacity + capacity / 2 + 1)),
        mask_(numbers_.size() - 1),
        seed_(reinterpret_cast<std::uintptr_t>(numbers_.data())),
        signs_(capacity + 1) {}

  // The number of `sign`, which is size() - 1 if it is new.
  //
  // Whether it is new is a coin toss to the branch predictor, and asking cost half of the time. So the sign
  // is written behind the others in any case, an empty place counts as its number, and the one question left,
  // whether that number's sign is the one sought, nearly always has the same answer.
  std::uint32_t insert(std::uint64_t sign) {
    signs_[size_] = sign;
    for (std::size_t at = hash(sign);; ++at) {
      std::uint32_t& number = numbers_[at & mask_];
      const std::uint32_t is_new = number == 0;
      const std::uint32_t candidate = number - 1 + is_new * (size_ + 1);
      if (signs_[candidate] == sign) {
        number = candidate + 1;
        size_ += is_new;
        return candidate;
      }
    }
  }

  std::size_t size() const { return size_; }
  std::span<const std::uint64_t> signs() const { return {signs_.data(), size_}; }
  std::vector<std::uint64_t> take_signs() {
    signs_.resize(size_);
    return std::move(signs_);
  }

 private:
  std::size_t hash(std::uint64_t sign) const {
    const auto product = static_cast<unsigned __int128>(sign ^ seed_) * 0x9e3779b97f4a7c15u;
    return static_cast<std::size_t>(product >> 64) ^ static_cast<std::size_t>(product);
  }

  std::vector<std::uint32_t> numbers_;  // of the sign plus one; 0 is empty
  std::size_t mask_;
  std::uint64_t seed_;
  std::vector<std::uint64_t> signs_;  // `size_` of them, and room for the one that is asked for
  std::uint32_t size_ = 0;
};

}  // namespace satrap

#endif  // SATRAP_SIGN_INDEX_H_
