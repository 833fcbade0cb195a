#include "satrap/byte_reader.h"

namespace satrap {

std::string_view ByteReader::read_string(const char* what) {
  const std::size_t at = offset_;
  const auto bytes = take(read_count(what, 1), what);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!is_utf8(text)) fail(std::string(what) + " is not UTF-8", at);
  return text;
}

void ByteReader::fail(const std::string& message, std::size_t at) const {
  throw DecodeError(message, at, field_);
}

void ByteReader::fail_end(const char* what, std::size_t needed) const {
  fail("the bytes end inside " + std::string(what) + ": " + std::to_string(needed) + " needed, " +
       std::to_string(remaining()) + " there");
}

void ByteReader::fail_count(const char* what, std::size_t at, std::size_t n,
                            std::size_t min_item_size) const {
  fail(std::string(what) + " says " + std::to_string(n) + " items of " + std::to_string(min_item_size) +
           " bytes or more, but " + std::to_string(remaining()) + " bytes are there",
       at);
}

bool is_utf8(std::string_view text) {
  const auto* at = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = at + text.size();
  const auto continues = [](unsigned char byte) { return (byte & 0xc0u) == 0x80u; };
  while (at != end) {
    const unsigned char lead = *at++;
    if (lead < 0x80u) continue;
    // The second byte's range excludes overlong forms (E0, F0), surrogates (ED) and what is too great (F4).
    unsigned char low = 0x80u;
    unsigned char high = 0xbfu;
    int more = 0;
    if (lead >= 0xc2u && lead <= 0xdfu) {
      more = 1;
    } else if (lead >= 0xe0u && lead <= 0xefu) {
      more = 2;
      if (lead == 0xe0u) low = 0xa0u;
      if (lead == 0xedu) high = 0x9fu;
    } else if (lead >= 0xf0u && lead <= 0xf4u) {
      more = 3;
      if (lead == 0xf0u) low = 0x90u;
      if (lead == 0xf4u) high = 0x8fu;
    } else {
      return false;
    }
    if (end - at < more || *at < low || *at > high) return false;
    for (int i = 1; i < more; ++i) {
      if (!continues(at[i])) return false;
    }
    at += more;
  }
  return true;
}

}  // namespace satrap
