#ifndef SATRAP_BYTE_READER_H_
#define SATRAP_BYTE_READER_H_

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace satrap {

// Bytes are not what they should be: what is wrong, where (from the start of the bytes), in which field.
struct DecodeError : std::runtime_error {
  DecodeError(const std::string& message, std::size_t at, std::string name)
      : std::runtime_error(message), offset(at), field(std::move(name)) {}

  std::size_t offset;
  std::string field;
};

}  // namespace satrap

#endif  // SATRAP_BYTE_READER_H_
