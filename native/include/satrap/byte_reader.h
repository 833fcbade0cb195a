// A bounds-checked cursor over bytes that somebody else wrote: little-endian scalars, and counts that are
// compared with what is left before anyone allocates for them. It never reads past the end; what does not fit
// is a DecodeError.
//
// The bytes are borrowed and must outlive the reader. One thread uses a reader at a time.
#ifndef SATRAP_BYTE_READER_H_
#define SATRAP_BYTE_READER_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace satrap {

static_assert(std::endian::native == std::endian::little,
              "PERSIA's bytes are read in place as little-endian");

// Bytes are not what they should be: what is wrong, where (from the start of the bytes), in which field.
struct DecodeError : std::runtime_error {
  DecodeError(const std::string& message, std::size_t at, std::string name)
      : std::runtime_error(message), offset(at), field(std::move(name)) {}

  std::size_t offset;
  std::string field;
};

// The scalar at `at`, of any alignment.
template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::size_t offset() const { return offset_; }
  std::size_t remaining() const { return bytes_.size() - offset_; }

  // What errors name from now on: a feature, a tensor.
  void set_field(std::string field) { field_ = std::move(field); }
  const std::string& field() const { return field_; }

  // Each reads one scalar; `what` names it in the error if the bytes end first.
  std::uint8_t read_u8(const char* what) { return read<std::uint8_t>(what); }
  std::uint16_t read_u16(const char* what) { return read<std::uint16_t>(what); }
  std::uint32_t read_u32(const char* what) { return read<std::uint32_t>(what); }
  std::uint64_t read_u64(const char* what) { return read<std::uint64_t>(what); }
  std::int64_t read_i64(const char* what) { return read<std::int64_t>(what); }

  // A u32 that counts items of at least `min_item_size` bytes each; they are known to fit in what remains.
  std::size_t read_count(const char* what, std::size_t min_item_size) {
    const std::size_t at = offset_;
    const std::size_t n = read_u32(what);
    if (n > remaining() / min_item_size) [[unlikely]]
      fail_count(what, at, n, min_item_size);
    return n;
  }

  // A u32 byte count and as many bytes of valid UTF-8. The view is into the borrowed bytes.
  std::string_view read_string(const char* what);

  // The next n bytes.
  std::span<const std::byte> take(std::size_t n, const char* what) {
    if (n > remaining()) [[unlikely]]
      fail_end(what, n);
    const auto taken = bytes_.subspan(offset_, n);
    offset_ += n;
    return taken;
  }

  // Throws a DecodeError at the offset, or at the present one.
  [[noreturn]] void fail(const std::string& message, std::size_t at) const;
  [[noreturn]] void fail(const std::string& message) const { fail(message, offset_); }

 private:
  template <class T>
  T read(const char* what) {
    return load<T>(take(sizeof(T), what).data());
  }

  [[noreturn]] void fail_end(const char* what, std::size_t needed) const;
  [[noreturn]] void fail_count(const char* what, std::size_t at, std::size_t n,
                               std::size_t min_item_size) const;

  std::span<const std::byte> bytes_;
  std::size_t offset_ = 0;
  std::string field_;
};

// Whether the text is UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace satrap

#endif  // SATRAP_BYTE_READER_H_
